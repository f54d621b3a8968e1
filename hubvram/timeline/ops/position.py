"""Positions: index tensors that models keep as buffers, and relative position biases.

Sources: transformers 5.23 ``models/t5/modeling_t5.py`` (compute_bias),
``models/mpnet/modeling_mpnet.py`` (compute_position_bias), torch 2.13
``derivatives.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hubvram.timeline.dtypes import BOOL, F32, I64, DType
from hubvram.timeline.ops.attention import Mask
from hubvram.timeline.ops.quantized import QuantizedOps
from hubvram.timeline.tracer import Storage, Tensor


class PositionOps(QuantizedOps):
    """Position ids, buffers, relative biases, float masks."""

    def stored(self, shape: tuple[int, ...], dt: DType = I64) -> Tensor:
        """A slice of a buffer of the model: a view, its memory is the weights'."""
        return Tensor(None, shape, prod(shape), dt)

    def floats(self, shape: tuple[int, ...], op: str) -> Tensor:
        """An fp32 constant that the forward pass makes."""
        return self.ones(shape, F32, op)

    def bools(self, shape: tuple[int, ...], op: str) -> Tensor:
        """A boolean constant that the forward pass makes."""
        return self.ones(shape, BOOL, op)

    def expanded(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``x.expand(shape)`` of a constant: a view."""
        return Tensor(x.st, shape, prod(shape), x.dt)

    def float_mask(self, batch: int, queries: int, keys: int, dt: DType, padding: bool) -> Mask | None:
        """A bidirectional mask of the eager kind (``eager_mask``), whatever the attention implementation."""
        if not padding:
            return None
        allowed = self.ones((batch, 1, queries, keys), BOOL, "attention mask (bool)")
        mask = Mask(self.ones((batch, 1, queries, keys), dt, "attention mask"))
        del allowed
        return mask

    def window_mask(self, batch: int, tokens: int, dt: DType, padding: bool, window: int) -> Mask | None:
        """``create_bidirectional_sliding_window_mask``: needed as soon as the sequence reaches the window.

        Without padding it is made once for all samples and expanded.
        """
        if self.attn == "flash_attention_2" or (tokens < window and not padding):
            return None
        allowed = self.ones((batch if padding else 1, 1, tokens, tokens), BOOL, "window mask (bool)")
        whole = (batch, 1, tokens, tokens)
        if self.attn == "eager":
            return Mask(self.ones(whole, dt, "window mask"))
        return Mask(self.expanded(allowed, whole))

    def sum_tokens(self, x: Tensor) -> Tensor:
        """``x.sum(dim=1)`` over (batch, tokens, width): the gradient is an expanded view."""

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (g,)

        return self.apply("sum", (x,), (x.shape[0], x.shape[2]), x.dt, bw)

    def add_(self, x: Tensor, y: Tensor) -> Tensor:
        """``x += y`` (y of x's shape or broadcast): no new tensor; the gradient goes to both."""
        ry, ny, dy, n = y.rg, y.n, y.dt, x.n
        rx, dx, new, ys = x.rg, x.dt, self.t.new, y.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            gy: Storage | None = g if ry else None
            if ry and (ny != n or dy is not dx):
                gy = new(ny * dy.size, "add backward", ys, dy)
            return (g if rx else None, gy)

        if not self.t.wants_grad(x, y):
            return x
        node = self.t.node(bw, (x, y))
        return Tensor(x.st, x.shape, x.n, x.dt, True, node)

    def rearranged(self, x: Tensor, shape: tuple[int, ...], op: str = "permute") -> Tensor:
        """``x.view(...).permute(...).contiguous()``: a copy; backward's reshape of the permuted gradient is another."""
        new, n, dt, whole = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, op + " backward", whole, dt),)

        return self.apply(op, (x,), shape, dt, bw)

    def gather(self, x: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``torch.gather`` along the last side: keeps x and the index; backward scatters into zeros of x's size."""
        new, n, dt, whole = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "gather backward", whole, dt),)

        return self.apply("gather", (x,), shape, dt, bw, save=(x, index))

    def masked_fill(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x.masked_fill(mask, number)``: keeps the mask; backward makes the filled gradient."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "masked_fill backward", shape, dt),)

        return self.apply("masked_fill", (x,), shape, dt, bw, save=(mask,))

    def relative_bias(self, table: Tensor, queries: int, keys: int, heads: int, batch: int = 1) -> Tensor:
        """A learned bias per bucket of distance, looked up for every pair and copied to (batch, heads, queries, keys)."""
        buckets = self.ones((queries, keys), I64, "relative position buckets")
        values = self.embedding(buckets, table, "relative attention bias")
        del buckets
        return self.spread(values, (batch, heads, queries, keys))

    def spread(self, x: Tensor, shape: tuple[int, ...], op: str = "contiguous") -> Tensor:
        """``x.permute(...).expand(shape).contiguous()``: a copy; backward sums over what was expanded."""
        new, n, dt, small = self.t.new, x.n, x.dt, x.shape
        whole = prod(shape)

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (g,) if whole == n else (new(n * dt.size, op + " backward", small, dt),)

        return self.apply(op, (x,), shape, dt, bw)
