"""Repeated layers are traced once: the figures must be those of tracing every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hubvram.accuracy.library import load
from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header
from hubvram.plan import methods, optimizers
from hubvram.plan.plan import Plan
from hubvram.plan.settings import Settings
from hubvram.plan.stacks import Stack
from hubvram.timeline.dtypes import BY_NAME
from hubvram.timeline.peak import Timeline, categories, read
from hubvram.timeline.phases import trace


class EveryLayer(Plan):
    """A plan that runs each layer by itself."""

    def runs(self, stack: str) -> list[tuple[int, int, int]]:
        """One run a layer."""
        return [(i, 1, 1) for i in range(len(self.arch.stacks[stack].order))]


def figures(kind: type[Plan], root: Path, repo_id: str, method: str, **given: Any) -> tuple[Timeline, tuple[int, ...]]:
    """Trace one estimate."""
    snapshot = load(root, repo_id)
    family = families.find(str(snapshot.config["model_type"]))
    assert family is not None
    settings = Settings.from_kwargs(seq_len=256, **given)
    plan = kind(
        family.build(Config(snapshot.config), Header(snapshot.tensors)),
        methods.find(method),
        settings,
        base_dtype=BY_NAME["float32" if settings.mixed_precision != "no" else "bfloat16"],
        optimizer=optimizers.find(settings.optim),
        stack=Stack.parse({}),
        tokens=256,
        source_tokens=256,
    )
    tracer, _ = trace(plan)
    timeline = read(tracer)
    return timeline, categories(tracer, timeline.peak)


CASES = [
    ("HuggingFaceTB/SmolLM2-135M", "full", {}),
    ("HuggingFaceTB/SmolLM2-135M", "full", {"gradient_checkpointing": False}),
    ("HuggingFaceTB/SmolLM2-135M", "lora", {"gradient_checkpointing": False}),
    ("HuggingFaceTB/SmolLM2-135M", "lora", {"attn_implementation": "eager", "padding": True}),
    ("HuggingFaceTB/SmolLM2-135M", "qlora", {}),
    ("HuggingFaceTB/SmolLM2-135M", "full", {"mixed_precision": "bf16", "gradient_checkpointing": False}),
    ("HuggingFaceTB/SmolLM2-135M", "prefix_tuning", {}),
    ("openai-community/gpt2", "full", {"gradient_checkpointing": False}),
    ("openai-community/gpt2", "lora", {}),
    ("EleutherAI/pythia-1.4b", "full", {"mixed_precision": "bf16"}),
]


@pytest.mark.parametrize(("repo_id", "method", "given"), CASES)
def test_tracing_once_equals_tracing_every_layer(
    fixtures_dir: Path, repo_id: str, method: str, given: dict[str, Any]
) -> None:
    once, parts_once = figures(Plan, fixtures_dir, repo_id, method, **given)
    every, parts_every = figures(EveryLayer, fixtures_dir, repo_id, method, **given)
    for short, long in zip(once.highs, every.highs, strict=True):
        # The stand-in for an input that the caller keeps may count one hidden state twice in forward.
        assert short.phase == long.phase
        assert short.bytes == pytest.approx(long.bytes, rel=2e-3), short.phase
    assert once.ends == every.ends
    assert sum(parts_once) == once.peak.bytes
    assert sum(parts_every) == every.peak.bytes
    for a, b in zip(parts_once, parts_every, strict=True):
        assert a == pytest.approx(b, abs=once.peak.bytes * 2e-3)
