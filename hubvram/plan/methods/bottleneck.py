"""Bottleneck adapters after attention and MLP, as the ``adapters`` library has them.

Source: adapters 1.2 ``configuration/adapter_config.py`` (BnConfig, SeqBnConfig,
DoubleSeqBnConfig, ParBnConfig), ``methods/modeling.py`` (Adapter); Houlsby et al.
arXiv:1902.00751, Pfeiffer et al. arXiv:2005.00247. The adapter works in the
model's dtype; what stands after a block's output is put on the linear layer
that makes that output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.errors import SettingError
from hubvram.plan.methods.base import Adapter, Context, Method, MethodPlan, NewParam, Skip
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "seq_bn": {"mh_adapter": False, "output_adapter": True, "reduction_factor": 16, "non_linearity": "relu"},
    "double_seq_bn": {"mh_adapter": True, "output_adapter": True, "reduction_factor": 16, "non_linearity": "swish"},
    "par_bn": {"mh_adapter": False, "output_adapter": True, "reduction_factor": 2, "non_linearity": "relu"},
}
NAMES = {"pfeiffer": "seq_bn", "houlsby": "double_seq_bn", "parallel": "par_bn"}


class BottleneckPlan(MethodPlan):
    """Down projection, activation, up projection, residual."""

    def __init__(self, ctx: Context) -> None:
        """Resolves the named config and what overrides it."""
        word = str(ctx.peft["config"]).lower()
        named = CONFIGS.get(NAMES.get(word, word))
        if named is None:
            raise SettingError(f"config is {word!r}: it must be one of {', '.join((*CONFIGS, *NAMES))}.")
        given = {k: v for k, v in ctx.peft.items() if k in named and v is not None}
        self.settings = {**named, **given}
        self.roles = tuple(
            role
            for role, on in (("attn_out", self.settings["mh_adapter"]), ("mlp_out", self.settings["output_adapter"]))
            if on
        )
        blocks = [m for s in ctx.arch.stacks.values() for b in s.blocks for m in b.modules.values()]
        if not any(isinstance(m, Linear) and m.role in self.roles for m in blocks):
            raise Skip("No layer of this model is known as the output of attention or MLP.")
        self.dtype = ctx.base_dtype
        out = ctx.peft["leave_out"] or ()
        self.left_out = frozenset(int(i) for i in out)
        self.bias = bool(ctx.peft["bias"])

    def adapter(self, path: str, module: Linear, layer: int | None) -> Adapter | None:
        """Width / reduction_factor in the middle."""
        if module.role not in self.roles or layer is None or layer in self.left_out:
            return None
        h = module.out_features
        d = max(1, int(h // float(self.settings["reduction_factor"])))
        params = [NewParam(f"{path}.adapter_down.weight", (d, h), self.dtype)]
        if self.bias:
            params.append(NewParam(f"{path}.adapter_down.bias", (d,), self.dtype))
        params.append(NewParam(f"{path}.adapter_up.weight", (h, d), self.dtype))
        if self.bias:
            params.append(NewParam(f"{path}.adapter_up.bias", (h,), self.dtype))
        return Adapter(tuple(params), self.forward)

    def layer_key(self, path: str, layer: int) -> bool | None:
        """``leave_out`` names layers without an adapter."""
        return layer in self.left_out if self.left_out else None

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``h + up(act(down(h)))`` on the layer's output h."""
        h = base(g, x)
        down, up = (params[0], params[-2]) if self.bias else params
        b1, b2 = (params[1], params[-1]) if self.bias else (None, None)
        low = g.act(str(self.settings["non_linearity"]), g.linear(g.to(h, self.dtype), down, b1, "adapter down"))
        return g.add(g.linear(low, up, b2, "adapter up"), h)


def _apply(ctx: Context) -> MethodPlan:
    return BottleneckPlan(ctx)


METHODS = [
    Method(
        name="adapter",
        title="Bottleneck adapter",
        group="bottleneck",
        trains="a small two-layer network after each MLP (Pfeiffer, seq_bn) or after attention and MLP (Houlsby)",
        formula="per place 2 * h * d + d + h, d = h / reduction_factor",
        source="adapters 1.2 configuration/adapter_config.py; arXiv:1902.00751, arXiv:2005.00247",
        apply=_apply,
        keys={
            "config": "seq_bn",
            "mh_adapter": None,
            "output_adapter": None,
            "reduction_factor": None,
            "non_linearity": None,
            "leave_out": None,
            "bias": True,
        },
    ),
]
