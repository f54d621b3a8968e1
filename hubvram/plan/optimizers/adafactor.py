"""Adafactor: a matrix's second moment kept as one row and one column.

Works in fp32, one parameter at a time. Source: transformers 5.23 ``optimization.py`` Adafactor with
``scale_parameter=False, relative_step=False`` and no first moment, as Trainer builds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.plan.optimizers.base import Optimizer, Scratch, Trained, sequence
from hubvram.timeline.dtypes import F32
from hubvram.timeline.tracer import Storage


def factored(shape: tuple[int, ...]) -> tuple[int, int]:
    """Elements of the row and column statistics of a tensor of at least two dimensions."""
    n = 1
    for side in shape:
        n *= side
    return n // shape[-1], n // shape[-2]


def states(p: Trained) -> Sequence[int]:
    """Row and column statistics in fp32 (the whole second moment for vectors), and the last RMS."""
    if len(p.shape) < 2:
        return (p.n * 4, 4)
    row, column = factored(p.shape)
    return (row * 4, column * 4, 4)


def step(m: Scratch, params: Sequence[Trained]) -> None:
    """The loop of the real step; its locals outlive one parameter."""
    grad: Storage | None = None
    weight: Storage | None = None
    update: Storage | None = None
    for p in sequence(params):
        low = p.dtype is not F32
        grad = m.like(p, "fp32 gradient", F32) if low else None
        weight = m.like(p, "fp32 weight", F32) if low else None
        squared = m.like(p, "squared gradient", F32)
        update = m.like(p, "update", F32)
        del squared
        if len(p.shape) > 1:
            row, column = factored(p.shape)
            mean = m.tensor(row, F32, "row mean")
            del mean
            rows = m.tensor(row, F32, "row factor")
            columns = m.tensor(column, F32, "column factor")
            update = m.like(p, "approximated square", F32)
            del rows, columns
        else:
            update = m.like(p, "inverse root", F32)
        negative = m.like(p, "negated update", F32)
        del negative
    del grad, weight, update


OPTIMIZERS = (
    Optimizer(
        "adafactor",
        states,
        "4 bytes per row and per column of a matrix (under 0.01 per parameter); 4 for vectors; "
        "at the step 16 bytes per element of the largest parameter (fp32 copies)",
        "transformers 5.23 optimization.py Adafactor",
        step=step,
    ),
)
