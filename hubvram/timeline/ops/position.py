"""Positions: index tensors that models keep as buffers, and relative position biases.

Sources: transformers 5.23 ``models/t5/modeling_t5.py`` (compute_bias),
``models/mpnet/modeling_mpnet.py`` (compute_position_bias), torch 2.13
``derivatives.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hubvram.timeline.dtypes import BF16, BOOL, F16, F32, I64, DType
from hubvram.timeline.ops.attention import Mask
from hubvram.timeline.ops.quantized import QuantizedOps
from hubvram.timeline.tracer import Param, Storage, Tensor


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

    def cross_mask(self, batch: int, queries: int, keys: int, dt: DType, padding: bool) -> Mask | None:
        """The mask of cross attention: needed only where the source is padded."""
        if not padding or self.attn == "flash_attention_2":
            return None
        if self.attn == "eager":
            return self.float_mask(batch, queries, keys, dt, padding)
        return Mask(self.ones((batch, 1, queries, keys), BOOL, "cross attention mask"))

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

    def mean_tokens(self, x: Tensor) -> Tensor:
        """``x.mean(dim=1)`` over (batch, tokens, width): backward divides the expanded gradient."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "mean backward", shape, dt),)

        return self.apply("mean", (x,), (x.shape[0], x.shape[2]), dt, bw)

    def mean_all(self, x: Tensor) -> Tensor:
        """``x.mean()``: one number; backward spreads it."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "mean backward", shape, dt),)

        return self.apply("mean", (x,), (), dt, bw)

    # ---- attention with a position bias ----------------------------------

    def attention_biased(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor,
        mask: Mask | None,
        *,
        causal: bool,
        dropout: float,
        strided: bool = True,
    ) -> Tensor:
        """Attention whose scores get a bias (1, heads, queries, keys); returns (batch, tokens, width).

        ``strided``: the bias is a permuted view of a look-up, which sdpa wants contiguous.

        ``integrations/sdpa_attention.py`` create_position_bias_mask makes it the
        kernel's float mask, joined with the causal or the padding mask; the bias
        needs a gradient, so the kernel returns one for every sample.
        """
        b, h, s, d = q.shape
        sk = k.shape[2]
        q, k, v = self.lower(q), self.lower(k), self.lower(v)
        if self.attn == "eager":
            if b > 1:
                q, k = self.clone(q, "matmul reshape"), self.clone(k, "matmul reshape")
            w = self.scale(self.matmul(q, k, (b, h, s, sk), "attention scores"), "scores scale")
            w = self.add(w, bias)
            if mask is not None:
                w = self.add(w, mask.tensor)
            w = self.dropout(self.softmax(w, None), dropout)
            if b > 1:
                v = self.clone(v, "matmul reshape")
            out = self.matmul(w, v, (b, h, s, v.shape[-1]), "attention output")
            return self.clone(out).view(b, s, h * v.shape[-1])
        dense = self.lower(self._bias_mask(bias, mask, b, s, sk, causal=causal, strided=strided))
        half = q.dt in (F16, BF16)
        align = 8 if half else 4
        if (half and q.dt is not F16 and self.sm < 80) or d % align:
            out = self.sdpa_math(q, k, v, dense, causal=False, dropout=dropout if self.training else 0.0)
            return self.clone(out).view(b, s, h * v.shape[-1])
        if sk % 16:
            dense = self.rearranged(dense, (*dense.shape[:-1], (sk + 15) // 16 * 16), "sdpa mask padded")
        whole = (b, h, s, dense.shape[-1])
        return self.efficient(q, k, v, self.expand_view(dense, whole), aligned=True).view(b, s, h * v.shape[-1])

    def _bias_mask(
        self, bias: Tensor, mask: Mask | None, batch: int, queries: int, keys: int, *, causal: bool, strided: bool
    ) -> Tensor:
        if mask is not None:  # the mask is expanded over the batch, whether its storage is or not
            bias = self.where(mask.tensor, bias, (batch, *bias.shape[1:]))
        elif causal:
            allowed = self.bools((1, 1, queries, keys), "causal mask of the bias")
            bias = self.where(allowed, bias, bias.shape)
        return self.clone(bias) if strided else bias

    def where(self, condition: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``torch.where(condition, x, number)``: keeps the condition; backward fills, and sums what was expanded."""
        new, n, dt, small = self.t.new, x.n, x.dt, x.shape
        whole = prod(shape)

        def bw(g: Storage) -> Sequence[Storage | None]:
            filled = new(whole * dt.size, "where backward", shape, dt)
            if whole == n:
                return (filled,)
            out = new(n * dt.size, "where backward (sum)", small, dt)
            del filled
            return (out,)

        return self.apply("where", (x,), shape, dt, bw, save=(condition,))

    def expand_view(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``x.expand(shape)``: a view; backward sums over what was expanded."""
        whole = prod(shape)
        if whole == x.n or not self.t.wants_grad(x):
            return Tensor(x.st, shape, whole, x.dt, x.rg, x.node)
        new, n, dt, small = self.t.new, x.n, x.dt, x.shape
        node = self.t.node(lambda g: (new(n * dt.size, "expand backward", small, dt),), (x,))
        return Tensor(x.st, shape, whole, dt, True, node)

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
        """A learned bias per bucket of distance, looked up for every pair, copied to (batch, heads, queries, keys)."""
        buckets = self.ones((queries, keys), I64, "relative position buckets")
        values = self.embedding(buckets, table, "relative attention bias")
        del buckets
        return self.spread_copy(values, (batch, heads, queries, keys))

    def bias_table(self, table: Tensor, queries: int, keys: int, heads: int) -> Tensor:
        """T5's ``compute_bias``: the look-up as a permuted view (1, heads, queries, keys)."""
        buckets = self.ones((queries, keys), I64, "relative position buckets")
        return self.embedding(buckets, table, "relative attention bias").view(1, heads, queries, keys)

    def leaf(self, shape: tuple[int, ...], dt: DType, op: str) -> Tensor:
        """A constant that is made to require a gradient; the gradient is kept in its ``.grad``."""
        made = Param(op, shape, dt, True, count=0)
        made.st = self.t.new(made.n * dt.size, op, shape, dt)
        return made

    def spread_copy(self, x: Tensor, shape: tuple[int, ...], op: str = "contiguous") -> Tensor:
        """``x.permute(...).expand(shape).contiguous()``: a copy; backward sums over what was expanded."""
        new, n, dt, small = self.t.new, x.n, x.dt, x.shape
        whole = prod(shape)

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (g,) if whole == n else (new(n * dt.size, op + " backward", small, dt),)

        return self.apply(op, (x,), shape, dt, bw)
