"""Methods that train single entries of the weights: SHiRA, Super-Tuning, trained tokens.

Source: peft 0.21 ``tuners/{shira,supertuning,trainable_tokens}/layer.py``; torch 2.13
``derivatives.yaml`` (scatter_add, _sparse_coo_tensor_with_dims_and_tensors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubvram.architecture.modules import Embedding, Linear
from hubvram.errors import SettingError
from hubvram.plan.methods import lora_variants
from hubvram.plan.methods.base import Adapter, Context, Forward, Method, MethodPlan, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan
from hubvram.timeline.dtypes import I32, I64, DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class ShiraPlan(TunerPlan):
    """As many entries of each weight as LoRA of rank r would have parameters."""

    peft_type = "SHIRA"
    kinds = ("Linear",)
    packed = ("4bit", "8bit")

    def count(self, module: Linear) -> int:
        """Trained entries."""
        return int(self.config["r"]) * (module.in_features + module.out_features)

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """One vector."""
        return (("shira_weight", (self.count(module),)),)

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """Row and column of each entry."""
        return (("shira_indices", (2, self.count(module)), I32),)

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """A copy of the weight plus a sparse tensor, then one product."""
        values, index = params
        weight = g.clone(g.base_weight(base), "shira weight")
        wide = g.constant(index.shape, I64, "shira indices (int64)")
        scaled = g.scale(values, "shira scaling")
        sparse = g.any_op("sparse tensor", (scaled,), scaled.shape, scaled.dt, save=(wide,))
        weight = g.add_sparse_into(weight, sparse)
        del sparse, scaled, wide
        return g.linear(x, weight, base.bias, f"{base.name} (shira)")


class SupertuningPlan(TunerPlan):
    """The largest (or smallest) entries of each weight, and optionally a LoRA beside."""

    peft_type = "SUPERTUNING"
    kinds = ("Linear",)

    def count(self, module: Linear) -> int:
        """Trained entries."""
        return int(module.in_features * module.out_features * (1 - float(self.config["sparsity"])))

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """The values; A and B if r is given."""
        out: list[tuple[str, Shape]] = [("supertuning_values", (self.count(module),))]
        if self.config["r"] is not None:
            r = int(self.config["r"])
            out += [("supertuning_lora_A", (r, module.in_features)), ("supertuning_lora_B", (module.out_features, r))]
        return out

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """Where they are."""
        return (("supertuning_indices", (self.count(module),), I32),)

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``W.scatter_add(0, indices, values)``, then one product."""
        values, index = params[0], params[-1]
        weight = base.weight.detach()
        wide = g.constant(index.shape, I64, "supertuning indices (int64)")
        low = g.to(values, weight.dt)
        dense = g.any_op("scatter_add", (low,), weight.shape, weight.dt, save=(wide,))
        del wide, low
        result = g.linear(x, dense, base.bias, f"{base.name} (supertuning)")
        if len(params) == 4:
            a, b = params[1], params[2]
            low = g.to(g.dropout(x, float(self.config["lora_dropout"])), a.dt)
            delta = g.linear(g.linear(low, a, None, "supertuning A"), b, None, "supertuning B")
            result = g.add(result, g.to(g.scale(delta, "lora scaling"), result.dt))
        return result


class TrainableTokensPlan(MethodPlan):
    """Single rows of the token embedding (and of a head tied to it)."""

    def __init__(self, ctx: Context) -> None:
        """Which embedding and how many rows."""
        table = ctx.arch.modules.get("embed")
        if not isinstance(table, Embedding):
            raise Skip("The model has no token embedding.")
        tokens = ctx.peft["token_indices"]
        if not tokens:
            raise SettingError("trainable_tokens needs token_indices.", hint="For example token_indices=[0, 1].")
        names = ctx.peft["target_modules"]
        names = [names] if isinstance(names, str) else names
        if names is not None and not any(table.path == n or table.path.endswith(f".{n}") for n in names):
            raise Skip(f"trainable_tokens on {names} is not known here: only on the token embedding {table.path}.")
        self.table = table
        self.extra_params = lora_variants.token_params(ctx, len(set(tokens)), ctx.adapter_dtype)

    def embedding_adapter(self, path: str, module: Embedding) -> Adapter | None:
        """The embedding itself."""
        return lora_variants.token_adapter(self.extra_params) if module is self.table else None

    def tied_adapter(self, path: str, module: Linear) -> Adapter | None:
        """A tied head takes the same rows."""
        return lora_variants.token_head_adapter(self.extra_params)


def _plan(cls: type[MethodPlan]) -> Any:
    def apply(ctx: Context) -> MethodPlan:
        return cls(ctx)  # type: ignore[call-arg]  # every plan here takes the context

    return apply


def _method(
    name: str, title: str, trains: str, formula: str, source: str, cls: type[MethodPlan], keys: Mapping[str, Any]
) -> Method:
    return Method(
        name=name,
        title=title,
        group="selective",
        trains=trains,
        formula=formula,
        source=f"peft 0.21 tuners/{source}",
        apply=_plan(cls),
        peft_type=name.upper(),
        keys={**keys, "autocast_adapter_dtype": True},
    )


METHODS = [
    _method(
        "shira",
        "SHiRA",
        "r * (in + out) single entries of each target",
        "sum over targets of r * (in + out)",
        "shira; arXiv:2406.13175",
        ShiraPlan,
        KEYS["SHIRA"],
    ),
    _method(
        "supertuning",
        "Super-Tuning",
        "the largest 1 - sparsity of each target's entries",
        "sum over targets of int(in * out * (1 - sparsity))",
        "supertuning; arXiv:2607.09287",
        SupertuningPlan,
        KEYS["SUPERTUNING"],
    ),
    _method(
        "trainable_tokens",
        "Trainable tokens",
        "the embedding's rows of the given tokens (one by default)",
        "tokens * hidden",
        "trainable_tokens",
        TrainableTokensPlan,
        {**KEYS["TRAINABLE_TOKENS"], "token_indices": (0,)},
    ),
]
