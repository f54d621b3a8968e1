"""The estimator's door: what holds for every estimate."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hubvram import estimator
from hubvram.accuracy.library import load
from hubvram.errors import SettingError
from hubvram.plan import methods
from hubvram.plan.settings import Settings

REPOS = ["HuggingFaceTB/SmolLM2-135M", "openai-community/gpt2", "EleutherAI/pythia-1.4b", "mistralai/Mistral-7B-v0.1"]


@pytest.mark.parametrize("repo_id", REPOS)
def test_every_method_adds_up(fixtures_dir: Path, repo_id: str) -> None:
    snapshot = load(fixtures_dir, repo_id)
    applied, estimates = estimator.estimate(snapshot, Settings(), explain=True)
    assert [e.method for e in estimates] == methods.names()
    assert applied["seq_len"] <= 2048
    for e in estimates:
        if e.status == "skipped":
            assert e.reason
            assert e.peak_allocated_bytes is None
            continue
        assert e.breakdown is not None
        assert e.peak_allocated_bytes is not None
        assert e.breakdown.total == e.peak_allocated_bytes, e.method
        assert min(e.breakdown.to_dict().values()) >= 0, e.method
        assert sum(a.bytes for a in e.alive) == e.peak_allocated_bytes, e.method
        assert e.loaded_bytes is not None
        assert e.steady_bytes is not None
        assert e.peak_reserved_bytes is not None
        assert e.total_bytes is not None
        assert e.loaded_bytes <= e.peak_allocated_bytes <= e.peak_reserved_bytes < e.total_bytes, e.method
        assert e.loaded_bytes <= e.steady_bytes <= e.peak_allocated_bytes, e.method
        assert max(m.bytes for m in e.marks) == e.peak_allocated_bytes


def test_the_same_inputs_give_the_same_bytes(fixtures_dir: Path) -> None:
    snapshot = load(fixtures_dir, REPOS[0])
    first = estimator.estimate(snapshot, Settings())
    assert estimator.estimate(snapshot, Settings()) == first


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix_tuning"])
def test_more_tokens_take_more_memory(fixtures_dir: Path, method: str) -> None:
    snapshot = load(fixtures_dir, REPOS[0])

    def total(**given: int) -> int:
        _, [e] = estimator.estimate(snapshot, Settings.from_kwargs(**given), [method])
        assert e.total_bytes is not None
        return e.total_bytes

    assert total(seq_len=512) < total(seq_len=4096) < total(seq_len=4096, batch_size=4)


def test_dtype_auto_is_the_checkpoints(fixtures_dir: Path) -> None:
    assert estimator.base_dtype(load(fixtures_dir, "mistralai/Mistral-7B-v0.1"), "auto") == "bfloat16"
    assert estimator.base_dtype(load(fixtures_dir, "mistralai/Mistral-7B-v0.1"), "float32") == "float32"
    gpt2 = load(fixtures_dir, "openai-community/gpt2")
    assert estimator.base_dtype(gpt2, "auto") == "float32", "no dtype in the config: the header's"


def test_an_unknown_model_type_is_partial_and_says_why(fixtures_dir: Path) -> None:
    known = load(fixtures_dir, "HuggingFaceTB/SmolLM2-135M")
    unknown = replace(known, config={**known.config, "model_type": "never_heard_of"})
    settings = Settings(seq_len=512)
    _, [guess] = estimator.estimate(unknown, settings, ["full"])
    _, [exact] = estimator.estimate(known, settings, ["full"])
    assert guess.status == "partial"
    assert guess.not_counted
    assert "unknown" in (guess.reason or "")
    assert guess.trainable_parameters == exact.trainable_parameters == 134_515_008
    assert guess.peak_allocated_bytes == pytest.approx(exact.peak_allocated_bytes, rel=0.25)
    assert estimator.describe(unknown).family is None


def test_a_model_without_layers_is_skipped(fixtures_dir: Path) -> None:
    known = load(fixtures_dir, "HuggingFaceTB/SmolLM2-135M")
    bare = replace(known, config={}, tensors=known.tensors[:1])
    _, [skipped] = estimator.estimate(bare, Settings(), ["full"])
    assert skipped.status == "skipped"
    assert "model_type" in (skipped.reason or "")


def test_unknown_names_are_errors_that_name_the_nearest(fixtures_dir: Path) -> None:
    snapshot = load(fixtures_dir, REPOS[0])
    with pytest.raises(SettingError, match="lorra") as method:
        estimator.estimate(snapshot, Settings(), ["lorra"])
    assert "lora" in (method.value.hint or "")
    with pytest.raises(SettingError, match="adamw_trch") as optim:
        estimator.estimate(snapshot, Settings(optim="adamw_trch"), ["full"])
    assert "adamw_torch" in (optim.value.hint or "")
    with pytest.raises(SettingError, match="rank") as key:
        estimator.estimate(snapshot, Settings(peft={"rank": 8}), ["lora"])
    assert key.value.hint


def test_the_core_imports_no_network_database_or_command_line() -> None:
    code = (
        "import sys; import hubvram.estimator; from hubvram.plan import methods, optimizers;"
        "methods.methods(); from hubvram.architecture import families; list(families.families());"
        "import hubvram.timeline.phases, hubvram.timeline.reserved;"
        "bad = {'huggingface_hub', 'sqlalchemy', 'alembic', 'click', 'requests', 'httpx', 'httpx2', 'socket', 'torch'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_inference_is_weights_cache_and_a_prefill(fixtures_dir: Path) -> None:
    snapshot = load(fixtures_dir, "mistralai/Mistral-7B-v0.1")
    _, [e] = estimator.estimate(snapshot, Settings(seq_len=4096, batch_size=2), ["inference"], explain=True)
    # 32 layers x 2 x 8 heads x 128 x 2 bytes = 131,072 bytes a token
    cache = next(a for a in e.alive if a.name == "KV cache")
    assert cache.bytes == 131_072 * 2 * 4096
    assert e.trainable_parameters == 0
    assert e.peak_allocated_bytes is not None
    assert e.peak_allocated_bytes > 14_483_464_192 + cache.bytes


def test_one_token(fixtures_dir: Path) -> None:
    """A batch of one token has the shapes of a batch, and less in memory than two."""
    snapshot = load(fixtures_dir, "Qwen/Qwen2.5-0.5B")
    _, one = estimator.estimate(snapshot, Settings(seq_len=1))
    _, two = estimator.estimate(snapshot, Settings(seq_len=2))
    compared = 0
    for e, f in zip(one, two, strict=True):
        assert e.status == f.status, e.reason
        if e.peak_allocated_bytes is not None and f.peak_allocated_bytes is not None:
            assert e.peak_allocated_bytes <= f.peak_allocated_bytes
            compared += 1
    assert compared > 60
