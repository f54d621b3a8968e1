"""Every method on a small model of every family in the fixture: it runs, all is freed, every gradient arrives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header
from hubvram.plan import methods, optimizers
from hubvram.plan.methods.base import Skip
from hubvram.plan.plan import Plan
from hubvram.plan.settings import Settings
from hubvram.plan.stacks import Stack
from hubvram.snapshot.records import TensorInfo
from hubvram.timeline.dtypes import BY_NAME
from hubvram.timeline.peak import read
from hubvram.timeline.phases import trace

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "peft_counts.json"
MODELS: dict[str, Any] = json.loads(FIXTURE.read_text())["models"]
WHOLE = {"lomo", "adalomo"}
"""They take gradients away as these arrive: what a repeated layer hands on is theirs to test."""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("checkpointing", [True, False])
def test_runs_and_frees(name: str, checkpointing: bool) -> None:
    model = MODELS[name]
    family = families.find(name)
    if family is None:
        pytest.skip("not in the catalogue of architectures")
    header = Header([TensorInfo(n, "F32", tuple(shape), "f") for n, shape in model["tensors"].items()])
    arch = family.build(Config(model["config"]), header)
    settings = Settings(dtype="bfloat16", optim="adamw_torch", gradient_checkpointing=checkpointing)
    ran = 0
    for method in methods.methods().values():
        if method.name in WHOLE:
            continue
        try:
            plan = Plan(
                arch,
                method,
                settings,
                base_dtype=BY_NAME["bfloat16"],
                optimizer=optimizers.find(settings.optim),
                stack=Stack.parse({}),
                tokens=32,
                source_tokens=32,
            )
            tracer, net = trace(plan)
        except Skip:
            continue
        ran += 1
        assert read(tracer).ends[-1] == 0, method.name
        leaves: list[tuple[str, Any]] = [(p.name, p.node) for p in net.params if p.node is not None]
        waiting = {n for n, leaf in leaves if leaf.expected > 0}
        assert waiting <= plan.method.idle, method.name
    assert ran > 40
