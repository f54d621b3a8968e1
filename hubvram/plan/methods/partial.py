"""Methods that train some layers or modules of the model at a time: LISA, BAdam, Spectrum, LLaMA Pro.

Sources: LISA arXiv:2403.17919 and ms-swift ``lisa_activated_layers``; badam 1.4 (arXiv:2404.02827);
Spectrum arXiv:2406.06623 as axolotl's plug-in runs it; LLaMA Pro arXiv:2401.02415 as LLaMA-Factory's ``use_llama_pro``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hubvram.architecture.modules import Architecture, Embedding, Linear, Module, Stack, Weight
from hubvram.errors import SettingError
from hubvram.plan.methods.base import Context, Method, MethodPlan, Skip
from hubvram.plan.optimizers import find


def decoder(arch: Architecture) -> Stack:
    """The stack whose layers the methods choose from."""
    return arch.stacks.get(arch.decoder) or next(iter(arch.stacks.values()))


def number(ctx: Context, key: str, least: int = 1) -> int:
    """A whole number of at least ``least``.

    Raises:
        SettingError: it is not one.
    """
    value = int(ctx.peft[key])
    if value < least:
        raise SettingError(f"{key} is {value}: it must be at least {least}.")
    return value


class LayersPlan(MethodPlan):
    """Some layers of the decoder, whole."""

    def __init__(self, ctx: Context, chosen: frozenset[int], *, outside: bool = False) -> None:
        """``outside``: also everything that is not in the decoder's layers."""
        self.inside = decoder(ctx.arch).prefix + "."
        self.chosen = chosen
        self.outside = outside

    def trains(self, path: str, module: Module, part: str) -> bool:
        """All of the chosen layers."""
        if isinstance(module, Weight) and module.buffer:
            return False
        if not path.startswith(self.inside):
            return self.outside
        return int(path[len(self.inside) :].split(".", 1)[0]) in self.chosen

    def layer_key(self, path: str, layer: int) -> bool:
        """Chosen or not."""
        return path.startswith(self.inside) and layer in self.chosen


def _lisa(ctx: Context) -> MethodPlan:
    n = len(decoder(ctx.arch).order)
    k = min(n, number(ctx, "lisa_activated_layers"))
    ctx.notes.append(
        "which layers are drawn is random: the last ones are taken; states of layers drawn before are not kept"
    )
    return LayersPlan(ctx, frozenset(range(n - k, n)), outside=True)


def _badam(ctx: Context) -> MethodPlan:
    mode = str(ctx.peft["badam_mode"])
    if mode != "layer":
        raise Skip(f"BAdam's mode {mode!r} keeps every gradient: not modelled, only layer is.")
    n = len(decoder(ctx.arch).order)
    start = ctx.peft["badam_start_block"]
    if start is None:
        start = n - 1 if ctx.peft["badam_switch_mode"] == "descending" else 0
    if not 0 <= int(start) < n:
        raise SettingError(f"badam_start_block is {start}: the model has {n} layers.")
    plan = LayersPlan(ctx, frozenset([int(start)]))
    plan.optimizer = find("badam")
    ctx.notes.append(f"layer {start} is the active block; the first needs the most: backward runs through all others")
    return plan


class SpectrumPlan(MethodPlan):
    """A share of each kind of module, and embedding and head.

    The measured signal-to-noise ratios decide which; the number does not depend on them.
    The chosen ones are taken to be spread evenly over the layers.
    """

    def __init__(self, ctx: Context) -> None:
        """Picks layers."""
        share = float(ctx.peft["spectrum_top_fraction"])
        if not 0 < share <= 1:
            raise SettingError(f"spectrum_top_fraction is {share:g}: it must be above 0 and at most 1.")
        stack = decoder(ctx.arch)
        n = len(stack.order)
        k = int(n * share)
        if k == 0:
            raise Skip(f"Spectrum would train int({n} x {share:g}) = 0 modules of each kind.")
        self.inside = stack.prefix + "."
        self.chosen = frozenset((i * n + n - 1) // k for i in range(k))
        self.tied = {ctx.arch.modules[name].path for name in ctx.arch.tied}

    def trains(self, path: str, module: Module, part: str) -> bool:
        """Weights of the chosen modules."""
        if path.startswith(self.inside):
            if isinstance(module, Weight) and module.buffer:
                return False
            return int(path[len(self.inside) :].split(".", 1)[0]) in self.chosen
        return part == "weight" and (
            isinstance(module, Embedding) or (isinstance(module, Linear) and module.role == "head")
        )

    def layer_key(self, path: str, layer: int) -> bool:
        """Chosen or not."""
        return path.startswith(self.inside) and layer in self.chosen


class LlamaProPlan(LayersPlan):
    """New layers, copies of their neighbours that start as identity; only they are trained."""

    def __init__(self, ctx: Context) -> None:
        """Puts one new layer after every group of equal size."""
        new = number(ctx, "num_new_layers")
        stack = decoder(ctx.arch)
        n = len(stack.order)
        if n % new:
            raise Skip(f"LLaMA Pro: {n} layers cannot be divided into {new} equal groups.")
        size = n // new
        order: list[int] = []
        for start in range(0, n, size):
            group = stack.order[start : start + size]
            order += [*group, group[-1]]
        super().__init__(ctx, frozenset(range(size, n + new, size + 1)))
        name = next(key for key, s in ctx.arch.stacks.items() if s is stack)
        stacks = {**ctx.arch.stacks, name: replace(stack, order=tuple(order))}
        self.arch = replace(ctx.arch, stacks=stacks, num_layers=ctx.arch.num_layers + new)


def _method(name: str, title: str, trains: str, formula: str, source: str, apply: Any, keys: dict[str, Any]) -> Method:
    return Method(
        name=name, title=title, group="selective", trains=trains, formula=formula, source=source, apply=apply, keys=keys
    )


METHODS = [
    _method(
        "lisa",
        "LISA",
        "embedding, head, final norm and k layers drawn anew every few steps",
        "everything outside the layers + lisa_activated_layers layers (2 by default)",
        "arXiv:2403.17919; ms-swift lisa_activated_layers",
        _lisa,
        {"lisa_activated_layers": 2, "lisa_step_interval": 20, "exp_name": None},
    ),
    _method(
        "badam",
        "BAdam",
        "one layer at a time, with fp32 copies of its weights",
        "parameters of one layer",
        "badam 1.4; LLaMA-Factory use_badam; arXiv:2404.02827",
        _badam,
        {
            "badam_mode": "layer",
            "badam_start_block": None,
            "badam_switch_mode": "ascending",
            "badam_switch_interval": 50,
        },
    ),
    _method(
        "spectrum",
        "Spectrum",
        "the half of each kind of module with the best signal-to-noise ratio, and embedding and head",
        "embedding + head + int(layers x spectrum_top_fraction) of each kind of module (0.5 by default)",
        "arXiv:2406.06623; axolotl integrations/spectrum",
        SpectrumPlan,
        {"spectrum_top_fraction": 0.5},
    ),
    _method(
        "llama_pro",
        "LLaMA Pro",
        "new layers put between the others; the model grows by them",
        "num_new_layers x parameters of a layer (8 by default)",
        "arXiv:2401.02415; LLaMA-Factory use_llama_pro",
        LlamaProPlan,
        {"num_new_layers": 8},
    ),
]
