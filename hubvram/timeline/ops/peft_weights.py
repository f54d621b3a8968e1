"""Changes of a whole weight matrix, as PEFT's layers make them at every forward pass.

Source: peft 0.21 ``tuners/loha/layer.py`` (HadaWeight), ``tuners/lokr/layer.py``
(make_kron), ``tuners/oft/layer.py``, ``tuners/boft/layer.py``; torch 2.13
``native/LinearAlgebra.cpp`` (kron), ``native/TensorShape.cpp`` (block_diag).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hubvram.timeline.dtypes import C64, F32, I32, I64, DType
from hubvram.timeline.ops.peft import PeftOps
from hubvram.timeline.tracer import Storage, Tensor


class PeftWeightOps(PeftOps):
    """Full-size products of adapter weights."""

    def hadamard_weight(self, w: Sequence[Tensor]) -> Tensor:
        """``(w1a @ w1b) * (w2a @ w2b) * scale``: keeps the factors only and multiplies again in backward."""
        w = [self.lower(x) for x in w] if self.t.autocast is not None else list(w)
        w1a, w1b = w[0], w[1]
        shape, dt = (w1a.shape[0], w1b.shape[1]), w1a.dt
        n = prod(shape)
        nbytes = n * dt.size
        new = self.t.new
        grads = [(x.n * x.dt.size, x.shape, x.dt) for x in w]

        def bw(g: Storage) -> Sequence[Storage | None]:
            scaled = new(nbytes, "hada backward scaled grad", shape, dt)
            again = new(nbytes, "hada backward product", shape, dt)
            temp = new(nbytes, "hada backward temp", shape, dt)
            del again
            out = [new(b, "hada grad", s, d) for b, s, d in grads[:2]]
            again = new(nbytes, "hada backward product", shape, dt)
            other = new(nbytes, "hada backward temp", shape, dt)
            del again, temp
            out += [new(b, "hada grad", s, d) for b, s, d in grads[2:]]
            del other, scaled
            return tuple(out)

        first = self.constant(shape, dt, "hada w1")
        second = self.constant(shape, dt, "hada w2")
        both = self.constant(shape, dt, "hada product")
        del first, second
        out = self.apply("hada weight", w, shape, dt, bw, save=w)
        del both
        return out

    def kron(self, a: Tensor, b: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``torch.kron``: a broadcast product."""
        dt = a.dt
        n = prod(shape)
        new, ra, rb, na, nb, sa, sb = self.t.new, a.rg, b.rg, a.n * dt.size, b.n * dt.size, a.shape, b.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            ga = new(n * dt.size, "kron backward", shape, dt) if ra else None
            gb = new(n * dt.size, "kron backward", shape, dt) if rb else None
            if ra:
                ga = new(na, "kron backward", sa, dt)
            if rb:
                gb = new(nb, "kron backward", sb, dt)
            return ga, gb

        return self.apply("kron", (a, b), shape, dt, bw, save=(a if rb else None, b if ra else None))

    def spectrum_to_weight(self, spectrum: Tensor, shape: tuple[int, int], frequencies: int) -> Tensor:
        """FourierFT: scatter into a dense spectrum, inverse 2-D transform, real part, scaling."""
        index = self.constant((2, frequencies), I64, "fourier indices")
        dense = self.scatter_new(spectrum, shape, F32, "fourier dense spectrum")
        if dense.rg:
            self.t.save(dense.node, "fourier dense spectrum", index)
        del index
        wide = self._to_complex(dense)
        del dense
        waves = self.any_op("ifft2", (wide,), shape, C64)
        del wide
        return self._real_scaled(waves, shape)

    def _to_complex(self, x: Tensor) -> Tensor:
        new, n, shape = self.t.new, x.n, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * 4, "to complex backward", shape, F32),)

        return self.apply("to complex", (x,), x.shape, C64, bw)

    def _real_scaled(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        new, n = self.t.new, x.n

        def bw(g: Storage) -> Sequence[Storage | None]:
            scaled = new(n * 4, "fourier scaling backward", shape, F32)
            out = new(n * 8, "real backward", shape, C64)
            del scaled
            return (out,)

        return self.apply("fourier delta weight", (x,), shape, F32, bw)

    def circular(self, x: Tensor, w: Tensor, shape: tuple[int, ...]) -> Tensor:
        """C3A's ``BlockCircularConvolution``: complex intermediates; the result is a view into a complex tensor."""
        new = self.t.new
        rows = x.n // x.shape[-1]
        wide, tall = x.n, rows * shape[-1]
        nw = w.n
        rx, rw, xs, ws = x.rg, w.rg, x.shape, w.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            spectrum = new(tall * 8, "c3a fft(grad)", shape, C64)
            kernel = new(nw * 8, "c3a ifft(w)", ws, C64)
            mixed = new(wide * 8, "c3a einsum", xs, C64)
            del kernel
            gx = new(wide * 8, "c3a grad input", xs, C64)
            del mixed
            own = new(wide * 8, "c3a ifft(x)", xs, C64)
            mixed = new(nw * 8, "c3a einsum", ws, C64)
            del own
            gw = new(nw * 8, "c3a grad kernel", ws, C64)
            del mixed, spectrum
            if rw:
                gw = new(nw * 4, "c3a grad kernel", ws, F32)
            return gx if rx else None, gw if rw else None

        first = self.constant(xs, C64, "c3a ifft(x)")
        second = self.constant(ws, C64, "c3a fft(w)")
        mixed = self.constant(shape, C64, "c3a einsum")
        del first, second
        out = self.apply("c3a convolution", (x, w), shape, C64, bw, save=(x, w))
        del mixed
        return Tensor(out.st, out.shape, out.n, F32, out.rg, out.node)

    def skew(self, vector: Tensor, blocks: int, side: int) -> Tensor:
        """A skew-symmetric matrix per block from its upper triangle: scatter, minus its transpose."""
        shape = (blocks, side, side)
        upper = self.scatter_new(vector, shape, vector.dt, "skew scatter")
        return self.sub_own_transpose(upper, "skew")

    def sub_own_transpose(self, x: Tensor, op: str) -> Tensor:
        """``x - x.transpose(-1, -2)``: the gradient meets its negated transpose."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            negated = new(n * dt.size, op + " backward", shape, dt)
            out = new(n * dt.size, op + " backward", shape, dt)
            del negated
            return (out,)

        return self.apply(op, (x,), shape, dt, bw)

    def scaled_bases(self, a: Tensor, lam: Tensor, gam: Tensor, shape: tuple[int, ...]) -> Tensor:
        """RandLoRA's ``lambda * A * gamma``: keeps the three, not the products."""
        n, dt = prod(shape), lam.dt
        first = self.constant(shape, dt, "randlora lambda * A")
        new = self.t.new
        nl, ng, sl, sg = lam.n * dt.size, gam.n * dt.size, lam.shape, gam.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            wide = new(n * dt.size, "randlora einsum", shape, dt)
            gl = new(nl, "randlora grad lambda", sl, dt)
            del wide
            wide = new(n * dt.size, "randlora einsum", shape, dt)
            gg = new(ng, "randlora grad gamma", sg, dt)
            del wide
            return gl, gg

        out = self.apply("randlora bases", (lam, gam), shape, dt, bw, save=(a, lam, gam))
        del first
        return out

    def half_skew(self, x: Tensor) -> Tensor:
        """``0.5 * (x - x.transpose(1, 2))``."""
        return self.scale(self.sub_own_transpose(x, "skew"), "skew half")

    def cayley_solve(self, q: Tensor) -> Tensor:
        """``solve(I + q, I - q, left=False)``: keeps the factorisation, its pivots and the result."""
        eye = self.eye(q.shape[-1], F32)
        plus = self.add(eye.view(1, *eye.shape), q)
        minus = self.sub(eye.view(1, *eye.shape), q)
        n = q.n * F32.size
        out = self.any_op("cayley solve", (plus, minus), q.shape, F32, save=(plus,), save_result=True, passing=(n,))
        if out.rg:
            lu = self.constant(q.shape, F32, "cayley solve LU")
            pivots = self.constant(q.shape[:2], I32, "cayley solve pivots")
            self.t.save(out.node, "cayley solve", lu, pivots)
        return out

    def add_scaled_into(self, a: Tensor, b: Tensor) -> Tensor:
        """``a.add_(b, alpha=2)``: in a's storage; the gradient of b is scaled."""
        t = self.t
        if not t.wants_grad(a, b):
            return a
        new, ra, n, dt, shape = t.new, a.rg, b.n, b.dt, b.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return g if ra else None, new(n * dt.size, "add_ backward", shape, dt)

        node = t.node(bw, (a, b))
        return Tensor(a.st, a.shape, a.n, a.dt, True, node)

    def block_diagonal(self, x: Tensor, side: int) -> Tensor:
        """``torch.block_diag`` of the matrices of a stack: backward cuts the blocks out and stacks them."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "block_diag backward", shape, dt),)

        return self.apply("block_diag", (x,), (side, side), dt, bw)


def bytes_of(shape: tuple[int, ...], dt: DType) -> int:
    """Bytes of a tensor."""
    return prod(shape) * dt.size


__all__ = ["PeftWeightOps", "bytes_of"]
