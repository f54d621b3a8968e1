"""Methods whose trained part is a few vectors per layer: IA3, VeRA, PVeRA, BEFT, RoAd.

Source: peft 0.21 ``tuners/{ia3,vera,pvera,beft,road}/layer.py`` and ``bnb.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods import target_modules
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan, NewParam, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class Ia3Plan(TunerPlan):
    """One vector per target: scales the output, or the input of feed-forward layers."""

    peft_type = "IA3"
    kinds = ("Linear", "Conv1D", "Conv2d")
    packed = ("4bit", "8bit")

    def prepare(self) -> None:
        """``feedforward_modules``: PEFT's table unless given."""
        value = self.config["feedforward_modules"]
        if value is None:
            value = target_modules.IA3_FEEDFORWARD.get(self.ctx.arch.model_type)
            if value is None:
                raise Skip(
                    f"PEFT has no default feedforward_modules for model type {self.ctx.arch.model_type}: give them."
                )
        self.feedforward = value

    def _scales_input(self, path: str) -> bool:
        if isinstance(self.feedforward, str):
            return re.fullmatch(self.feedforward, path) is not None
        return path.endswith(tuple(self.feedforward))

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """(1, in) for feed-forward layers, (out, 1) for others."""
        if self._scales_input(path):
            return (("ia3_l", (1, module.in_features)),)
        return (("ia3_l", (module.out_features, 1)),)

    def run(self, path: str, module: Linear) -> Forward:
        """Scale before or after."""
        return self.scale_input if self._scales_input(path) else self.scale_output

    def scale_input(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``base((x.to(fp32) * l).to(dtype))``."""
        vector = g.scale(params[0].view(params[0].n), "ia3 scaling")
        src = x.dt
        x = g.to(x, params[0].dt)
        inner = g.to(g.mul(x, vector), src)
        out: Tensor = base(g, inner)
        return out

    def scale_output(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``(base(x) * l).to(dtype)``."""
        vector = g.scale(params[0].view(params[0].n), "ia3 scaling")
        result = base(g, x)
        src = result.dt
        result = g.mul(result, vector)
        return g.to(result, src)


class VeraPlan(TunerPlan):
    """Two vectors per target around a frozen random pair that all targets share."""

    peft_type = "VERA"
    packed: tuple[str, ...] = ("4bit", "8bit", "gptq")
    word = "vera"
    doubled = 1

    def prepare(self) -> None:
        """A (r x largest in) and B (largest out x r), shared and frozen."""
        self.r = int(self.config["r"])
        widest = max(m.in_features for _, m in self.found)
        tallest = max(m.out_features for _, m in self.found)
        self.names = (f"{self.word}_A", f"{self.word}_B")
        self.extra_params = [
            NewParam(self.names[0], (self.r * self.doubled, widest), self.dtype, trainable=False),
            NewParam(self.names[1], (tallest, self.r), self.dtype, trainable=False),
        ]
        self.dropout = float(self.config[f"{self.word}_dropout"])

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """lambda_b (out) and lambda_d (r)."""
        return (
            (f"{self.word}_lambda_b", (module.out_features,)),
            (f"{self.word}_lambda_d", (self.r * self.doubled,)),
        )

    def shared(self, path: str, module: Linear) -> tuple[str, ...]:
        """The pair."""
        return self.names

    def run(self, path: str, module: Linear) -> Forward:
        """Needs the layer's sizes to slice the pair."""
        wide, tall = module.in_features, module.out_features

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            b, d, shared_a, shared_b = params
            result = base(g, x)
            src = result.dt
            if self.ctx.packed == "4bit":
                result = g.clone(result)
            x = g.to(x, d.dt)
            low = g.linear(g.dropout(x, self.dropout), shared_a.narrow(shared_a.shape[0], wide), None, "vera A")
            low = g.mul(d, low)
            low = self.sample(g, low)
            high = g.linear(low, shared_b.narrow(tall, self.r), None, "vera B")
            del low
            result = g.add(result, g.mul(b, high))
            del high
            return g.to(result, src)

        return forward

    def sample(self, g: Ops, low: Tensor) -> Tensor:
        """VeRA: nothing."""
        return low


class PveraPlan(VeraPlan):
    """VeRA with a sampled middle: mean and variance, reparametrised."""

    peft_type = "PVERA"
    packed = ("4bit", "8bit")
    word = "pvera"
    doubled = 2

    def sample(self, g: Ops, low: Tensor) -> Tensor:
        """``mu + randn_like(std) * exp(0.5 * logvar)``."""
        half = (*low.shape[:-1], self.r)
        mu, logvar = g.split(low, (half, half))
        std = g.exp(g.scale(logvar))
        noise = g.constant(half, std.dt, "randn_like")
        return g.add(mu, g.mul(noise, std))


class BeftPlan(TunerPlan):
    """A bias added to each target's output."""

    peft_type = "BEFT"
    kinds = ("Linear",)

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """(1, out)."""
        return (("beft_bias", (1, module.out_features)),)

    def run(self, path: str, module: Linear) -> Forward:
        """``(base(x) + bias).to(dtype)``."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """The sum is fp32 when the bias is."""
        result = base(g, x)
        src = result.dt
        result = g.add(result, params[0])
        return g.to(result, src)


ROAD_SIZE = {"road_1": (1, 2), "road_2": (1, 1), "road_4": (2, 1)}
"""Variant -> parameters of theta and alpha as a fraction of out_features."""


class RoadPlan(TunerPlan):
    """Rotation and scaling of pairs of output features."""

    peft_type = "ROAD"
    kinds = ("Linear",)
    packed = ("4bit", "8bit")

    def check(self, path: str, module: Linear) -> None:
        """Groups must fill the output."""
        group = int(self.config["group_size"])
        if module.out_features % group:
            raise Skip(f"RoAd needs out_features divisible by group_size {group}; {path} has {module.out_features}.")

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """theta and alpha."""
        up, down = ROAD_SIZE[str(self.config["variant"])]
        n = module.out_features * up // down
        return (("road_theta", (n,)), ("road_alpha", (n,)))

    def run(self, path: str, module: Linear) -> Forward:
        """Rotate the output."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``x * first + rotate_half(x) * second``, in the adapter's dtype."""
        result = base(g, x)
        src = result.dt
        theta, alpha = params
        result = g.to(result, theta.dt)
        out = result.shape[-1]
        t: Tensor = theta
        a: Tensor = alpha
        if theta.n < out:
            t, a = g.expand(t, (out,), "repeat_interleave"), g.expand(a, (out,), "repeat_interleave")
        elif theta.n > out:
            t, a = g.slice(t, (out,)), g.slice(a, (out,))
        cos, sin = g.unary("cos", t), g.unary("sin", t)
        first, second = g.mul(a, cos), g.mul(a, sin)
        half = (*result.shape[:-1], out // 2)
        x1, x2 = g.slice(result, half), g.slice(result, half)
        rotated = g.cat((g.scale(x2, "neg"), x1), result.shape)
        del x1, x2
        straight = g.mul(result, first)
        turned = g.mul(rotated, second)
        del rotated
        result = g.add(straight, turned)
        del straight, turned
        return g.to(result, src)


def _plan(cls: type[TunerPlan]) -> Any:
    def apply(ctx: Context) -> MethodPlan:
        return cls(ctx)

    return apply


METHODS = [
    Method(
        name="ia3",
        title="(IA)^3",
        group="reparametrised",
        trains="one scaling vector per target: of the output, or of the input of feed-forward layers",
        formula="sum over targets of out (in for feed-forward modules)",
        source="peft 0.21 tuners/ia3; arXiv:2205.05638",
        apply=_plan(Ia3Plan),
        peft_type="IA3",
        keys={**KEYS["IA3"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="vera",
        title="VeRA",
        group="reparametrised",
        trains="two vectors per target around one frozen random pair of matrices",
        formula="sum over targets of out + r",
        source="peft 0.21 tuners/vera; arXiv:2310.11454",
        apply=_plan(VeraPlan),
        peft_type="VERA",
        keys={**KEYS["VERA"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="pvera",
        title="PVeRA",
        group="reparametrised",
        trains="VeRA's vectors for mean and variance",
        formula="sum over targets of out + 2r",
        source="peft 0.21 tuners/pvera; arXiv:2512.07703",
        apply=_plan(PveraPlan),
        peft_type="PVERA",
        keys={**KEYS["PVERA"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="beft",
        title="BEFT",
        group="reparametrised",
        trains="a bias per target (the value projections by default)",
        formula="sum over targets of out",
        source="peft 0.21 tuners/beft; arXiv:2509.15974",
        apply=_plan(BeftPlan),
        peft_type="BEFT",
        keys={**KEYS["BEFT"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="road",
        title="RoAd",
        group="reparametrised",
        trains="an angle and a scale per pair of output features",
        formula="sum over targets of out (road_1), 2 * out (road_2), 4 * out (road_4)",
        source="peft 0.21 tuners/road; arXiv:2409.00119",
        apply=_plan(RoadPlan),
        peft_type="ROAD",
        keys={**KEYS["ROAD"], "autocast_adapter_dtype": True},
    ),
]
