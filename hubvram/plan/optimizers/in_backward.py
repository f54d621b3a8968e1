"""LOMO and AdaLomo: no gradient outlives the arrival of the next one.

A hook on every weight updates the weights whose gradients are there already, in fp32, and drops
them: one gradient waits, one has just arrived. Clipping by norm would take a second backward
pass (``grad_norm``); Trainer's ``max_grad_norm`` finds no gradients.

Source: lomo-optim 0.1.1 ``lomo.py`` and ``adalomo.py`` fuse_update, fused_backward.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.plan.optimizers.adafactor import factored
from hubvram.plan.optimizers.base import Optimizer, Scratch, Trained, no_states, sequence
from hubvram.timeline.dtypes import F32


def lomo(m: Scratch, params: Sequence[Trained]) -> None:
    """fp32 gradient and fp32 weight of one parameter."""
    for p in sequence(params):
        gradient = m.like(p, "fp32 gradient", F32)
        weight = m.like(p, "fp32 weight", F32) if p.dtype is not F32 else None
        del gradient, weight


def adalomo(m: Scratch, params: Sequence[Trained]) -> None:
    """Adafactor's update of one parameter."""
    for p in sequence(params):
        gradient = m.like(p, "fp32 gradient", F32)
        squared = m.like(p, "squared gradient", F32)
        update = m.like(p, "update", F32)
        del squared
        update = m.like(p, "approximated square", F32)
        weight = m.like(p, "fp32 weight", F32) if p.dtype is not F32 else None
        del gradient, update, weight


def adalomo_states(p: Trained) -> Sequence[int]:
    """fp32 rows and columns; the whole second moment for vectors."""
    if len(p.shape) < 2:
        return (p.n * 4,)
    row, column = factored(p.shape)
    return (row * 4, column * 4)


OPTIMIZERS = (
    Optimizer(
        "lomo",
        no_states,
        "no state, no gradients: 10 bytes per element of the largest parameter in passing",
        "lomo-optim 0.1.1 lomo.py",
        step=lomo,
        in_backward=True,
        lag=True,
        notes="gradients are dropped as they arrive; without clipping by norm, which would need a second pass",
    ),
    Optimizer(
        "adalomo",
        adalomo_states,
        "4 bytes per row and column, no gradients: 14 bytes per element of the largest parameter in passing",
        "lomo-optim 0.1.1 adalomo.py",
        step=adalomo,
        in_backward=True,
        lag=True,
        notes="gradients are dropped as they arrive",
    ),
)
