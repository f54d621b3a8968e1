"""State-space models and linear attention run step by step in Python.

Sources: transformers 5.23 ``models/mamba/modeling_mamba.py`` (mamba_selective_scan,
the path without mamba-ssm's kernels) and its relatives; torch 2.13 ``derivatives.yaml``.
A loop over tokens is one op here: what it keeps grows by equal amounts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hubvram.timeline.dtypes import F32, DType, promote
from hubvram.timeline.ops.quantized import QuantizedOps
from hubvram.timeline.tracer import DROP, Storage, Tensor, rounded


class ScanOps(QuantizedOps):
    """Recurrences."""

    def outer(self, a: Tensor, b: Tensor, shape: tuple[int, ...], op: str = "mul") -> Tensor:
        """``a * b`` broadcast to a shape larger than both: keeps each for the other's gradient, summed back."""
        dt = promote(a.dt, b.dt)
        n = prod(shape)
        new, unpacked = self.t.new, self.t.unpacked
        ra, rb, da, db, na, nb, sa, sb = a.rg, b.rg, a.dt, b.dt, a.n, b.n, a.shape, b.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            ga = new(n * dt.size, op + " backward", shape, dt) if ra else None
            gb = new(n * dt.size, op + " backward", shape, dt) if rb else None
            unpacked()
            if ra and na != n:
                ga = new(na * dt.size, op + " backward (sum)", sa, dt)
            if ra and da is not dt:
                ga = new(na * da.size, op + " backward", sa, da)
            if rb and nb != n:
                gb = new(nb * dt.size, op + " backward (sum)", sb, dt)
            if rb and db is not dt:
                gb = new(nb * db.size, op + " backward", sb, db)
            return ga, gb

        return self.apply(op, (a, b), shape, dt, bw, save=(a if rb else None, b if ra else None))

    def _block(self, each: int, count: int, op: str, dt: DType) -> Tensor:
        """``count`` tensors of ``each`` bytes as one storage; none where a checkpointed layer drops each at once."""
        if self.t.mode == DROP:
            return Tensor(None, (count,), count, dt)
        return Tensor(self.t.new(rounded(each) * count, op, (count, each // dt.size), dt), (count,), count, dt)

    def recurrence(self, decay: Tensor, update: Tensor, c: Tensor, dt: DType) -> tuple[Tensor, list[Tensor]]:
        """``state = decay[t] * state + update[t]; out[t] = state.to(dt) @ c[t]`` for every token, then ``stack``.

        decay and update are (batch, channels, tokens, states) in fp32, c is (batch, tokens, states).
        Keeps per token the state in fp32 and in ``dt``. Backward adds each token's gradient
        of decay and update, padded to the whole tensor, into one buffer each. Also returns what the
        caller's frame holds: the list of per-token outputs and the last state.
        """
        t = self.t
        b, channels, tokens, states = decay.shape
        cells = b * channels * states
        shape = (b, channels, tokens)
        whole = decay.n * F32.size
        new, cn, cs = t.new, c.n * c.dt.size, c.shape
        full, cd, rc = decay.shape, c.dt, c.rg
        wants = t.wants_grad(decay, update, c)
        step = cells * F32.size

        def bw(g: Storage) -> Sequence[Storage | None]:
            gc = new(cn, "scan grad C", cs, cd) if rc else None
            gu = new(whole, "scan grad update", full, F32)
            gd = new(whole, "scan grad decay", full, F32)
            t.passing(step, whole, op="scan backward (one token's gradient padded to all)")
            return gd, gu, gc

        kept32 = self._block(step, tokens - 1, "scan states", F32) if wants else None
        low = wants and rc and dt is not F32  # in fp32 the product keeps the state itself
        kept = self._block(cells * dt.size, tokens, "scan states " + dt.name, dt) if low else None
        zero = t.tensor((b, channels, states), dt, "scan initial state")
        last = t.tensor((b, channels, states), F32, "scan state")
        parts = self._block(b * channels * dt.size, tokens, "scan outputs", dt)
        out = self.apply("scan", (decay, update, c), shape, dt, bw, save=(decay, c, zero, kept32, kept))
        return out, [last, parts]

    def sub_last(self, x: Tensor, op: str = "sub") -> Tensor:
        """``x[..., -1:] - x``: keeps nothing; backward makes the negative and sums the other."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, op + " backward", shape, dt),)

        return self.apply(op, (x,), shape, dt, bw)

    def outer_sub(self, x: Tensor, shape: tuple[int, ...], op: str = "sub") -> Tensor:
        """``x.unsqueeze(-1) - x.unsqueeze(-2)``: keeps nothing; backward sums one gradient and its negative."""
        new, n, dt, small = self.t.new, x.n, x.dt, x.shape
        whole = prod(shape)

        def bw(g: Storage) -> Sequence[Storage | None]:
            negative = new(whole * dt.size, op + " backward (neg)", shape, dt)
            first = new(n * dt.size, op + " backward (sum)", small, dt)
            second = new(n * dt.size, op + " backward (sum)", small, dt)
            del negative, second
            return (first,)

        return self.apply(op, (x,), shape, dt, bw)

    def solve_triangular(self, a: Tensor, b: Tensor) -> Tensor:
        """``torch.linalg.solve_triangular(a, b)``: keeps a and the result."""
        new, ra, rb, dt = self.t.new, a.rg, b.rg, b.dt
        na, nb, sa, sb = a.n * dt.size, b.n * dt.size, a.shape, b.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            gb = new(nb, "solve_triangular backward", sb, dt)
            ga = None
            if ra:
                product = new(na, "solve_triangular backward (product)", sa, dt)
                ga = new(na, "solve_triangular backward (triangle)", sa, dt)
                del product
            return ga, gb if rb else None

        return self.apply("solve_triangular", (a, b), sb, dt, bw, save=(a,), save_result=True)
