"""What PEFT's tuners on linear layers have in common: targets, biases, dtype, quantised bases.

Source: peft 0.21 ``tuners/tuners_utils.py`` (BaseTuner.inject_adapter,
check_target_module_exists, _mark_only_adapters_as_trainable, cast_adapter_dtype).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from hubvram.architecture.modules import Linear, Module
from hubvram.plan.methods import target_modules
from hubvram.plan.methods.base import Adapter, Context, Forward, MethodPlan, NewParam, Skip, layer_choice, targets
from hubvram.timeline.dtypes import DType
from hubvram.timeline.tracer import Tensor

Shape = tuple[int, ...]

QUANT_WORDS: Mapping[str, str] = {
    "4bit": "a 4-bit (bitsandbytes)",
    "8bit": "an LLM.int8",
    "gptq": "a GPTQ",
    "awq": "an AWQ",
    "hqq": "an HQQ",
    "aqlm": "an AQLM",
    "eetq": "an EETQ",
    "fp8": "an FP8",
}


class TunerPlan(MethodPlan):
    """Base of the methods that wrap target linear layers. Subclasses give `shapes` and `run`."""

    peft_type = ""
    """Name in ``PeftType``: decides the default targets."""
    kinds: tuple[str, ...] = ("Linear", "Conv1D")
    """Layers that the tuner takes; it raises on others."""
    packed: tuple[str, ...] = ()
    """Quantised bases that the tuner has layers for."""
    patterns: tuple[str, ...] = ("rank_pattern",)
    """Config keys that give single layers other sizes."""
    fp32 = False
    """Whether its parameters are fp32 on every base."""

    def __init__(self, ctx: Context) -> None:
        """Resolves targets once.

        Raises:
            Skip: no targets, a target that the tuner refuses, or a quantised base it has no layer for.
        """
        self.ctx = ctx
        self.config = config = ctx.peft
        self.plain: bool | None = None
        name = self.peft_type
        if ctx.packed and ctx.packed not in self.packed:
            raise Skip(f"PEFT has no {name} layer for {QUANT_WORDS.get(ctx.packed, 'such')} base.")
        self.table = target_modules.table(name)
        value = config.get("target_modules")
        if value is None and name == "OSF" and ctx.arch.model_type not in self.table:
            value = "all-linear"
        self.chosen = targets(ctx, self.table, value, config.get("exclude_modules"))
        self.layers = layer_choice(config)
        self.dtype: DType = ctx.adapter_dtype
        self.bias = str(config.get("bias", "none"))
        self.found = self._targets()
        if not self.found:
            raise Skip(f"{name}: no module of this model matches target_modules {config.get('target_modules')!r}.")
        for path, module in self.found:
            if module.kind not in self.kinds:
                raise Skip(f"PEFT's {name} takes no {module.kind} layers, such as {path}.")
            self.check(path, module)
        self.prepare()

    def _targets(self) -> list[tuple[str, Linear]]:
        """One (path, module) per distinct target: of equal layers, the first."""
        outside = self.ctx.arch.modules.values()
        out = [(m.path, m) for m in outside if isinstance(m, Linear) and self.takes(m.path, m, None)]
        for stack in self.ctx.arch.stacks.values():
            for kind, block in enumerate(stack.blocks):
                where = [i for i, k in enumerate(stack.order) if k == kind]
                for module in block.modules.values():
                    if not isinstance(module, Linear):
                        continue
                    for i in where:
                        path = f"{stack.prefix}.{i}.{module.path}"
                        if self.takes(path, module, i):
                            out.append((path, module))
                            break
        return out

    def everywhere(self) -> list[tuple[str, Linear]]:
        """Every target, layer by layer."""
        arch = self.ctx.arch
        out = [(m.path, m) for m in arch.modules.values() if isinstance(m, Linear) and self.takes(m.path, m, None)]
        for stack in arch.stacks.values():
            for i, kind in enumerate(stack.order):
                for m in stack.blocks[kind].modules.values():
                    path = f"{stack.prefix}.{i}.{m.path}"
                    if isinstance(m, Linear) and self.takes(path, m, i):
                        out.append((path, m))
        return out

    def takes(self, path: str, module: Linear, layer: int | None) -> bool:
        """Whether the tuner wraps this layer."""
        return self.chosen(path, module) and self.layers(path, layer)

    # ---- for subclasses -------------------------------------------------

    def check(self, path: str, module: Linear) -> None:
        """Raise Skip where PEFT raises for a target."""

    def prepare(self) -> None:
        """Shared parameters and the like, when targets are known."""

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """(name, shape) of each trained parameter of one layer."""
        raise NotImplementedError

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """(name, shape, dtype) of what one layer keeps without training it; follows the trained ones."""
        return ()

    def run(self, path: str, module: Linear) -> Forward:
        """The layer's forward pass."""
        raise NotImplementedError

    def shared(self, path: str, module: Linear) -> tuple[str, ...]:
        """Names of ``extra_params`` that the layer uses."""
        return ()

    # ---- MethodPlan -----------------------------------------------------

    def trains(self, path: str, module: Module, part: str) -> bool:
        """Base biases under ``bias="all"``, or of the targets under ``"<method>_only"``."""
        if part != "bias" or self.bias == "none":
            return False
        return self.bias == "all" or (isinstance(module, Linear) and self.chosen(path[:-5], module))

    def adapter(self, path: str, module: Linear, layer: int | None) -> Adapter | None:
        """Parameters and forward of one target."""
        if not self.takes(path, module, layer):
            return None
        params = [NewParam(f"{path}.{name}", shape, self.dtype) for name, shape in self.shapes(path, module)]
        params += [NewParam(f"{path}.{n}", shape, dt, trainable=False) for n, shape, dt in self.frozen(path, module)]
        return Adapter(tuple(params), self.run(path, module), self.shared(path, module))

    def layer_key(self, path: str, layer: int) -> Any:
        """What is on each module of the layer, where the config can make layers differ."""
        if self.plain is None:
            self.plain = self._is_plain()
        if self.plain:
            return None
        prefix = path.rsplit(".", 1)[0]
        for stack in self.ctx.arch.stacks.values():
            if stack.prefix == prefix:
                block = stack.blocks[stack.order[layer]]
                return tuple(
                    (m.path, tuple(self.shapes(f"{path}.{m.path}", m)), self.shared(f"{path}.{m.path}", m))
                    for m in block.modules.values()
                    if isinstance(m, Linear) and self.takes(f"{path}.{m.path}", m, layer)
                )
        return None

    def _is_plain(self) -> bool:
        """Whether no key of the config can tell layers apart."""
        config = self.config
        names = config.get("target_modules") or self.table.get(self.ctx.arch.model_type, ())
        return (
            config.get("layers_to_transform") is None
            and not any(config.get(p) for p in self.patterns)
            and not config.get("exclude_modules")
            and (names == "all-linear" or not _numbered(names))
            and not self.varies()
        )

    def varies(self) -> bool:
        """Whether layers differ for a reason of the method's own."""
        return False


def _numbered(names: Any) -> bool:
    """Whether target names can tell layers apart: a regular expression, or digits between dots."""
    if isinstance(names, str):
        return True
    return any(re.search(r"(^|\.)\d+(\.|$)", n) for n in names)


def pattern_value(config: Mapping[str, Any], patterns: str, key: str, path: str) -> Any:
    """A config value of one target: ``<key>_pattern`` first (``get_pattern_key``), then ``key``."""
    for pattern, value in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return config[key]


def size(shapes: Sequence[tuple[str, Shape]]) -> int:
    """Number of elements."""
    return sum(prod(s) for _, s in shapes)


class Shared:
    """A tensor that the layers hand to each other within one layer's forward (adaption prompt)."""

    __slots__ = ("base", "tensor")

    def __init__(self) -> None:
        """Empty."""
        self.tensor: Tensor | None = None
        self.base: Any = None


__all__ = ["Shape", "Shared", "TunerPlan", "pattern_value", "size"]
