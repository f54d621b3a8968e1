"""Trainable parameters of every PEFT method, against what PEFT itself counts (tools/peft_counts.py)."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture
from hubvram.plan import methods, optimizers
from hubvram.plan.methods.base import Skip
from hubvram.plan.plan import Plan
from hubvram.plan.settings import Settings
from hubvram.plan.stacks import Stack
from hubvram.snapshot.records import TensorInfo
from hubvram.timeline.dtypes import BY_NAME

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "peft_counts.json"
DATA = json.loads(FIXTURE.read_text())
ROWS = DATA["rows"]
TYPES = sorted({r["peft_type"] for r in ROWS})
SKIPPED_TYPES = {"XLORA"}  # mixes adapters that are trained already: nothing to count from the model alone
FAILS_LATER = {("falcon", "PREFIX_TUNING"), ("falcon", "CARTRIDGE"), ("bart", "SHADOW")}
"""PEFT wraps the model, and the first forward pass fails: its prefix has more heads than the cache,
its copy of a decoder is fed the source."""
NOT_KNOWN: set[str] = set()


@cache
def arch_of(name: str) -> Architecture | None:
    model = DATA["models"][name]
    family = families.find(name)
    if family is None:
        return None
    header = Header([TensorInfo(n, "F32", tuple(s), "model.safetensors") for n, s in model["tensors"].items()])
    config = dict(model["config"])
    config.setdefault("architectures", [None])
    return family.build(Config(config), header)


def counted(row: dict[str, Any]) -> int | str:
    arch = arch_of(row["model"])
    assert arch is not None
    config = {k: (True if v == "KASA" else v) for k, v in row["config"].items()}
    settings = Settings(peft=config, gradient_checkpointing=False, dtype=row["dtype"])
    try:
        plan = Plan(
            arch,
            methods.find(row["peft_type"].lower()),
            settings,
            base_dtype=BY_NAME[row["dtype"]],
            optimizer=optimizers.find("adamw_torch"),
            stack=Stack.parse({}),
            tokens=16,
            source_tokens=16,
        )
        return plan.trainable_parameters()
    except Skip as skip:
        return f"skipped: {skip}"


@pytest.mark.parametrize("peft_type", [t for t in TYPES if t not in NOT_KNOWN])
def test_counts_equal_peft(peft_type: str) -> None:
    wrong = []
    checked = Counter[str]()
    for row in ROWS:
        if row["peft_type"] != peft_type or "trainable" not in row or arch_of(row["model"]) is None:
            continue
        ours = counted(row)
        checked["rows"] += 1
        if isinstance(ours, str) and (row["trainable"] == 0 or (row["model"], peft_type) in FAILS_LATER):
            continue
        if ours != row["trainable"]:
            wrong.append((row["model"], row["config"], row["dtype"], row["trainable"], ours))
    assert checked["rows"] >= 2
    assert not wrong, f"{len(wrong)} of {checked['rows']}: {wrong[:5]}"


def test_what_peft_refuses_is_skipped() -> None:
    # Where PEFT has no default targets, all linear layers are taken here; layers that it refuses are refused.
    words = ("not supported", "not compatible", "does not support", "Unsupported", "is not a plain")
    wrong = []
    for row in ROWS:
        if "error" not in row or row["peft_type"] in NOT_KNOWN or arch_of(row["model"]) is None:
            continue
        if any(w in row["error"] for w in words):
            ours = counted(row)
            if not isinstance(ours, str):
                wrong.append((row["model"], row["peft_type"], row["config"], row["error"], ours))
    assert not wrong, wrong[:5]


def test_every_peft_type_is_in_the_catalogue() -> None:
    known = {m.peft_type for m in methods.methods().values()}
    assert set(TYPES) | SKIPPED_TYPES <= known | NOT_KNOWN
