"""The inverse: what `fit` says holds when the estimator is asked again, on both sides of every limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubvram import estimator, gpus
from hubvram.accuracy.library import load
from hubvram.advice.bench import PARTS, Bench, growing_part, largest_part
from hubvram.advice.fit import MAX_BATCH, CardFit, Limit, MethodFit, fit_cards, sliding_window, widest
from hubvram.advice.search import largest, rising
from hubvram.errors import SettingError
from hubvram.gpus.cards import Card
from hubvram.plan.settings import Settings
from hubvram.snapshot.records import Snapshot

MISTRAL = "mistralai/Mistral-7B-v0.1"
SMALL = "HuggingFaceTB/SmolLM2-135M"
METHODS = ("full", "lora", "qlora", "lora_int8", "prefix_tuning", "freeze", "inference")


@pytest.fixture
def models(fixtures_dir: Path) -> Path:
    return fixtures_dir / "models" if (fixtures_dir / "models").is_dir() else fixtures_dir


def a_card(mib: int) -> Card:
    return Card(f"a card of {mib} MiB", mib // 1024, mib, "8.0", "none", "made up for a test")


def total(snapshot: Snapshot, method: str, **settings: Any) -> int:
    _, [found] = estimator.estimate(snapshot, Settings.from_kwargs(**settings), [method])
    assert found.total_bytes is not None
    return found.total_bytes


def fit_one(snapshot: Snapshot, card: Card, methods: tuple[str, ...], **settings: Any) -> CardFit:
    limit = estimator.describe(snapshot).max_seq_len
    [found] = fit_cards(Bench(snapshot, Settings.from_kwargs(**settings)), methods, [card], max_seq_len=limit)
    return found


def with_setting(limit: Limit, value: int, settings: dict[str, Any]) -> dict[str, Any]:
    if limit.setting == "r":
        return {**settings, "peft": {"r": value}}
    return {**settings, limit.setting: value}


@pytest.mark.parametrize("repo_id", [MISTRAL, SMALL, "openai-community/gpt2", "distil-whisper/distil-large-v3"])
@pytest.mark.parametrize("card", ["4060", "4090", "A100 80GB"])
def test_at_the_limit_it_fits_and_one_more_does_not(models: Path, repo_id: str, card: str) -> None:
    snapshot = load(models, repo_id)
    found = fit_one(snapshot, gpus.find(card), METHODS)
    usable = found.usable_bytes
    assert usable == gpus.find(card).memory_mib * 2**20
    for method in found.methods:
        if method.status == "skipped":
            assert method.fits is None
            assert method.reason
            continue
        plain = total(snapshot, method.method)
        assert (method.total_bytes, method.headroom_bytes) == (plain, usable - plain)
        assert method.fits is (plain <= usable)
        for limit in method.limits:
            if limit.value is None:
                assert total(snapshot, method.method, **with_setting(limit, 2, {})) > usable
                continue
            at = total(snapshot, method.method, **with_setting(limit, limit.value, {}))
            assert at == limit.total_bytes <= usable, (method.method, limit)
            assert limit.headroom_bytes == usable - at
            if limit.bound == "memory":
                more = total(snapshot, method.method, **with_setting(limit, limit.value + 1, {}))
                assert more == limit.next_bytes > usable, (method.method, limit)
                assert limit.grows in PARTS


def test_the_settings_given_stay_fixed(models: Path) -> None:
    snapshot = load(models, MISTRAL)
    settings = {"batch_size": 2, "gradient_checkpointing": False, "peft": {"target_modules": "all-linear"}}
    [method] = fit_one(snapshot, gpus.find("A100 80GB"), ("lora",), **settings).methods
    tokens = method.limit("seq_len")
    assert tokens is not None
    assert tokens.value is not None
    usable = 81920 * 2**20
    assert total(snapshot, "lora", **settings, seq_len=tokens.value) <= usable
    assert total(snapshot, "lora", **settings, seq_len=tokens.value + 1) > usable
    rank = method.limit("r")
    assert rank is not None
    assert rank.value is not None
    assert total(snapshot, "lora", **{**settings, "peft": {"target_modules": "all-linear", "r": rank.value}}) <= usable


def test_the_model_ends_the_sequence_before_the_memory_does(models: Path) -> None:
    snapshot = load(models, "openai-community/gpt2")
    [method] = fit_one(snapshot, gpus.find("A100 80GB"), ("lora",)).methods
    tokens = method.limit("seq_len")
    assert tokens is not None
    assert (tokens.value, tokens.bound, tokens.next_bytes) == (1024, "model", None)
    rank = method.limit("r")
    assert rank is not None
    assert (rank.value, rank.bound) == (768, "model"), "no rank means more than the width of the model"


def test_a_larger_card_never_holds_less(models: Path) -> None:
    snapshot = load(models, SMALL)
    small, large = (
        {m.method: m for m in fit_one(snapshot, a_card(mib), ("full", "lora", "qlora")).methods} for mib in (6000, 9000)
    )
    for name, method in small.items():
        for limit in method.limits:
            other = large[name].limit(limit.setting)
            assert other is not None
            assert (other.value or 0) >= (limit.value or 0), (name, limit.setting)


def test_tokens_past_a_sliding_window_are_looked_at_too(models: Path) -> None:
    # Mistral's window is 4,096: past it sdpa takes a kernel that needs no full matrix of scores, so QLoRA,
    # whose hidden states are FP32, needs less for 4,097 tokens than for 4,096.
    snapshot = load(models, MISTRAL)
    assert sliding_window(snapshot) == 4096
    below, above = total(snapshot, "qlora", seq_len=4096), total(snapshot, "qlora", seq_len=4097)
    assert above < below
    card = a_card((above + below) // 2 // 2**20)
    [method] = fit_one(snapshot, card, ("qlora",)).methods
    tokens = method.limit("seq_len")
    assert tokens is not None
    assert tokens.value is not None
    assert tokens.value >= 4097


def test_what_does_not_fit_says_how_much_it_lacks_and_what_would_help(models: Path) -> None:
    snapshot = load(models, MISTRAL)
    found = {
        m.method: m
        for m in fit_one(snapshot, gpus.find("4060"), ("full", "lora", "qlora"), gradient_checkpointing=False).methods
    }
    usable = gpus.find("4060").usable_bytes
    lora = found["lora"]
    assert lora.headroom_bytes == usable - total(snapshot, "lora", gradient_checkpointing=False) < 0
    costs = [change.setting for change in lora.changes]
    assert costs[:2] == ["use_liger_kernel", "gradient_checkpointing"], "what changes no result comes first"
    assert costs[-1] == "num_gpus"
    for method in found.values():
        assert method.changes
        for change in method.changes:
            settings = {"gradient_checkpointing": False, **change.changes}
            assert change.total_bytes == total(snapshot, change.method, **settings)
            assert change.total_bytes < (method.total_bytes or 0)
            assert change.fits is (change.total_bytes <= usable)
        if method.fix is None:
            assert not any(change.fits for change in method.changes)
            assert method.nearest is not None
            assert method.nearest.total_bytes == min(c.total_bytes for c in method.changes if c.total_bytes)
        else:
            assert method.nearest is None
            assert method.fix == next(change for change in method.changes if change.fits)


@pytest.mark.parametrize(
    ("settings", "method", "mib", "label"),
    [
        (
            {"gradient_checkpointing": False, "use_liger_kernel": True, "seq_len": 3000},
            "lora",
            24576,
            "gradient checkpointing on",
        ),
        ({"batch_size": 64, "use_liger_kernel": True}, "lora", 24576, "batch "),
        ({"use_liger_kernel": True}, "full", 49140, "8-bit optimizer states"),
        ({"use_liger_kernel": True}, "lora", 12288, "qlora instead of lora"),
        ({"seq_len": 32768, "use_liger_kernel": True}, "qlora", 12288, " tokens instead of 32,768"),
        ({"attn_implementation": "eager", "seq_len": 8192, "use_liger_kernel": True}, "lora", 24576, "sdpa attention"),
        ({"dtype": "float32", "use_liger_kernel": True}, "lora", 24576, "bfloat16 weights"),
        ({"use_liger_kernel": True, "peft": {"r": 2048, "target_modules": "all-linear"}}, "lora", 24576, "r "),
    ],
)
def test_the_cheapest_change(models: Path, settings: dict[str, Any], method: str, mib: int, label: str) -> None:
    [found] = fit_one(load(models, MISTRAL), a_card(mib), (method,), **settings).methods
    assert found.fits is False
    assert found.fix is not None
    assert label in found.fix.label


def test_more_cards_are_the_last_resort(models: Path) -> None:
    snapshot = load(models, MISTRAL)
    [found] = fit_one(snapshot, a_card(5000), ("qlora",)).methods
    assert found.changes[-1].setting == "num_gpus"
    assert found.changes[-1].changes["strategy"] == "fsdp"
    [int8] = fit_one(snapshot, a_card(5000), ("lora_int8",)).methods
    assert "num_gpus" not in [change.setting for change in int8.changes], "FSDP does not shard LLM.int8"


def test_several_cards_are_one_of_so_many(models: Path) -> None:
    snapshot = load(models, MISTRAL)
    found = fit_one(snapshot, gpus.find("4090"), ("full",), num_gpus=8, strategy="fsdp")
    assert found.count == 8
    assert found.methods[0].total_bytes == total(snapshot, "full", num_gpus=8, strategy="fsdp")


def test_a_setting_of_some_methods_only(models: Path) -> None:
    snapshot = load(models, SMALL)
    settings = Settings(peft={"r": 64})
    card = gpus.find("4060")
    [found] = fit_cards(Bench(snapshot, settings), ("full", "lora"), [card])
    assert found.methods[0].total_bytes == total(snapshot, "full")
    assert found.methods[1].total_bytes == total(snapshot, "lora", peft={"r": 64})
    with pytest.raises(SettingError, match="'r'"):
        fit_cards(Bench(snapshot, settings, strict=True), ("full", "lora"), [card])
    with pytest.raises(SettingError, match="'rank'"):
        Bench(snapshot, Settings(peft={"rank": 64}))


def test_the_parts_that_bind(models: Path) -> None:
    bench = Bench(load(models, MISTRAL), Settings())
    one, two = bench.estimate("lora"), bench.estimate("lora", {"batch_size": 2})
    assert bench.estimate("lora") is one, "made once"
    assert largest_part(one) == "weights"
    assert growing_part(one, two) == "activations"
    assert growing_part(one, one) == "weights"
    assert largest_part(bench.estimate("bitfit")) is None, "Mistral has no biases"
    assert bench.rank("lora") == 16
    assert bench.rank("lora", {"peft": {"r": 8}}) == 8
    assert bench.rank("full") is None
    assert widest(bench.snapshot) == 4096


def test_records_become_json(models: Path) -> None:
    [found] = fit_cards(Bench(load(models, MISTRAL), Settings()), ("lora", "bitfit"), [gpus.find("3060")])
    data = found.to_dict()
    lora, bitfit = data["methods"]
    assert list(lora["limits"]) == ["batch_size", "seq_len", "r"]
    assert lora["fix"]["label"] == "qlora instead of lora"
    assert lora["fix"] in lora["changes"]
    assert lora["nearest"] is None
    assert (bitfit["fits"], bitfit["limits"], bitfit["changes"]) == (None, {}, [])
    assert MethodFit("x", "skipped", "why").limit("r") is None


@given(limit=st.integers(0, 10**6), step=st.integers(1, 1000), base=st.integers(0, 10**5), last=st.integers(1, 5000))
def test_the_search_finds_the_last_that_fits(limit: int, step: int, base: int, last: int) -> None:
    def line(value: int) -> int:
        return base + step * value

    expected = min((limit - base) // step, last) if base + step <= limit else None
    assert largest(line, limit, [1, last]) == expected
    assert largest(line, limit, rising(line, limit, last)) == expected


@given(st.lists(st.integers(0, 100), min_size=1, max_size=40), st.integers(0, 100))
def test_what_the_search_finds_fits_and_the_next_does_not(totals: list[int], limit: int) -> None:
    """Whatever the totals do in between."""
    found = largest(lambda value: totals[value - 1], limit, [1, len(totals)])
    if found is None:
        assert all(totals[point - 1] > limit for point in [1, len(totals)])
        return
    assert totals[found - 1] <= limit
    assert found == len(totals) or totals[found] > limit


def test_the_search_takes_few_steps() -> None:
    asked = []

    def line(value: int) -> int:
        asked.append(value)
        return 1000 + 7 * value

    assert largest(line, 200_000, rising(line, 200_000, MAX_BATCH)) == 28_428
    assert len(set(asked)) <= 26


def test_a_value_without_a_run_is_passed_by() -> None:
    def image(tokens: int) -> int | None:
        return None if tokens < 10 else tokens

    assert largest(image, 100, rising(image, 100, 1000)) == 100
    assert largest(image, 9, rising(image, 9, 64)) is None
    assert rising(lambda value: None, 100, 5) == [1, 2, 4, 5]
    assert rising(lambda value: value, 100, 1000, 60) == [60, 120]


@pytest.mark.parametrize("repo_id", ["openai/gpt-oss-20b", "Qwen/Qwen3-8B-FP8", "TheBloke/Mistral-7B-v0.1-GPTQ"])
def test_a_base_that_is_stored_quantised_is_not_quantised_again(models: Path, repo_id: str) -> None:
    [adapter, lora] = fit_one(load(models, repo_id), gpus.find("4060"), ("ia3", "lora")).methods
    for method in (adapter, lora):
        assert "quantization" not in [change.setting for change in method.changes]
