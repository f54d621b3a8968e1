"""LoRA on bare parameters: stacked experts and routers.

PEFT wraps a parameter (``target_parameters``) and folds the change into the
weight at every call. For models whose experts became stacked parameters in
transformers 5, it rewrites ``target_modules`` of old: the names of the expert
projections and of the router become parameters, and the rank doubles where two
projections were fused into one.

Source: peft 0.21 ``tuners/lora/layer.py`` (ParamWrapper, _LoraFactorsProxy),
``utils/transformers_weight_conversion.py`` (_convert_peft_config_moe); torch 2.13
``nn/utils/parametrize.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubvram.architecture.modules import Architecture, Linear, Weight
from hubvram.plan.methods.base import Context, NewParam, ParameterAdapter, Skip
from hubvram.timeline.dtypes import DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.ops.moe import Fold
from hubvram.timeline.tracer import Param, Tensor

CONVERSIONS: Mapping[str, Mapping[str, str]] = {
    "mixtral": {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"},
    "qwen2_moe": {
        "gate": "gate.weight",
        "gate_proj": "gate_up_proj",
        "up_proj": "gate_up_proj",
        "down_proj": "down_proj",
    },
}
"""Old module name -> new parameter name, by the pattern that a model type follows (fact ``peft_moe``)."""

FUSED = "gate_up_proj"
"""The parameter that holds two of the old projections."""


@dataclass(frozen=True, slots=True)
class Targets:
    """A LoRA config after PEFT's rewriting."""

    modules: Any
    """``target_modules`` as before, or what is left of them."""
    parameters: tuple[str, ...]
    ranks: Mapping[str, int]
    """Rank of a rewritten parameter where it differs from r."""


def resolve(ctx: Context, config: Mapping[str, Any], default: Any) -> Targets:
    """What PEFT makes of ``target_modules`` and ``target_parameters``; ``default`` is its table's entry.

    Raises:
        Skip: one of two fused projections without the other, which PEFT refuses.
    """
    modules = config["target_modules"] if config["target_modules"] is not None else default
    parameters = set(config.get("target_parameters") or ())
    if modules is None and parameters:  # PEFT asks for one of the two
        modules = []
    elif modules is None:
        ctx.notes.append(
            f"PEFT has no default target_modules for model type {ctx.arch.model_type}: all-linear is assumed"
        )
        modules = "all-linear"
    conversion = CONVERSIONS.get(str(ctx.arch.facts.get("peft_moe")))
    if conversion is None or ctx.transformers < (5,) or modules is None:
        return Targets(modules, tuple(sorted(parameters)), {})
    names = set(_names(ctx.arch, modules, conversion)) if isinstance(modules, str) else set(modules)
    if isinstance(modules, str) and not names:
        return Targets(modules, tuple(sorted(parameters)), {})
    left, fused = [], set()
    for name in sorted(names):
        old = next((o for o in conversion if name == o or name.endswith(f".{o}")), None)
        if old is None:
            left.append(name)
            continue
        parameters.add(conversion[old])
        if conversion[old] == FUSED:
            fused.add(old)
    wanted = {old for old, new in conversion.items() if new == FUSED}
    if fused and fused != wanted:
        raise Skip(
            f"PEFT cannot target {', '.join(sorted(fused))} without {', '.join(sorted(wanted - fused))}: "
            f"transformers 5 fuses them into {FUSED}."
        )
    ranks = {FUSED: int(config["r"]) * 2} if fused else {}
    return Targets(left, tuple(sorted(parameters)), ranks)


