"""FourierFT, WaveFT and C3A: the change of the weight lives in a transformed domain.

Source: peft 0.21 ``tuners/{fourierft,waveft,c3a}/layer.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan, pattern_value
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class FourierFtPlan(TunerPlan):
    """n_frequency coefficients of a 2-D spectrum per target."""

    peft_type = "FOURIERFT"
    patterns = ("n_frequency_pattern",)

    def count(self, path: str) -> int:
        """Coefficients of one target."""
        return int(pattern_value(self.config, "n_frequency_pattern", "n_frequency", path))

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """One vector."""
        return (("fourierft_spectrum", (self.count(path),)),)

    def run(self, path: str, module: Linear) -> Forward:
        """Needs the weight's shape."""
        shape = (module.out_features, module.in_features)
        count = self.count(path)

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            src = x.dt
            result = base(g, x)
            delta = g.spectrum_to_weight(params[0], shape, count)
            x = g.to(x, delta.dt)
            change = g.linear(x, delta, None, f"{base.name}.delta")
            result = g.add(result, change)
            del change
            return g.to(result, src)

        return forward


def _fourier(ctx: Context) -> MethodPlan:
    return FourierFtPlan(ctx)


METHODS = [
    Method(
        name="fourierft",
        title="FourierFT",
        group="reparametrised",
        trains="n_frequency coefficients of a 2-D spectrum per target",
        formula="targets * n_frequency",
        source="peft 0.21 tuners/fourierft; arXiv:2405.03003",
        apply=_fourier,
        peft_type="FOURIERFT",
        keys={**KEYS["FOURIERFT"], "autocast_adapter_dtype": True},
    ),
]
