"""Methods that mix or nest adapters: PEANuT, Poly, X-LoRA.

Source: peft 0.21 ``tuners/{peanut,poly,xlora}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan
from hubvram.timeline.dtypes import F32
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class PeanutPlan(TunerPlan):
    """A small network that turns the weight itself into a change of the weight."""

    peft_type = "PEANUT"
    kinds = ("Linear",)

    def prepare(self) -> None:
        """Depth."""
        self.r, self.depth = int(self.config["r"]), int(self.config["depth"])

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """A (r x out), encoders and decoders (r x r each), B (out x r)."""
        square = (self.r, self.r)
        inner = [(f"peanut_{kind}.{i}", square) for kind in ("encoders", "decoders") for i in range(self.depth)]
        return [("peanut_A", (self.r, module.out_features)), *inner, ("peanut_B", (module.out_features, self.r))]

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``base(x) + x @ f(W^T)``."""
        act = str(self.config["act_fn"])
        a, b = params[0], params[-1]
        result = base(g, x)
        src = result.dt
        weight = g.to(g.base_weight(base), a.dt)
        out, wide = weight.shape
        h = g.act(act, g.linear(weight.view(wide, out), a, None, "peanut A"))
        del weight
        kept: list[Tensor] = []
        for w in params[1 : 1 + self.depth]:
            kept.append(h)
            h = g.act(act, g.linear(h, w, None, "peanut encoder"))
        for w in params[1 + self.depth : -1]:
            h = g.add(g.act(act, g.linear(h, w, None, "peanut decoder")), kept.pop())
        delta = g.scale(g.linear(h, b, None, "peanut B"), "peanut scaling")
        del h
        x = g.to(x, delta.dt)
        change = g.linear(x, delta.view(out, wide), None, "peanut")
        del delta
        return g.add(result, g.to(change, src))


class PolyPlan(TunerPlan):
    """Skills (low-rank pairs) mixed per task by a router."""

    peft_type = "POLY"
    kinds = ("Linear",)

    def prepare(self) -> None:
        """Sizes."""
        c = self.config
        self.r, self.tasks = int(c["r"]), int(c["n_tasks"])
        self.skills, self.splits = int(c["n_skills"]), int(c["n_splits"])
        for path, m in self.found:
            if m.in_features % self.splits or m.out_features % self.splits:
                raise Skip(f"Poly needs sizes divisible by n_splits {self.splits}: {path}.")

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """A, B and the router's logits."""
        s, k, r = self.splits, self.skills, self.r
        return (
            ("poly_lora_A", (s, k, module.in_features // s, r)),
            ("poly_lora_B", (s, k, r, module.out_features // s)),
            ("poly_router.module_logits", (self.tasks, s * k)),
        )

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """A pair per sample, two batched products."""
        a, b, logits = params
        src = x.dt
        result = base(g, x)
        if len(x.shape) != 3:
            raise Skip(
                f"Poly multiplies in batches (torch.bmm) and fails on the input {tuple(x.shape)} of {base.name}: "
                "leave it out of target_modules."
            )
        batch, tokens, wide = x.shape
        out = result.shape[-1]
        mix = g.any_op("poly router", (logits,), (batch, self.splits, self.skills), F32, save_result=True)
        mine_a = g.any_op("poly mix A", (mix, a), (batch, wide, self.r), a.dt, save=(mix, a))
        mine_b = g.any_op("poly mix B", (mix, b), (batch, self.r, out), b.dt, save=(mix, b))
        x = g.to(x, a.dt)
        low = g.matmul(x, mine_a, (batch, tokens, self.r), "poly A")
        high = g.matmul(low, mine_b, (batch, tokens, out), "poly B")
        del low
        result = g.add_into(result, g.scale(high, "poly / r"))
        return g.to(result, src)


def _xlora(ctx: Context) -> MethodPlan:
    raise Skip("X-LoRA mixes LoRA adapters that are trained already; which ones is not known from the model.")


def _plan(cls: type[TunerPlan]) -> Any:
    def apply(ctx: Context) -> MethodPlan:
        return cls(ctx)

    return apply


METHODS = [
    Method(
        name="peanut",
        title="PEANuT",
        group="reparametrised",
        trains="a small network per target that maps the weight to its change",
        formula="sum over targets of 2 * r * out + 2 * depth * r * r",
        source="peft 0.21 tuners/peanut; arXiv:2410.01870",
        apply=_plan(PeanutPlan),
        peft_type="PEANUT",
        keys={**KEYS["PEANUT"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="poly",
        title="Poly",
        group="lora",
        trains="n_skills low-rank pairs per target and a router over tasks",
        formula="sum over targets of n_skills * r * (in + out) + n_tasks * n_splits * n_skills",
        source="peft 0.21 tuners/poly; arXiv:2202.13914, arXiv:2211.03831",
        apply=_plan(PolyPlan),
        peft_type="POLY",
        keys={**KEYS["POLY"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="xlora",
        title="X-LoRA",
        group="lora",
        trains="a classifier that mixes trained LoRA adapters",
        formula="hidden * adapters + adapters (times layers under layerwise_scalings)",
        source="peft 0.21 tuners/xlora; arXiv:2402.07148",
        apply=_xlora,
        peft_type="XLORA",
        keys=KEYS["XLORA"],
    ),
]
