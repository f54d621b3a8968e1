"""Rows of expected figures: a config, a method, the peak and the trained parameters of a simulated step, settings."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import SIMULATED, estimate

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture
from hubvram.plan import methods, optimizers
from hubvram.plan.plan import Plan
from hubvram.plan.settings import Settings
from hubvram.plan.stacks import Stack
from hubvram.timeline.dtypes import BY_NAME
from hubvram.timeline.peak import read
from hubvram.timeline.phases import trace

Row = tuple[dict[str, Any], str, int, int, dict[str, Any]]

DEFAULTS: dict[str, Any] = {
    "mixed_precision": "no",
    "max_grad_norm": 1.0,
    "optim": "adamw_torch_fused",
    "gradient_checkpointing": False,
    "attn_implementation": "sdpa",
    "stack": SIMULATED,
}


def check(row: Row, tolerance: float = 2e-4) -> None:
    """The estimate of one row: trained parameters exact, the peak within ``tolerance``."""
    config, method, peak, trainable, given = row
    e = estimate(config, method, **{**DEFAULTS, **given})
    assert e.trainable_parameters == trainable
    assert e.peak_allocated_bytes == pytest.approx(peak, rel=tolerance)


def build(config: dict[str, Any]) -> Architecture:
    """The architecture of a config alone."""
    family = families.find(config["model_type"])
    assert family is not None
    return family.build(Config(config), Header(()))


class EveryLayer(Plan):
    """A plan that runs each layer by itself."""

    def runs(self, stack: str) -> list[tuple[int, int, int]]:
        """One run a layer."""
        return [(i, 1, 1) for i in range(len(self.arch.stacks[stack].order))]


def highs(kind: type[Plan], config: dict[str, Any], method: str, **given: Any) -> list[tuple[str, int]]:
    """The highest point of each phase."""
    settings = Settings.from_kwargs(**{**DEFAULTS, "seq_len": 64, **given})
    plan = kind(
        build(config),
        methods.find(method),
        settings,
        base_dtype=BY_NAME["float32" if settings.mixed_precision != "no" else "bfloat16"],
        optimizer=optimizers.find(settings.optim),
        stack=Stack.parse({}),
        tokens=64,
        source_tokens=64,
    )
    return [(h.phase, h.bytes) for h in read(trace(plan)[0]).highs]


def check_repeat(config: dict[str, Any], method: str, **given: Any) -> None:
    """Layers traced once and counted n times give what tracing all of them gives."""
    assert highs(Plan, config, method, **given) == highs(EveryLayer, config, method, **given)
