"""Positions: index tensors that models keep as buffers, and relative position biases."""

from __future__ import annotations

from math import prod

from hubvram.timeline.dtypes import I64, DType
from hubvram.timeline.ops.quantized import QuantizedOps
from hubvram.timeline.tracer import Tensor


class PositionOps(QuantizedOps):
    """Position ids, buffers, relative biases."""

    def stored(self, shape: tuple[int, ...], dt: DType = I64) -> Tensor:
        """A slice of a buffer of the model: a view, its memory is the weights'."""
        return Tensor(None, shape, prod(shape), dt)

    def expanded(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``x.expand(shape)`` of a constant: a view."""
        return Tensor(x.st, shape, prod(shape), x.dt)
