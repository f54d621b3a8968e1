"""GLoRA: scale and shift of a layer's weight and bias.

Source: peft 0.21 ``tuners/glora/layer.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan
from hubvram.timeline.dtypes import DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class GloraPlan(TunerPlan):
    """``W + W * A + B`` and the same for the bias."""

    peft_type = "GLORA"
    kinds = ("Linear",)

    def check(self, path: str, module: Linear) -> None:
        """Subclasses of nn.Linear are refused."""
        if self.ctx.arch.model_type == "falcon":
            raise Skip(f"GLoRA takes plain nn.Linear layers; {path} is a FalconLinear.")

    def prepare(self) -> None:
        """Which form each part has."""
        self.r = int(self.config["r"])
        self.ab, self.c = str(self.config["config_A_B"]), str(self.config["config_C"])
        self.de = str(self.config["config_D_E"])

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """A and B; C, D and E where there is a bias."""
        r, out, wide = self.r, module.out_features, module.in_features
        shapes: list[tuple[str, Shape]] = []
        for name in ("glora_A", "glora_B"):
            if self.ab == "lora":
                shapes += [(f"{name}.Xd", (out, r)), (f"{name}.Xu", (r, wide))]
            elif self.ab in ("vector", "constant"):
                shapes.append((f"{name}.X", (out, 1) if self.ab == "vector" else (1,)))
        if module.bias:
            if self.c == "lora":
                shapes += [("glora_C.Xd", (wide, r)), ("glora_C.Xu", (r, 1))]
            elif self.c == "vector":
                shapes.append(("glora_C.X", (wide, 1)))
            if self.de in ("vector", "constant"):
                shapes += [(f"glora_{n}.X", (out,) if self.de == "vector" else (1,)) for n in "DE"]
        return shapes

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """Zeros that stand for the absent parts, in the base's dtype."""
        dt = self.ctx.base_dtype
        out: list[tuple[str, Shape, DType]] = []
        if self.ab not in ("lora", "vector", "constant"):
            out += [(n, (module.out_features, module.in_features), dt) for n in ("A.zeros", "B.zeros")]
        if not module.bias or self.c not in ("lora", "vector"):
            out.append(("C.zeros", (module.in_features, 1), dt))
        if not module.bias or self.de not in ("vector", "constant"):
            out += [(n, (module.out_features,), dt) for n in ("D.zeros", "E.zeros")]
        return out

    def run(self, path: str, module: Linear) -> Forward:
        """A second product with the changed weight, then minus the base's own."""
        names = [n for n, _ in self.shapes(path, module)]

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            own = {name: params[i] for i, name in enumerate(names)}
            base_result = base(g, x)
            src = base_result.dt
            weight = base.weight.detach()
            dt = weight.dt

            def part(name: str) -> Tensor | None:
                if f"{name}.Xd" in own:
                    return g.to(g.mm(own[f"{name}.Xd"], own[f"{name}.Xu"], name), dt)
                return g.to(own[f"{name}.X"], dt) if f"{name}.X" in own else None

            a, b, c, d, e = (part(f"glora_{n}") for n in "ABCDE")
            changed = weight
            if a is not None:
                changed = g.add(changed, g.mul(weight, a))
            if b is not None:
                changed = g.add(changed, b)
            bias = base.bias
            if bias is not None:
                if d is not None and e is not None:
                    bias = g.add(g.add(bias, g.mul(bias, d)), e)
                if c is not None:
                    bias = g.add(bias, g.mm(weight, c, "glora W C").view(module.out_features))
            adapted = g.linear(x, changed, bias, f"{base.name} (glora)")
            result = g.add(base_result, adapted)
            del adapted
            result = g.sub(result, g.scale(base_result, "glora base"))
            return g.to(result, src)

        return forward


def _apply(ctx: Context) -> MethodPlan:
    return GloraPlan(ctx)


METHODS = [
    Method(
        name="glora",
        title="GLoRA",
        group="reparametrised",
        trains="scale and shift of weight and bias, low-rank by default",
        formula="sum over targets of 2 * r * (in + out), and bias parts",
        source="peft 0.21 tuners/glora; arXiv:2306.07967",
        apply=_apply,
        peft_type="GLORA",
        keys={**KEYS["GLORA"], "autocast_adapter_dtype": True},
    ),
]
