"""LoHa and LoKr: a full-size change of the weight, made at every forward pass.

Source: peft 0.21 ``tuners/{loha,lokr}/layer.py``.
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


class LoHaPlan(TunerPlan):
    """Hadamard product of two low-rank products."""

    peft_type = "LOHA"
    kinds = ("Linear", "Conv2d", "Conv1d")

    def rank(self, path: str) -> int:
        """``r`` of one target."""
        return int(pattern_value(self.config, "rank_pattern", "r", path))

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """w1_a, w1_b, w2_a, w2_b."""
        r = self.rank(path)
        up, down = (module.out_features, r), (r, module.in_features)
        return (("hada_w1_a", up), ("hada_w1_b", down), ("hada_w2_a", up), ("hada_w2_b", down))

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def delta(self, g: Ops, params: Sequence[Param]) -> Tensor:
        """``HadaWeight``."""
        return g.hadamard_weight(params)

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``base(x) + F.linear(x, delta)``."""
        src = x.dt
        result = base(g, x)
        delta = self.delta(g, params)
        change = g.linear(g.to(x, delta.dt), delta, None, f"{base.name}.delta")
        del delta
        result = g.add(result, change)
        del change
        return g.to(result, src)


def factorization(dimension: int, factor: int = -1) -> tuple[int, int]:
    """Two factors of a size, as near to each other as ``factor`` allows (LyCORIS); the smaller first."""
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    limit = dimension if factor == -1 else factor
    m, n = 1, dimension
    length = m + n
    while m < n:
        new_m = m + 1
        while dimension % new_m:
            new_m += 1
        new_n = dimension // new_m
        if new_m + new_n > length or new_m > limit:
            break
        m, n = new_m, new_n
    return (m, n) if m <= n else (n, m)


class LoKrPlan(LoHaPlan):
    """Kronecker product of a small matrix and a (low-rank) larger one."""

    peft_type = "LOKR"

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """w1 whole unless decompose_both; w2 low-rank unless the rank is large."""
        r = self.rank(path)
        factor = int(self.config["decompose_factor"])
        in_m, in_n = factorization(module.in_features, factor)
        out_l, out_k = factorization(module.out_features, factor)
        shapes: list[tuple[str, Shape]] = []
        if self.config["decompose_both"] and r < max(out_l, in_m) / 2:
            shapes += [("lokr_w1_a", (out_l, r)), ("lokr_w1_b", (r, in_m))]
        else:
            shapes.append(("lokr_w1", (out_l, in_m)))
        if r < max(out_k, in_n) / 2:
            shapes += [("lokr_w2_a", (out_k, r)), ("lokr_w2_b", (r, in_n))]
        else:
            shapes.append(("lokr_w2", (out_k, in_n)))
        return shapes

    def delta(self, g: Ops, params: Sequence[Param]) -> Tensor:
        """``kron(w1, w2) * scaling``."""
        named = {p.name.rsplit(".", 1)[-1]: p for p in params}
        w1 = named.get("lokr_w1") or g.mm(named["lokr_w1_a"], named["lokr_w1_b"], "lokr w1")
        w2 = named.get("lokr_w2") or g.mm(named["lokr_w2_a"], named["lokr_w2_b"], "lokr w2")
        out, wide = w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1]
        return g.scale(g.kron(w1, w2, (out, wide)), "lokr scaling")


def _loha(ctx: Context) -> MethodPlan:
    return LoHaPlan(ctx)


def _lokr(ctx: Context) -> MethodPlan:
    return LoKrPlan(ctx)


METHODS = [
    Method(
        name="loha",
        title="LoHa",
        group="reparametrised",
        trains="two low-rank pairs per target, multiplied element by element",
        formula="sum over targets of 2 * r * (in + out)",
        source="peft 0.21 tuners/loha; arXiv:2108.06098",
        apply=_loha,
        peft_type="LOHA",
        keys={**KEYS["LOHA"], "lora_alpha": None, "autocast_adapter_dtype": True},
    ),
    Method(
        name="lokr",
        title="LoKr",
        group="reparametrised",
        trains="the factors of a Kronecker product per target",
        formula="sum over targets of |w1| + r * (rows + columns of w2), or |w2| whole where r is large",
        source="peft 0.21 tuners/lokr; arXiv:2309.14859",
        apply=_lokr,
        peft_type="LOKR",
        keys={**KEYS["LOKR"], "lora_alpha": None, "autocast_adapter_dtype": True},
    ),
]
