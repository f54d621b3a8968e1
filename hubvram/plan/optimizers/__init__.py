"""Optimizers under their ``TrainingArguments.optim`` names: states, and what a step needs in passing.

One module per family of optimizers. To add an optimizer: a record in the module it belongs to, or a
new module with a tuple ``OPTIMIZERS``, named in ``MODULES``; `base.Optimizer` says what a record has.
Besides transformers' names there are those of torch.optim that people pass to Trainer themselves.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from hubvram.errors import SettingError
from hubvram.plan.optimizers.base import Optimizer, Scratch, Trained, state_bytes, state_sizes
from hubvram.timeline.dtypes import BF16, DType

MODULES = (
    "torch_adam",
    "torch_other",
    "adafactor",
    "bitsandbytes",
    "low_bit",
    "low_rank",
    "in_backward",
    "block",
    "schedule_free",
    "special",
)
"""In the order of the table."""

_loaded: dict[str, Optimizer] = {}


def optimizers() -> Mapping[str, Optimizer]:
    """All optimizers by name, in the order of the table."""
    if not _loaded:
        for module in MODULES:
            for record in import_module(f"hubvram.plan.optimizers.{module}").OPTIMIZERS:
                _loaded[record.name] = record
    return _loaded


def find(name: str) -> Optimizer:
    """The optimizer called ``name``.

    Raises:
        SettingError: no such optimizer; names the nearest.
    """
    known = optimizers()
    key = name.lower().replace("-", "_")
    if key in known:
        return known[key]
    for record in known.values():
        if key in record.aliases:
            return record
    every = [n for record in known.values() for n in (record.name, *record.aliases)]
    near = difflib.get_close_matches(key, every, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]}?" if near else "`hubvram optimizers` lists them."
    raise SettingError(f"optim is {name!r}: there is no such optimizer here.", hint=hint)


def catalogue() -> list[dict[str, Any]]:
    """For ``hubvram optimizers``: plain values."""
    return [
        {
            "optim": o.name,
            "aliases": list(o.aliases),
            "states": o.per_parameter,
            "bytes_per_parameter": per_parameter(o),
            "paged": o.paged,
            "in_backward": o.in_backward,
            "notes": o.notes,
            "source": o.source,
        }
        for o in optimizers().values()
    ]


def per_parameter(optimizer: Optimizer, dtype: DType = BF16) -> float:
    """State bytes per parameter on the GPU of one linear layer of 4096 x 4096, to three places."""
    p = Trained("weight", (4096, 4096), dtype, kind="linear")
    return round(sum(state_sizes(optimizer, p)) / p.n, 3)


def state_total(optimizer: Optimizer, params: Sequence[Trained], *, trainer: bool = True) -> int:
    """Bytes of all states on the GPU, the shared tables included."""
    return sum(state_bytes(optimizer, p, trainer=trainer) * p.count for p in params) + sum(optimizer.shared)


__all__ = [
    "MODULES",
    "Optimizer",
    "Scratch",
    "Trained",
    "catalogue",
    "find",
    "optimizers",
    "per_parameter",
    "state_bytes",
    "state_sizes",
    "state_total",
]
