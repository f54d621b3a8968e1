"""Linear layers whose frozen weight is stored packed by GPTQ's relatives, and one that trains integers.

What differs between them is what a product makes of the weight in passing and whether the input is kept.

Sources: autoawq 0.2.9 / gptqmodel 7.7 (WQLinearMMFunction), hqq 0.2.8 ``core/quantize.py`` (HQQMatmulNoCacheMul,
Quantizer.dequantize), aqlm 1.1.7 ``inference.py``, transformers 5.23 ``integrations/eetq.py`` (EetqLinearMMFunction)
and ``integrations/finegrained_fp8.py`` (FP8LinearFunction), torchao 0.18 ``float8/float8_linear.py``, Q-GaLore's
QLinear (``_dequantize`` at every use).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hubvram.timeline.dtypes import F8, F32, DType
from hubvram.timeline.ops.quantized import QuantizedOps
from hubvram.timeline.tracer import Storage, Tensor


@dataclass(frozen=True, slots=True)
class Kernel:
    """How a packed product runs."""

    forward: int = 1
    """Whole weights in the compute dtype that exist at once while forward dequantises; 0: a fused kernel."""
    backward: int = 1
    """The same for backward."""
    keeps_input: bool = False
    """Whether the autograd function saves its input, which no gradient needs."""
    quantised_input: bool = False
    """Forward quantises its input to fp8, with an fp32 scale for 128 values."""
    identity: bool = False
    """Backward dequantises by a product with an identity matrix."""


class PackedOps(QuantizedOps):
    """Products over packed weights."""

    def linear_packed(self, x: Tensor, out_features: int, bias: Tensor | None, kernel: Kernel, op: str) -> Tensor:
        """A product over a frozen packed weight."""
        x = self.lower(x)
        n_in, dt = x.shape[-1], x.dt
        new, xs, xb = self.t.new, x.shape, x.n * dt.size
        whole = n_in * out_features * dt.size
        backward, identity = kernel.backward, kernel.identity

        def bw(g: Storage) -> Sequence[Storage | None]:
            eye = _identity(self, n_in, dt, op) if identity else None
            weights = [new(whole, op + " dequantised weight", (out_features, n_in), dt) for _ in range(backward)]
            del eye
            last = weights.pop() if weights else None
            weights.clear()
            out = new(xb, op + " grad input", xs, dt)
            del last
            return (out,)

        weights = [self._plain((out_features, n_in), dt, op + " dequantised weight") for _ in range(kernel.forward)]
        last = weights.pop() if weights else None
        weights.clear()
        low: list[Tensor] = []
        if kernel.quantised_input:
            low.append(self._plain(xs, F8, op + " input fp8"))
            low.append(self._plain((*xs[:-1], -(-n_in // 128)), F32, op + " input scales"))
        out = self.apply(op, (x,), (*xs[:-1], out_features), dt, bw, save=(x,) if kernel.keeps_input else ())
        del last, low
        return self.add(out, bias) if bias is not None else out

    def linear_integer(self, x: Tensor, w: Tensor, bias: Tensor | None, op: str) -> Tensor:
        """A trained weight held as integers: dequantised for the product and again in backward."""
        x = self.lower(x)
        n_in, dt = x.shape[-1], x.dt
        n_out = w.n // n_in
        new, rx, rw, xs, ws = self.t.new, x.rg, w.rg, x.shape, w.shape
        xb, wb, whole, e = x.n * dt.size, w.n * w.dt.size, w.n * dt.size, w.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            weights = [new(whole, op + " dequantised weight", ws, dt) for _ in range(3)]
            last = weights.pop()
            weights.clear()
            grad = new(xb, op + " grad input", xs, dt) if rx else None
            del last
            return grad, new(wb, op + " grad weight", ws, e) if rw else None

        weights = [self._plain(ws, dt, op + " dequantised weight") for _ in range(3)]
        last = weights.pop()
        weights.clear()
        out = self.apply(op, (x, w), (*xs[:-1], n_out), dt, bw, save=(x if rw else None,))
        del last
        return self.add(out, bias) if bias is not None else out

    def linear_float8(self, x: Tensor, w: Tensor, bias: Tensor | None, op: str) -> Tensor:
        """torchao's ``Float8Linear``: input and weight are cast to fp8 at every use, scaled by tensor.

        Keeps the input in the autocast dtype and the weight as it is, trained or not; makes a gradient of
        the weight, trained or not. Not compiled: a cast to fp8 goes through fp32 copies.
        """
        if self.t.autocast is not None:
            x = self.to(x, self.t.autocast)
        dt, e = x.dt, w.dt
        n_in = x.shape[-1]
        n_out = w.n // n_in
        rows = x.n // n_in
        new, rx, rw, xs, ws, wn = self.t.new, x.rg, w.rg, x.shape, w.shape, w.n
        xn, gn = x.n, rows * n_out
        cast = self._cast_float8

        def bw(g: Storage) -> Sequence[Storage | None]:
            gradient = cast(gn, dt, op + " gradient")
            weight = cast(wn, e, op + " weight")
            out = new(xn * dt.size, op + " grad input", xs, dt)
            again = cast(gn, dt, op + " gradient")
            source = cast(xn, dt, op + " input")
            grad = new(wn * dt.size, op + " grad weight", ws, dt)
            del gradient, weight, again, source
            if rw and e is not dt:
                grad = new(wn * e.size, "to", ws, e)
            return out if rx else None, grad if rw else None

        low = [cast(xn, dt, op + " input"), cast(wn, e, op + " weight")]
        out = self.apply(op, (x, w), (*xs[:-1], n_out), dt, bw, save=(x, w))
        low.clear()
        if bias is not None:
            out = self.add(out, self.to(bias, dt))
        return out

    def _cast_float8(self, n: int, dt: DType, op: str) -> Storage | None:
        """``hp_tensor_to_float8_dynamic``: absolute values for the scale, then scaled and clamped in fp32."""
        new = self.t.new
        absolute = new(n * dt.size, op + " absolute", (n,), dt)
        del absolute
        wide = new(n * F32.size, op + " fp32", (n,), F32) if dt is not F32 else None
        scaled = new(n * F32.size, op + " scaled", (n,), F32)
        del wide
        clamped = new(n * F32.size, op + " clamped", (n,), F32)
        low = new(n, op + " fp8", (n,), F8)
        del scaled, clamped
        return low


def _identity(ops: PackedOps, n: int, dt: DType, op: str) -> Storage | None:
    full = ops.t.new(n * n * F32.size, op + " fp32 identity", (n, n), F32)
    low = full if dt is F32 else ops.t.new(n * n * dt.size, op + " identity", (n, n), dt)
    del full
    return low
