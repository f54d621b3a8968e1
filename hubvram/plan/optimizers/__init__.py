"""Optimizers under their ``TrainingArguments.optim`` names: states, and what a step needs in passing.

To add one: a record in the list below (or a module with more of them).
Sources: torch 2.13 ``optim/adamw.py``, ``optim/sgd.py`` (foreach and fused
forms), bitsandbytes 0.50 ``optim/optimizer.py``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hubvram.errors import SettingError
from hubvram.timeline.dtypes import F32, DType
from hubvram.timeline.tracer import rounded

States = Callable[[int, tuple[int, ...], DType], Sequence[int]]
"""(elements, shape, dtype) of a parameter -> bytes of each state tensor, unrounded."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """A catalogue entry."""

    name: str
    aliases: tuple[str, ...]
    states: States
    per_parameter: str
    """Bytes per parameter, for people."""
    source: str
    foreach_temporaries: int = 0
    """How many tensors as large as all parameters a step makes at once."""
    paged: bool = False
    """States live in managed (host) memory."""


def _adam(n: int, shape: tuple[int, ...], dt: DType) -> Sequence[int]:
    return (n * dt.size, n * dt.size)


def _adam_fused(n: int, shape: tuple[int, ...], dt: DType) -> Sequence[int]:
    return (n * dt.size, n * dt.size, F32.size)  # the step counter is a tensor on the GPU


def _none(n: int, shape: tuple[int, ...], dt: DType) -> Sequence[int]:
    return ()


BNB_BLOCK = 256
BNB_SMALLEST = 4096
"""bitsandbytes keeps 32-bit states for parameters of fewer elements (min_8bit_size)."""


def _adam_8bit(n: int, shape: tuple[int, ...], dt: DType) -> Sequence[int]:
    if n < BNB_SMALLEST:
        return (n * 4, n * 4)
    blocks = -(-n // BNB_BLOCK)
    return (n, n, blocks * 4, blocks * 4)


OPTIMIZERS: tuple[Optimizer, ...] = (
    Optimizer("adamw_torch", ("adamw_torch_foreach",), _adam, "2 states in the parameter's dtype",
              "torch 2.13 optim/adamw.py _multi_tensor_adamw (one _foreach_sqrt temporary)", foreach_temporaries=1),
    Optimizer("adamw_torch_fused", (), _adam_fused, "2 states in the parameter's dtype",
              "torch 2.13 optim/adamw.py _fused_adamw"),
    Optimizer("sgd", (), _none, "none (momentum 0, as Trainer's sgd)", "torch 2.13 optim/sgd.py"),
    Optimizer("adamw_bnb_8bit", ("adamw_8bit",), _adam_8bit,
              "2 x 1 byte + 2 x 4/256 bytes of absmax; 8 below 4096 elements",
              "bitsandbytes 0.50 optim/optimizer.py Optimizer2State"),
)


def find(name: str) -> Optimizer:
    """The optimizer called ``name``.

    Raises:
        SettingError: no such optimizer; names the nearest.
    """
    for o in OPTIMIZERS:
        if name == o.name or name in o.aliases:
            return o
    known = [n for o in OPTIMIZERS for n in (o.name, *o.aliases)]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]}?" if near else "`hubvram optimizers` lists them."
    raise SettingError(f"optim is {name!r}: there is no such optimizer here.", hint=hint)


def state_bytes(optimizer: Optimizer, n: int, shape: tuple[int, ...], dt: DType) -> int:
    """Bytes of all states of one parameter after the allocator's rounding; 0 when paged."""
    if optimizer.paged:
        return 0
    return sum(rounded(size) for size in optimizer.states(n, shape, dt))


def catalogue() -> list[dict[str, Any]]:
    """For ``hubvram optimizers``: plain values."""
    return [
        {"optim": o.name, "aliases": list(o.aliases), "states": o.per_parameter, "paged": o.paged, "source": o.source}
        for o in OPTIMIZERS
    ]
