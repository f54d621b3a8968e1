"""Ops that only adapters use: products of small weights, rotations, scatters, merged weights.

Sources: torch 2.13 ``tools/autograd/derivatives.yaml`` (div, sub, linalg_vector_norm,
kron as reshapes of mul, index_put, block_diag, linalg_solve_ex, fft_c2c), peft 0.21
layers named at each op.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from hubvram.timeline.dtypes import BF16, C64, F16, F32, I64, DType, promote
from hubvram.timeline.ops.elementwise import wider
from hubvram.timeline.ops.peft_prompt import PromptOps
from hubvram.timeline.tracer import Storage, Tensor


class PeftOps(PromptOps):
    """Building blocks of PEFT's layers."""

    def eye(self, n: int, dt: DType = F32) -> Tensor:
        """``torch.eye(n)``."""
        return self.constant((n, n), dt, "eye")

    def constant(self, shape: tuple[int, ...], dt: DType, op: str) -> Tensor:
        """A tensor that the forward pass makes without a graph (eye, zeros, ones, indices)."""
        n = prod(shape)
        return Tensor(self.t.new(n * dt.size, op, shape, dt), shape, n, dt)

    def mm(self, a: Tensor, b: Tensor, op: str = "mm") -> Tensor:
        """``a @ b`` of two matrices or of (..., k) with (k, n)."""
        if self.t.autocast is not None:
            a, b = self.lower(a), self.lower(b)
        dt = promote(a.dt, b.dt)
        n = b.shape[-1]
        new, ra, rb, na, nb, sa, sb = self.t.new, a.rg, b.rg, a.n * a.dt.size, b.n * b.dt.size, a.shape, b.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (
                new(na, op + " backward", sa, dt) if ra else None,
                new(nb, op + " backward", sb, dt) if rb else None,
            )

        return self.apply(op, (a, b), (*a.shape[:-1], n), dt, bw, save=(a if rb else None, b if ra else None))

    def div(self, a: Tensor, b: Tensor) -> Tensor:
        """``a / b`` (b may be broadcast): keeps b, and a if b wants a gradient."""
        dt = promote(a.dt, b.dt)
        big = wider(a, b)
        new, n, shape = self.t.new, big.n, big.shape
        ra, rb, na, nb, da, db = a.rg, b.rg, a.n, b.n, a.dt, b.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            ga = new(n * dt.size, "div backward", shape, dt) if ra else None
            gb: Storage | None = None
            if rb:
                inner = new(n * dt.size, "div backward", shape, dt)
                gb = new(n * dt.size, "div backward", shape, dt)
                del inner
                if nb != n or db is not dt:
                    gb = new(nb * db.size, "div backward", (nb,), db)
            if ra and (na != n or da is not dt):
                ga = new(na * da.size, "div backward", (na,), da)
            return ga, gb

        return self.apply("div", (a, b), shape, dt, bw, save=(b, a if rb else None))

    def passed(self, x: Tensor) -> Tensor:
        """``x`` behind a node of its own, which hands its gradient on unchanged."""
        return Tensor(x.st, x.shape, x.n, x.dt, True, self.t.node(lambda grad: (grad,), (x,)))

    def add_into(self, a: Tensor, b: Tensor) -> Tensor:
        """``a += b``: in a's storage and dtype; the gradient of b is cast if b's dtype differs."""
        t = self.t
        if not t.wants_grad(a, b):
            return a
        new, ra, rb, n, dt, shape = t.new, a.rg, b.rg, b.n, b.dt, b.shape
        cast = a.dt is not dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            gb: Storage | None = g if rb else None
            if rb and cast:
                gb = new(n * dt.size, "add_ backward", shape, dt)
            return g if ra else None, gb

        node = t.node(bw, (a, b))
        return Tensor(a.st, a.shape, a.n, a.dt, True, node)

    def add_sparse_into(self, a: Tensor, b: Tensor) -> Tensor:
        """``dense += sparse``: in the dense tensor's storage; the gradient is gathered for the entries."""
        t = self.t
        if not t.wants_grad(a, b):
            return a
        new, ra, n, dt, shape, whole, wide = t.new, a.rg, b.n, b.dt, b.shape, a.n * a.dt.size, a.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            cast = new(whole // wide.size * dt.size, "sparse add backward", (), dt) if dt is not wide else None
            out = new(n * dt.size, "sparse add backward", shape, dt)
            del cast
            return g if ra else None, out

        node = t.node(bw, (a, b))
        return Tensor(a.st, a.shape, a.n, a.dt, True, node)

    def norm_of(self, x: Tensor, shape: tuple[int, ...], op: str = "norm") -> Tensor:
        """``x.norm(dim=...)``: keeps x and the result; backward makes x * (grad / norm)."""
        new, n, dt, whole = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, op + " backward", whole, dt),)

        return self.apply(op, (x,), shape, dt, bw, save=(x,), save_result=True)

    def sum_to(self, x: Tensor, shape: tuple[int, ...], op: str = "sum") -> Tensor:
        """``x.sum(dim)``: keeps nothing; the gradient is an expanded view."""

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (g,)

        return self.apply(op, (x,), shape, x.dt, bw)

    def reshape_copy(self, x: Tensor, *shape: int, op: str = "reshape") -> Tensor:
        """A ``reshape`` that has to copy; the gradient is copied back where it is used."""
        y = self.clone(x, op)
        return y.view(*shape)

    def scatter_new(self, values: Tensor, shape: tuple[int, ...], dt: DType, op: str, kept: int = 0) -> Tensor:
        """``zeros(shape)[indices] = values``: the indices (``kept`` bytes) are kept; backward gathers."""
        new, n, vdt, vs = self.t.new, values.n, values.dt, values.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * vdt.size, op + " backward", vs, vdt),)

        out = self.apply(op, (values,), shape, dt, bw)
        if kept and out.rg:
            index = Tensor(new(kept, op + " indices", (), I64), (kept,), kept, I64)
            self.t.save(out.node, op, index)
        return out

    def complex_fft(self, x: Tensor, op: str = "fft") -> Tensor:
        """A transform to complex64 of the same shape; backward transforms the gradient."""
        new, n, shape, dt = self.t.new, x.n, x.shape, x.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, op + " backward", shape, dt),)

        return self.apply(op, (x,), shape, C64, bw)

    def any_op(
        self,
        op: str,
        inputs: Sequence[Tensor],
        shape: tuple[int, ...],
        dt: DType,
        *,
        save: Sequence[Tensor | None] = (),
        save_result: bool = False,
        passing: Sequence[int] = (),
    ) -> Tensor:
        """An op with ordinary gradients: one new tensor for each input that wants one.

        ``passing``: bytes of temporaries that its backward holds beside the first gradient.
        """
        new = self.t.new
        wants = [(x.rg, x.n * x.dt.size, x.shape, x.dt) for x in inputs]
        extra = tuple(passing)

        def bw(g: Storage) -> Sequence[Storage | None]:
            held = [new(b, op + " backward", (), dt) for b in extra]
            grads = tuple([new(b, op + " backward", s, d) if rg else None for rg, b, s, d in wants])
            del held
            return grads

        return self.apply(op, inputs, shape, dt, bw, save=save, save_result=save_result)

    def base_weight(self, base: Any) -> Tensor:
        """``get_base_weight``: the layer's own tensor, or a dequantised copy of a quantised one."""
        weight: Tensor | None = getattr(base, "weight", None)
        if weight is not None:
            return weight.detach()
        spec = base.spec
        return self.constant((spec.out_features, spec.in_features), getattr(base, "compute", F16), "dequantised weight")


HALF = (F16, BF16)

__all__ = ["HALF", "PeftOps"]
