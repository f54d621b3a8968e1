"""One file per fine-tuning method (or close family of methods); `METHODS` finds them.

To add a method: write ``methods/NAME.py`` with a list ``METHODS`` of `Method`
records and add the module with their names to ``MODULES``. The names stand there
so that an answer from the cache need not load the ops to know which methods there are.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hubvram.errors import SettingError

if TYPE_CHECKING:
    from hubvram.plan.methods.base import Method

MODULES: Mapping[str, tuple[str, ...]] = {
    "full": ("full", "inference"),
    "lora": (
        "lora",
        "rslora",
        "lora_int8",
        "qlora",
        "dora",
        "lora_plus",
        "pissa",
        "olora",
        "eva",
        "corda",
        "loftq",
        "mica",
        "kasa",
        "qalora",
        "bdlora",
        "velora",
        "monteclora",
        "lora_fa",
        "qdora",
    ),
    "prompt": ("prompt_tuning", "p_tuning", "prefix_tuning", "p_tuning_v2"),
    "selective": ("freeze", "bitfit", "ln_tuning"),
    "bottleneck": ("adapter",),
    "adalora": ("adalora",),
    "vectors": ("ia3", "vera", "pvera", "beft", "road"),
    "lycoris": ("loha", "lokr"),
    "orthogonal": ("oft", "boft", "hra"),
    "spectral": ("fourierft", "waveft", "c3a"),
    "blocks": ("miss", "bone", "gralora", "delora", "randlora"),
    "shared_bases": ("vblora", "unilora", "tinylora", "lily", "frod"),
    "sparse": ("shira", "supertuning", "trainable_tokens"),
    "mixtures": ("peanut", "poly", "xlora"),
    "prompt_more": ("multitask_prompt_tuning", "cpt", "cartridge", "adaption_prompt"),
    "decomposed": ("psoft", "osf", "adamss", "deft", "hira"),
    "glora": ("glora",),
    "shadow": ("shadow",),
    "relora": ("relora",),
    "whole": ("galore", "q_galore", "apollo", "apollo_mini", "lomo", "adalomo"),
    "partial": ("lisa", "badam", "spectrum", "llama_pro"),
}
"""Module -> names of its methods, in the order of the table."""

_loaded: dict[str, Method] = {}


def methods() -> Mapping[str, Method]:
    """All methods by name, in the order of the table."""
    for module in MODULES:
        _load(module)
    return {name: _loaded[name] for name in names()}


def _load(module: str) -> None:
    """Import one module's methods, unless they are here already."""
    listed = MODULES[module]
    if listed[0] in _loaded:
        return
    found = {method.name: method for method in import_module(f"hubvram.plan.methods.{module}").METHODS}
    if tuple(found) != listed:
        raise ValueError(f"hubvram.plan.methods.{module} has {tuple(found)}, MODULES lists {listed}")
    _loaded.update(found)


def names() -> list[str]:
    """All method names, in the order of the table."""
    return [name for listed in MODULES.values() for name in listed]


def find(name: str) -> Method:
    """The method called ``name``.

    Raises:
        SettingError: no such method; names the nearest.
    """
    key = name.lower().replace("-", "_")
    module = next((module for module, listed in MODULES.items() if key in listed), None)
    if module is None:
        near = difflib.get_close_matches(key, names(), n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else "`hubvram methods` lists them."
        raise SettingError(f"There is no method {name!r}.", hint=hint)
    _load(module)
    return _loaded[key]


def catalogue() -> list[dict[str, Any]]:
    """For ``hubvram methods``: plain values."""
    return [
        {
            "method": m.name,
            "title": m.title,
            "group": m.group,
            "peft_type": m.peft_type,
            "trains": m.trains,
            "trainable_parameters": m.formula,
            "source": m.source,
        }
        for m in _values(methods())
    ]


def _values(known: Mapping[str, Method]) -> Iterable[Method]:
    return known.values()