def _names(arch: Architecture, pattern: str, conversion: Mapping[str, str]) -> Iterator[str]:
    """The leaf names a regex or ``all-linear`` stands for."""
    everything = pattern.lower() == "all-linear"
    if everything:
        yield from conversion
    regex = None if everything else re.compile(pattern)
    for path, module in paths(arch):
        leaf = path.rsplit(".", 1)[-1]
        if regex is None:
            if isinstance(module, Linear) and module.role != "head" and module.kind in ("Linear", "Conv1D"):
                yield leaf
        elif regex.fullmatch(path):
            yield leaf
        elif isinstance(module, Weight) and module.adaptable:
            if leaf == "weight" and regex.fullmatch(path[: -len(".weight")]):
                yield path.split(".")[-2]
            container = path.rsplit(".", 1)[0]
            yield from (old for old, new in conversion.items() if new == leaf and regex.fullmatch(f"{container}.{old}"))


def paths(arch: Architecture) -> Iterator[tuple[str, Any]]:
    """Every module with its path; of equal layers only the first."""
    for module in arch.modules.values():
        yield module.path, module
    for stack in arch.stacks.values():
        for kind, block in enumerate(stack.blocks):
            if kind in stack.order:
                prefix = f"{stack.prefix}.{stack.order.index(kind)}"
                for module in block.modules.values():
                    yield f"{prefix}.{module.path}", module


class LoraFold:
    """One adapted weight during one call: its factors, and the sum once it has been asked for."""

    __slots__ = ("base", "factors", "scaled", "sum")

    def __init__(self, g: Ops, base: Param, params: Sequence[Param], scaled: bool) -> None:
        """Factors in the weight's dtype; the parametrisation runs once to check shapes and throws the result away."""
        self.base = base
        self.scaled = scaled
        a, b = params
        if len(base.shape) == 3:
            experts = base.shape[0]
            rank = a.shape[0] // experts
            left = g.to(g.copied_back(b, (experts, b.shape[0], rank)), base.dt)
            right = g.to(a.view(experts, rank, a.shape[1]), base.dt)
            self.factors: tuple[Tensor, ...] = (left, right)
        else:
            self.factors = (_delta(g, base, a, b),)
        self.sum: Tensor | None = None
        self._make(g)

    def _make(self, g: Ops) -> Tensor:
        if len(self.factors) == 1:
            return g.add(self.base, self.factors[0])
        return g.baddbmm(self.base, self.factors[0], self.factors[1], self.scaled)

    def value(self, g: Ops) -> Tensor:
        """The adapted weight, made once per call (``parametrize.cached``)."""
        if self.sum is None:
            self.sum = self._make(g)
        return self.sum


def _delta(g: Ops, base: Param, a: Param, b: Param) -> Tensor:
    """``get_delta_weight``: (B @ A) * scaling, in the weight's dtype."""
    product = g.matmul(b, a, base.shape, "lora_B @ lora_A")
    return g.to(g.scale(product, "lora scaling"), base.dt)


def adapter(
    targets: Targets, path: str, module: Weight, config: Mapping[str, Any], rank: int, dtype: DType
) -> ParameterAdapter | None:
    """LoRA on one parameter, if it is among the targets.

    Raises:
        Skip: dropout or DoRA, which PEFT refuses on parameters.
    """
    if not any(path == name or path.endswith(f".{name}") for name in targets.parameters):
        return None
    if config["lora_dropout"]:
        raise Skip(f"PEFT's LoRA on a parameter ({path}) takes no lora_dropout.")
    if config["use_dora"]:
        raise Skip(f"PEFT's LoRA on a parameter ({path}) takes no use_dora.")
    rank = targets.ranks.get(path.rsplit(".", 1)[-1], rank)
    shape = module.shape
    experts = shape[0] if len(shape) == 3 else 1
    n_out, n_in = shape[-2:]
    scaled = config["lora_alpha"] != rank

    def fold(g: Ops, base: Param, params: Sequence[Param]) -> Fold:
        return LoraFold(g, base, params, scaled)

    return ParameterAdapter(
        (
            NewParam(f"{path}.lora_A", (rank * experts, n_in), dtype),
            NewParam(f"{path}.lora_B", (n_out, rank * experts), dtype),
        ),
        fold,
    )


__all__ = ["LoraFold", "Targets", "adapter", "paths", "resolve"]
