"""Matrix products: linear layers, batched matmul, embedding look-up.

Sources: torch 2.13 ``derivatives.yaml`` (mm, addmm, bmm, embedding),
``native/Linear.cpp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hubvram.timeline.dtypes import I64, DType, promote
from hubvram.timeline.ops.elementwise import OpsBase
from hubvram.timeline.tracer import Storage, Tensor


class LinearOps(OpsBase):
    """Ops that run on cuBLAS, and embeddings."""

    def linear(self, x: Tensor, w: Tensor, b: Tensor | None = None, op: str = "linear") -> Tensor:
        """``F.linear(x, w, b)``; w is (out, in) or, for Conv1D, (in, out): the last side of x decides.

        Keeps x if w is trained, w if x needs a gradient. Backward allocates the
        gradient of x, of w and of b, each in the dtype of the product.
        """
        if self.t.autocast is not None:  # cast from the last argument to the first (argument packs under GCC)
            if b is not None:
                b = self.lower(b)
            w = self.lower(w)
            x = self.lower(x)
        n_in = x.shape[-1]
        n_out = w.n // n_in
        shape = (*x.shape[:-1], n_out)
        dt = x.dt
        new, rx, rw, xs, ws = self.t.new, x.rg, w.rg, x.shape, w.shape
        bx, bwt, e = x.n * dt.size, w.n * w.dt.size, w.dt
        if b is None:

            def bw(g: Storage) -> Sequence[Storage | None]:
                return (
                    new(bx, op + " grad input", xs, dt) if rx else None,
                    new(bwt, op + " grad weight", ws, e) if rw else None,
                )

            inputs: tuple[Tensor, ...] = (x, w)
        else:
            rb, bb, bs = b.rg, b.n * b.dt.size, b.shape

            def bw(g: Storage) -> Sequence[Storage | None]:
                return (
                    new(bx, op + " grad input", xs, dt) if rx else None,
                    new(bwt, op + " grad weight", ws, e) if rw else None,
                    new(bb, op + " grad bias", bs, e) if rb else None,
                )

            inputs = (x, w, b)
        return self.apply(op, inputs, shape, dt, bw, save=(x if rw else None, w if rx else None))

    def matmul(self, a: Tensor, b: Tensor, shape: tuple[int, ...], op: str = "matmul") -> Tensor:
        """Batched ``a @ b`` (bmm): keeps both, backward allocates a gradient for each."""
        b = self.lower(b)
        a = self.lower(a)
        dt = promote(a.dt, b.dt)
        new, ra, rb, na, nb, sa, sb = self.t.new, a.rg, b.rg, a.n * a.dt.size, b.n * b.dt.size, a.shape, b.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (
                new(na, op + " backward", sa, dt) if ra else None,
                new(nb, op + " backward", sb, dt) if rb else None,
            )

        return self.apply(op, (a, b), shape, dt, bw, save=(a if rb else None, b if ra else None))

    def scores_on_bias(self, a: Tensor, b: Tensor, shape: tuple[int, ...], op: str = "baddbmm") -> Tensor:
        """``constant.baddbmm(a, b, alpha=...)``: as `matmul`; backward scales each gradient out of place."""
        b = self.lower(b)
        a = self.lower(a)
        dt = promote(a.dt, b.dt)
        new, ra, rb, na, nb, sa, sb = self.t.new, a.rg, b.rg, a.n * a.dt.size, b.n * b.dt.size, a.shape, b.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            ga = new(na, op + " backward", sa, dt) if ra else None
            ga = new(na, op + " backward scaled", sa, dt) if ra else None
            gb = new(nb, op + " backward", sb, dt) if rb else None
            gb = new(nb, op + " backward scaled", sb, dt) if rb else None
            return ga, gb

        return self.apply(op, (a, b), shape, dt, bw, save=(a if rb else None, b if ra else None))

    def embedding(self, ids: Tensor, w: Tensor, op: str = "embedding") -> Tensor:
        """``F.embedding``: keeps the ids; backward makes a dense gradient of the whole table."""
        new, size, ws, dt = self.t.new, w.n * w.dt.size, w.shape, w.dt
        shape = (*ids.shape, w.shape[-1])

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(size, op + " grad weight", ws, dt),)

        return self.apply(op, (w,), shape, dt, bw, save=(ids,))

    def ids(self, *shape: int) -> Tensor:
        """A batch of token ids (int64)."""
        return self.t.tensor(shape, I64, "input ids")

    def ones(self, shape: tuple[int, ...], dt: DType, op: str) -> Tensor:
        """A constant that the forward pass makes (mask, position ids)."""
        return Tensor(self.t.new(prod(shape) * dt.size, op, shape, dt), shape, prod(shape), dt)
