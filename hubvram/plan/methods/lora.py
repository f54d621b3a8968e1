"""LoRA and its quantised-base forms.

Source: peft 0.21 ``tuners/lora/layer.py`` (Linear), ``tuners/lora/bnb.py``
(Linear4bit, Linear8bitLt).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubvram.architecture.modules import Linear, Weight
from hubvram.plan.methods import experts, target_modules
from hubvram.plan.methods.base import (
    Adapter,
    Context,
    Method,
    MethodPlan,
    NewParam,
    ParameterAdapter,
    layer_choice,
    targets,
)
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor

KEYS: Mapping[str, Any] = {
    "r": 16,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": None,
    "target_parameters": None,
    "exclude_modules": None,
    "layers_to_transform": None,
    "layers_pattern": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "autocast_adapter_dtype": True,
}
"""LoraConfig keys (peft 0.21) with PEFT's defaults, but r = 16 as this project's interface says."""


class LoraPlan(MethodPlan):
    """Two small matrices beside each target."""

    def __init__(self, ctx: Context, config: Mapping[str, Any]) -> None:
        """Resolves targets once."""
        self.ctx = ctx
        self.config = config
        default = target_modules.LORA.get(ctx.arch.model_type)
        self.targets = experts.resolve(ctx, config, default)
        self.chosen = targets(ctx, target_modules.LORA, self.targets.modules, config["exclude_modules"])
        self.layers = layer_choice(config)
        self.dropout = float(config["lora_dropout"])
        self.dtype = ctx.adapter_dtype

    def trains(self, path: str, module: Any, part: str) -> bool:
        """Base biases under ``bias="all"`` / ``"lora_only"``."""
        if part != "bias" or self.config["bias"] == "none":
            return False
        return self.config["bias"] == "all" or (isinstance(module, Linear) and self.chosen(path[:-5], module))

    def adapter(self, path: str, module: Linear, layer: int | None) -> Adapter | None:
        """A (r x in) and B (out x r)."""
        if not self.chosen(path, module) or not self.layers(path, layer):
            return None
        r = rank_of(self.config, path)
        return Adapter(
            (
                NewParam(f"{path}.lora_A", (r, module.in_features), self.dtype),
                NewParam(f"{path}.lora_B", (module.out_features, r), self.dtype),
            ),
            self.forward,
        )

    def parameter_adapter(self, path: str, module: Weight, layer: int | None) -> ParameterAdapter | None:
        """The same on a bare parameter (stacked experts, routers)."""
        if not self.targets.parameters or not self.layers(path, layer):
            return None
        return experts.adapter(self.targets, path, module, self.config, rank_of(self.config, path), self.dtype)

    def layer_key(self, path: str, layer: int) -> Any:
        """Layers differ by choice and by rank."""
        if self.config["layers_to_transform"] is None and not self.config["rank_pattern"]:
            return None
        return self.layers(path, layer), rank_of(self.config, path)

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``result = base(x); result = result + B(A(dropout(x.to(A.dtype)))) * scaling; result.to(dtype)``."""
        result = base(g, x)
        src = result.dt
        low = g.to(x, params[0].dt)
        down = g.linear(g.dropout(low, self.dropout), params[0], None, f"{base.name}.lora_A")
        delta = g.scale(g.linear(down, params[1], None, f"{base.name}.lora_B"), "lora scaling")
        del down
        result = g.add(result, delta)
        return g.to(result, src)


def rank_of(config: Mapping[str, Any], path: str) -> int:
    """``r`` of one target, with ``rank_pattern`` (keys match the end of the path, or as a regex)."""
    for pattern, r in config["rank_pattern"].items():
        import re

        if re.match(rf"(.*\.)?({pattern})$", path):
            return int(r)
    return int(config["r"])


def _apply(ctx: Context) -> MethodPlan:
    return LoraPlan(ctx, ctx.peft)


METHODS = [
    Method(
        name="lora",
        title="LoRA",
        group="lora",
        trains="A (r x in) and B (out x r) beside each target linear layer",
        formula="sum over targets of r * (in + out)",
        source="peft 0.21 tuners/lora; arXiv:2106.09685",
        apply=_apply,
        peft_type="LORA",
        keys=KEYS,
    ),
    Method(
        name="rslora",
        title="rank-stabilised LoRA",
        group="lora",
        trains="as lora; scaled by alpha / sqrt(r)",
        formula="sum over targets of r * (in + out)",
        source="peft 0.21 tuners/lora (use_rslora); arXiv:2312.03732",
        apply=_apply,
        peft_type="LORA",
        keys={**KEYS, "use_rslora": True},
    ),
    Method(
        name="lora_int8",
        title="LoRA on an LLM.int8 base",
        group="lora",
        trains="as lora; the base's linear layers are int8",
        formula="sum over targets of r * (in + out)",
        source="peft 0.21 tuners/lora/bnb.py; bitsandbytes 0.50; arXiv:2208.07339",
        apply=_apply,
        peft_type="LORA",
        keys=KEYS,
        quantization="8bit",
    ),
    Method(
        name="qlora",
        title="QLoRA (4-bit base)",
        group="lora",
        trains="as lora; the base's linear layers are nf4 or fp4",
        formula="sum over targets of r * (in + out)",
        source="peft 0.21 tuners/lora/bnb.py; bitsandbytes 0.50; arXiv:2305.14314",
        apply=_apply,
        peft_type="LORA",
        keys=KEYS,
        quantization="4bit",
    ),
]
