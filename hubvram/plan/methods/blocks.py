"""Block-wise changes: MiSS (and Bone, its former name), GraLoRA, DeLoRA, RandLoRA.

Source: peft 0.21 ``tuners/{miss,gralora,delora,randlora}/layer.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan, NewParam, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan, pattern_value
from hubvram.timeline.dtypes import DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class MissPlan(TunerPlan):
    """One r x out matrix per target, applied to sums over shards of the input."""

    peft_type = "MISS"
    kinds = ("Linear",)
    packed = ("4bit", "8bit", "gptq")

    def prepare(self) -> None:
        """Which of the three forms ``init_weights`` chooses."""
        self.r = int(self.config["r"])
        self.form = self.config["init_weights"] if self.config["init_weights"] in ("bat", "mini") else "miss"
        self.mini = int(self.config.get("mini_r", 1))
        self.dropout = float(self.config.get("miss_dropout", 0.0))
        for path, m in self.found:
            if self.form == "bat" and (m.in_features % self.r or m.out_features % self.r):
                size = f"{m.out_features} x {m.in_features}"
                raise Skip(f"MiSS (bat) needs sizes divisible by r = {self.r}; {path} is {size}.")
            if self.form == "mini" and m.out_features % self.mini:
                raise Skip(f"MiSS (mini) needs out_features divisible by mini_r = {self.mini}: {path}.")

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """(r, out); bat: (out / r, r, r); mini: (r, mini_r)."""
        if self.form == "bat":
            return (("miss_block", (module.out_features // self.r, self.r, self.r)),)
        return (("miss_block", (self.r, self.mini if self.form == "mini" else module.out_features)),)

    def run(self, path: str, module: Linear) -> Forward:
        """bat multiplies into the weight."""
        return self.merged if self.form == "bat" else self.beside

    def beside(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``base(x) + sum_of_shards(x) @ block``."""
        src = x.dt
        result = base(g, x)
        if self.ctx.packed == "4bit":
            result = g.clone(result)
        block: Tensor = params[0]
        if self.form == "mini":
            block = g.expand(block, (self.r, base.spec.out_features), "miss repeat")
        width = x.shape[-1]
        if width % self.r:
            width += self.r - width % self.r
            x = g.any_op("pad", (x,), (*x.shape[:-1], width), x.dt)
        x = g.to(x, block.dt)
        sums = g.sum_to(g.dropout(x, self.dropout), (*x.shape[:-1], self.r), "miss shard sum")
        change = g.mm(sums, block, "miss")
        del sums
        result = g.add(result, change)
        del change
        return g.to(result, src)

    def merged(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """bat: ``W + W_blocks @ B + B``, then one product."""
        src = x.dt
        block = params[0]
        out, wide = base.spec.out_features, base.spec.in_features
        shape = (out, wide)
        origin = g.clone(g.base_weight(base), "weight clone")
        low = g.to(origin, block.dt)
        copy = g.clone(low, "bat blocks")
        spread = g.any_op("bat expand", (block,), shape, block.dt)
        product = g.any_op("bat product", (copy, spread), shape, block.dt, save=(copy,))
        del copy, spread, low
        shifted = g.add(product, block)
        del product
        delta = g.clone(shifted, "bat reshape")
        del shifted
        origin = g.add(origin, delta)
        del delta
        x = g.to(x, origin.dt)
        bias = g.to(base.bias, origin.dt) if base.bias is not None else None
        result = g.linear(x, origin, bias, f"{base.name} (bat)")
        return g.to(result, src)


class GraloraPlan(TunerPlan):
    """k x k blocks, each with its own low-rank pair."""

    peft_type = "GRALORA"

    def prepare(self) -> None:
        """Sizes."""
        self.r, self.k = int(self.config["r"]), int(self.config["gralora_k"])
        self.hybrid = int(self.config["hybrid_r"])
        self.dropout = float(self.config["gralora_dropout"])
        for path, m in self.found:
            if m.in_features % self.k or m.out_features % self.k or self.r % self.k:
                raise Skip(f"GraLoRA needs r and the sizes divisible by gralora_k = {self.k}: {path}.")

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """A (k, in / k, r), B (k, r, out / k), and a plain pair if hybrid_r."""
        out = [
            ("gralora_A", (self.k, module.in_features // self.k, self.r)),
            ("gralora_B", (self.k, self.r, module.out_features // self.k)),
        ]
        if self.hybrid:
            out.append(("gralora_A_general", (self.hybrid, module.in_features)))  # type: ignore[arg-type]
            out.append(("gralora_B_general", (module.out_features, self.hybrid)))  # type: ignore[arg-type]
        return out

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """Two batched products with an exchange of sub-ranks between them."""
        src = x.dt
        result = base(g, x)
        out_dt = result.dt
        a, b = params[0], params[1]
        k, r = self.k, self.r
        lead = x.shape[:-1]
        rows = prod(lead)
        low = g.matmul(g.dropout(g.to(x, a.dt), self.dropout).view(k, rows, a.shape[1]), a, (k, rows, r), "gralora A")
        mixed = g.clone(low, "gralora exchange")
        del low
        high = g.matmul(mixed, b, (k, rows, b.shape[2]), "gralora B")
        del mixed
        output = g.clone(high, "gralora reshape").view(*lead, result.shape[-1])
        del high
        result = g.add_into(result, g.scale(g.to(output, out_dt), "gralora scaling"))
        if self.hybrid:
            low = g.linear(g.dropout(g.to(x, a.dt), self.dropout), params[2], None, "gralora general A")
            high = g.linear(low, params[3], None, "gralora general B")
            result = g.add_into(result, g.scale(g.to(high, out_dt), "gralora scaling"))
        return g.to(result, src)


class DeloraPlan(TunerPlan):
    """A normalised low-rank pair with a trained strength."""

    peft_type = "DELORA"
    kinds = ("Linear",)
    patterns = ("rank_pattern", "lambda_pattern")

    def prepare(self) -> None:
        """Dropout."""
        self.dropout = float(self.config["module_dropout"])

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """A, B and lambda."""
        r = int(pattern_value(self.config, "rank_pattern", "r", path))
        return (
            ("delora_A", (r, module.in_features)),
            ("delora_B", (module.out_features, r)),
            ("delora_lambda", (1,)),
        )

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """Norms of the base weight's columns."""
        return (("delora_w_norm", (module.in_features,), self.dtype),)

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``base(x) + B(A(x * w_norm) * lambda / (r |A| |B|))``."""
        src = x.dt
        a, b, strength, norms = params
        r = a.shape[0]
        base_out = base(g, x)
        total = g.constant(base_out.shape, base_out.dt, "zeros_like")
        dropped = g.dropout(x, self.dropout)
        h = g.linear(g.mul(dropped, norms), a, None, "delora A")
        an = g.unary("clamp", g.norm_of(a, (r,), "delora norm"))
        bn = g.unary("clamp", g.norm_of(b, (r,), "delora norm"))
        scaling = g.div(g.scale(strength), g.mul(an, bn))
        h = g.mul(h, scaling)
        h = g.linear(h, b, None, "delora B")
        total = g.add_into(total, h)
        result = g.add(base_out, g.to(total, base_out.dt))
        return g.to(result, src)


class RandLoraPlan(TunerPlan):
    """Diagonal scalings of shared random bases that add up to a full-rank change."""

    peft_type = "RANDLORA"
    packed = ("4bit", "8bit")

    def prepare(self) -> None:
        """Shared bases sized by the largest target."""
        self.r = int(self.config["r"])
        self.dropout = float(self.config["randlora_dropout"])
        out = max(m.out_features for _, m in self.found)
        wide = max(m.in_features for _, m in self.found)
        bases = ceil(min(out, wide) / self.r)
        self.extra_params = [
            NewParam("randlora_A", (self.r, 1, min(out, wide)), self.dtype, trainable=False),
            NewParam("randlora_B", (max(out, wide), bases, self.r), self.dtype, trainable=False),
        ]

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """lambda (r x bases) and gamma (bases x smaller side)."""
        small = min(module.in_features, module.out_features)
        bases = ceil(small / self.r)
        return (("randlora_lambda", (self.r, bases)), ("randlora_gamma", (bases, small)))

    def shared(self, path: str, module: Linear) -> tuple[str, ...]:
        """The bases."""
        return ("randlora_A", "randlora_B")

    def run(self, path: str, module: Linear) -> Forward:
        """The scaled bases go on the smaller side."""
        small, large = sorted((module.in_features, module.out_features))
        bases = ceil(small / self.r)
        width = bases * self.r

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            lam, gam, shared_a, shared_b = params
            src = x.dt
            result = base(g, x)
            fixed: Tensor = shared_b.narrow(large, width)
            scaled = g.scaled_bases(shared_a, lam, gam, (self.r, bases, small)).view(width, small)
            down, up = (scaled, fixed) if small == module.in_features else (fixed, scaled)
            x = g.to(x, lam.dt)
            low = g.mm(g.dropout(x, self.dropout), down.view(x.shape[-1], width), "randlora down")
            high = g.mm(low, up.view(width, result.shape[-1]), "randlora up")
            del low
            change = g.scale(high, "randlora scaling")
            del high
            result = g.add(result, change)
            del change
            return g.to(result, src)

        return forward


def _plan(cls: type[TunerPlan]) -> Any:
    def apply(ctx: Context) -> MethodPlan:
        return cls(ctx)

    return apply


METHODS = [
    Method(
        name="miss",
        title="MiSS",
        group="reparametrised",
        trains="one r x out matrix per target, applied to sums over shards of the input",
        formula="sum over targets of r * out (bat: out * r; mini: r * mini_r)",
        source="peft 0.21 tuners/miss; arXiv:2409.15371",
        apply=_plan(MissPlan),
        peft_type="MISS",
        keys={**KEYS["MISS"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="bone",
        title="Bone",
        group="reparametrised",
        trains="as miss, its name since peft 0.18",
        formula="sum over targets of r * out",
        source="peft 0.14 to 0.18 tuners/bone; peft 0.21 has it as tuners/miss; arXiv:2409.15371",
        apply=_plan(MissPlan),
        keys={**KEYS["MISS"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="gralora",
        title="GraLoRA",
        group="lora",
        trains="k low-rank pairs on blocks of the input, their ranks exchanged in between",
        formula="sum over targets of r * (in + out), plus hybrid_r * (in + out)",
        source="peft 0.21 tuners/gralora; arXiv:2505.20355",
        apply=_plan(GraloraPlan),
        peft_type="GRALORA",
        keys={**KEYS["GRALORA"], "lora_alpha": None, "autocast_adapter_dtype": True},
    ),
    Method(
        name="delora",
        title="DeLoRA",
        group="lora",
        trains="a normalised low-rank pair and its strength per target",
        formula="sum over targets of r * (in + out) + 1",
        source="peft 0.21 tuners/delora; arXiv:2503.18225",
        apply=_plan(DeloraPlan),
        peft_type="DELORA",
        keys={**KEYS["DELORA"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="randlora",
        title="RandLoRA",
        group="reparametrised",
        trains="scalings of shared random bases",
        formula="sum over targets of n * (r + min(in, out)), n = ceil(min(in, out) / r)",
        source="peft 0.21 tuners/randlora; arXiv:2502.00987",
        apply=_plan(RandLoraPlan),
        peft_type="RANDLORA",
        keys={**KEYS["RANDLORA"], "autocast_adapter_dtype": True},
    ),
]
