"""AdaLoRA: LoRA in the form of a singular value decomposition, with an orthogonality term in the loss.

Source: peft 0.21 ``tuners/adalora/{layer,bnb,model}.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan
from hubvram.plan.methods.lora import KEYS as LORA_KEYS
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan
from hubvram.timeline.dtypes import DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.ops.peft_prompt import many
from hubvram.timeline.tracer import Param, Storage, Tensor


class AdaLoraPlan(TunerPlan):
    """A (r x in), singular values E (r), B (out x r); ranknum, one frozen number."""

    peft_type = "ADALORA"
    packed = ("4bit", "8bit", "gptq")

    def prepare(self) -> None:
        """``init_r`` is the rank at the start, where memory is highest."""
        self.r = int(self.config["init_r"])
        self.dropout = float(self.config["lora_dropout"])
        self.recast = self.dtype is not self.ctx.base_dtype

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """Three per target; ranknum too where PEFT's cast to fp32 makes it a new, trainable parameter."""
        return (
            ("lora_A", (self.r, module.in_features)),
            ("lora_E", (self.r, 1)),
            ("lora_B", (module.out_features, self.r)),
            *((("ranknum", (1,)),) if self.recast else ()),
        )

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """The number of singular values in use."""
        return () if self.recast else (("ranknum", (1,), self.dtype),)

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``result += dropout(x) @ (A * E).T @ B.T * scaling / ranknum``."""
        a, e, b, ranknum = params
        result = base(g, x)
        x = g.to(x, a.dt)
        count = g.add_scalar(ranknum)
        scaled = g.mul(a, e)
        low = g.linear(g.dropout(x, self.dropout), scaled, None, f"{base.name}.lora_A")
        del scaled
        delta = g.scale(g.linear(low, b, None, f"{base.name}.lora_B"), "adalora scaling")
        del low
        delta = g.div(delta, count)
        return g.add_into(result, delta)

    def after_loss(self, g: Ops, net: Any, loss: Tensor) -> Tensor:
        """Frobenius norm of ``A A^T - I`` and ``B^T B - I`` over all layers: a first gradient for each A and B."""
        for param in net.params:
            kind = param.name.rsplit(".", 1)[-1]
            if kind in ("lora_A", "lora_B"):
                loss = _regularised(g, param, loss)
        return g.add(loss, g.scale(loss, "adalora regularisation"))


def _regularised(g: Ops, param: Param, loss: Tensor) -> Tensor:
    """One term; its gradient, as large as the parameter, is there before the model's own backward begins."""
    t = g.t
    r = min(param.shape)
    dt, count, shape, n = param.dt, param.count, param.shape, param.n
    like = Tensor(None, shape, n, dt)

    def bw(grad: Storage) -> Sequence[Storage | None]:
        square = many(t, r * r * dt.size, count, "adalora regularisation backward", (r, r), like)
        first = t.new(n * dt.size, "adalora regularisation grad", shape, dt)
        out = many(t, n * dt.size, count, "adalora regularisation grad", shape, like)
        del first, square
        return grad, out

    return g.apply("adalora regularisation", (loss, param), (), loss.dt, bw)


def _apply(ctx: Context) -> MethodPlan:
    return AdaLoraPlan(ctx)


METHODS = [
    Method(
        name="adalora",
        title="AdaLoRA",
        group="lora",
        trains="A, B and singular values E beside each target; the rank starts at init_r and is pruned",
        formula="sum over targets of init_r * (in + out + 1)",
        source="peft 0.21 tuners/adalora; arXiv:2303.10512",
        apply=_apply,
        peft_type="ADALORA",
        keys={**LORA_KEYS, "r": 8, **KEYS["ADALORA"], "target_modules": None},
    ),
]
