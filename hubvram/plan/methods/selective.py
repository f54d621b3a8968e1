"""Methods that train parameters the model already has: last layers, biases, norms.

Sources: BitFit arXiv:2106.10199; peft 0.21 ``tuners/ln_tuning`` (a trained copy
of each target beside the frozen one, never cast to fp32). Freezing names its
key as LLaMA-Factory does (``freeze_trainable_layers``, 2 by default).
"""

from __future__ import annotations

from hubvram.architecture.modules import Linear, Module, Weight
from hubvram.errors import SettingError
from hubvram.plan.methods import target_modules
from hubvram.plan.methods.base import Context, Method, MethodPlan, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import QUANT_WORDS


class BitFitPlan(MethodPlan):
    """Every parameter whose name ends in ``bias``."""

    def __init__(self, ctx: Context) -> None:
        """Raises Skip where the model has no biases."""
        blocks = [m for s in ctx.arch.stacks.values() for b in s.blocks for m in b.modules.values()]
        modules = [*ctx.arch.modules.values(), *blocks]
        if not any(_is_bias(m, part) for m in modules for part, _ in m.parameters):
            raise Skip("The model has no bias parameters.")

    def trains(self, path: str, module: Module, part: str) -> bool:
        """Biases."""
        return _is_bias(module, part)


def _is_bias(module: Module, part: str) -> bool:
    if isinstance(module, Weight):
        return module.path.endswith("bias") and not module.buffer
    return part == "bias"


class FreezePlan(MethodPlan):
    """The last (or, negative, first) k decoder layers."""

    def __init__(self, ctx: Context) -> None:
        """Resolves which layers."""
        k = int(ctx.peft["freeze_trainable_layers"])
        if k == 0:
            raise SettingError("freeze_trainable_layers is 0: nothing would be trained.")
        if ctx.packed:
            raise Skip(f"Layers of {QUANT_WORDS.get(ctx.packed, 'a quantised')} base cannot be trained.")
        stack = ctx.arch.stacks.get(ctx.arch.decoder) or next(iter(ctx.arch.stacks.values()))
        n = len(stack.order)
        self.inside = stack.prefix + "."
        self.chosen = range(max(0, n - k), n) if k > 0 else range(min(n, -k))

    def trains(self, path: str, module: Module, part: str) -> bool:
        """Everything in the chosen layers."""
        if isinstance(module, Weight) and module.buffer:
            return False
        return path.startswith(self.inside) and int(path[len(self.inside) :].split(".", 1)[0]) in self.chosen

    def layer_key(self, path: str, layer: int) -> bool:
        """Chosen or not."""
        return path.startswith(self.inside) and layer in self.chosen


class LnTuningPlan(MethodPlan):
    """A trained copy of each target (norms by default, any module if named)."""

    def __init__(self, ctx: Context) -> None:
        """Resolves targets."""
        self.ctx = ctx
        value = ctx.peft["target_modules"]
        if value is None:
            value = target_modules.LN_TUNING.get(ctx.arch.model_type)
            if value is None:
                raise Skip(
                    f"PEFT has no default target_modules for LN tuning of model type {ctx.arch.model_type}: give them."
                )
        self.value = value
        if ctx.packed and value == "all-linear":
            raise Skip(f"Linear layers of {QUANT_WORDS.get(ctx.packed, 'a quantised')} base cannot be trained.")
        self.names = () if isinstance(value, str) else tuple(value)
        self.ends = tuple(f".{n}" for n in self.names)
        everything = [(m.path, m) for m in ctx.arch.modules.values()]
        for stack in ctx.arch.stacks.values():
            for i, kind in enumerate(stack.order):
                everything += [(f"{stack.prefix}.{i}.{m.path}", m) for m in stack.blocks[kind].modules.values()]
        if not any(self._chosen(path, module) for path, module in everything):
            raise Skip(f"LN tuning: no module of this model matches target_modules {value!r}.")

    def _chosen(self, path: str, module: Module) -> bool:
        if self.value == "all-linear":
            return isinstance(module, Linear) and module.role != "head" and module.kind in ("Linear", "Conv1D")
        if isinstance(self.value, str):
            import re

            return re.fullmatch(self.value, path) is not None
        return path in self.names or path.endswith(self.ends)

    def copies(self, path: str, module: Module, layer: int | None) -> bool:
        """The chosen ones."""
        return self._chosen(path, module)

    def layer_key(self, path: str, layer: int) -> object:
        """A regular expression may choose layers."""
        if not isinstance(self.value, str) or self.value == "all-linear":
            return None
        stack = next(s for s in self.ctx.arch.stacks.values() if path.startswith(s.prefix + "."))
        block = stack.blocks[stack.order[layer]]
        return tuple(m.path for m in block.modules.values() if self._chosen(f"{path}.{m.path}", m))


def _freeze(ctx: Context) -> MethodPlan:
    return FreezePlan(ctx)


def _bitfit(ctx: Context) -> MethodPlan:
    return BitFitPlan(ctx)


def _ln(ctx: Context) -> MethodPlan:
    return LnTuningPlan(ctx)


METHODS = [
    Method(
        name="freeze",
        title="Freeze (last layers)",
        group="selective",
        trains="the last k layers, whole; everything else is frozen",
        formula="parameters of the last freeze_trainable_layers layers (2 by default)",
        source="LLaMA-Factory finetuning_type freeze; torch requires_grad",
        apply=_freeze,
        keys={"freeze_trainable_layers": 2},
    ),
    Method(
        name="bitfit",
        title="BitFit",
        group="selective",
        trains="bias parameters only",
        formula="all parameters named bias",
        source="arXiv:2106.10199",
        apply=_bitfit,
    ),
    Method(
        name="ln_tuning",
        title="LN tuning",
        group="selective",
        trains="a copy of every normalisation layer (or named module); the original stays in memory",
        formula="parameters of the target modules",
        source="peft 0.21 tuners/ln_tuning; arXiv:2312.11420",
        apply=_ln,
        peft_type="LN_TUNING",
        keys=KEYS["LN_TUNING"],
    ),
]
