"""Anything in the place of a header, an index, a config, a description: read, or refused in hubvram's own words.

Three ways: the corpus (`corpus/TARGET/`: cases by hand, named for what they
are, and inputs that coverage-guided fuzzing found, named by hash), the corpus
bent at random, and real configs with values that nobody would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from locations import FIXTURES
from targets import CORPUS, METHODS, TARGETS, estimates

from hubvram.accuracy.library import load
from hubvram.architecture import families
from hubvram.errors import HubvramError, RepoNotFoundError
from hubvram.plan.methods import names
from hubvram.snapshot.records import Snapshot

pytestmark = pytest.mark.hostile

_FUZZ = settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def corpus(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


@pytest.mark.parametrize("path", [p for t in TARGETS for p in corpus(t)], ids=lambda p: f"{p.parent.name}-{p.name}")
def test_the_corpus(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_every_target_has_a_corpus() -> None:
    assert sorted(p.name for p in CORPUS.iterdir()) == sorted(TARGETS)
    assert all(len(corpus(t)) > 10 for t in TARGETS)


# -- bytes --------------------------------------------------------------------

_WORDS = [
    b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\u0000", b"\\ud800", b"NaN", b"-1", b"1e999", b"9" * 40, b"true",
    b"null",
    b"\x00" * 8, b"\xff" * 8, b"\x1b[31m", b"../", b"://", b'"dtype"', b'"shape"', b'"data_offsets"', b'"weight_map"',
    b'"__metadata__"', b'"F4"', b"[2,3]", b"GGUF", b"PK\x05\x06", b"\x80\x02", b"cos\nsystem\n", b"R", b".",
]  # fmt: skip


@st.composite
def bent(draw: st.DrawFn, target: str) -> bytes:
    """A file of the corpus with a few pieces cut out, doubled, overwritten or put in."""
    data = bytearray(draw(st.sampled_from(corpus(target))).read_bytes()[:8_000])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        count = draw(st.integers(0, 12))
        match draw(st.integers(0, 3)):
            case 0:
                del data[at : at + count]
            case 1:
                data[at:at] = data[at : at + count] * 2
            case 2:
                data[at : at + count] = draw(st.binary(max_size=12))
            case _:
                data[at:at] = draw(st.sampled_from(_WORDS))
    if target == "header" and len(data) > 8 and draw(st.booleans()):
        data[:8] = (len(data) - 8).to_bytes(8, "little")  # so that what is bent is reached
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS)
def test_a_corpus_that_is_bent(target: str) -> None:
    @_FUZZ
    @given(bent(target) | st.binary(max_size=300))
    def run(data: bytes) -> None:
        TARGETS[target](data)

    run()


# -- real configs -------------------------------------------------------------

_ABSURD: list[Any] = [
    None, True, -1, 0, 1, 3, 2.5, 1e300, -(10**18), 10**9, 10**18, 10**40, float("nan"), float("inf"), "x", "", "7",
    "\x1b[31m", [], [1, "a"], [None] * 3, {}, {"a": 1}, {"hidden_size": [1]}, [[[[]]]],
]  # fmt: skip

_COMMON = {
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "intermediate_size": 128, "ffn_dim": 128, "d_ff": 128,
    "num_hidden_layers": 2, "n_layer": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 64, "d_kv": 16, "head_dim": 16,
    "image_size": 32, "patch_size": 16, "num_channels": 3, "num_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_routed_experts": 4, "sliding_window": 32,
    "hidden_act": "silu", "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "gptq", "bits": 4},
    "rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "layer_types": ["full_attention", "sliding_attention"],
}  # fmt: skip
"""Small sizes under most of the names that families read."""


@lru_cache
def subjects() -> tuple[Snapshot, ...]:
    """One real repo for each model type of the fixtures, the smallest first; then one made up for every other type."""
    found: dict[str, Snapshot] = {}
    for place in sorted(FIXTURES.glob("*/*/config.json"), key=lambda p: (p.stat().st_size, p)):
        kind = str(json.loads(place.read_text("utf-8")).get("model_type"))
        if kind in found:
            continue
        try:
            snapshot = load(FIXTURES, f"{place.parent.parent.name}/{place.parent.name}")
        except (RepoNotFoundError, HubvramError, IndexError):
            continue
        if len(snapshot.tensors) < 2_000:
            found[kind] = snapshot
    for kind in (t for family in families.families() for t in family.model_types):
        if kind not in found:
            config = {"model_type": kind, **_COMMON}
            config |= {f"{part}_config": dict(_COMMON) for part in ("text", "vision", "audio")}
            found[kind] = Snapshot("o/n", "main", None, None, "local", config, ())
    return tuple(found.values())


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a config."""
    for key in value if isinstance(value, dict) else range(min(len(value), 3)):
        yield (*path, key)
        if isinstance(value[key], (dict, list)):
            yield from places(value[key], (*path, key))


@st.composite
def spoiled(draw: st.DrawFn, kind: int) -> dict[str, Any]:
    """A config with one to three of its values replaced."""
    config = json.loads(json.dumps(dict(subjects()[kind].config)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(config))))
        holder = config
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = deepcopy(draw(st.sampled_from(_ABSURD)))  # it may be bent further
    return config


@pytest.mark.parametrize("kind", range(len(subjects())), ids=lambda i: str(subjects()[i].config.get("model_type")))
def test_a_config_with_absurd_values(kind: int) -> None:
    tensors = subjects()[kind].tensors

    @settings(_FUZZ, max_examples=20)
    @given(spoiled(kind), st.sampled_from(names()))
    def run(config: dict[str, Any], method: str) -> None:
        estimates(config, tensors, (method,))

    run()


@pytest.mark.parametrize("value", _ABSURD, ids=repr)
def test_every_value_absurd_at_once(value: Any) -> None:
    for subject in subjects():
        config = {key: value for key in subject.config if key != "model_type"}
        estimates({**config, "model_type": subject.config.get("model_type")}, subject.tensors, METHODS[:2])


def test_unspoiled_they_are_estimated() -> None:
    """The fuzzing reaches the families: unspoiled, the configs (made up ones too) build a model."""
    from hubvram import estimator

    built = [s for s in subjects() if estimator._build(s).arch is not None]
    assert len(built) > 0.6 * len(subjects())
