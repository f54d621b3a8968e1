"""Normalisation layers as the model families write them.

RMSNorm in transformers is Python code (a chain of ops); LayerNorm is one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.timeline.dtypes import BF16, F16, F32
from hubvram.timeline.ops.linear import LinearOps
from hubvram.timeline.tracer import Storage, Tensor


class NormOps(LinearOps):
    """RMSNorm variants and LayerNorm."""

    def rms_normalise(self, x: Tensor) -> Tensor:
        """``x * rsqrt(mean(x^2) + eps)`` in fp32 (x already fp32)."""
        r = self.rsqrt(self.add_scalar(self.mean_last(self.pow(x))))
        return self.mul(x, r)

    def rms_norm(self, x: Tensor, w: Tensor | None) -> Tensor:
        """Llama's: normalise in fp32, cast back, times the weight (transformers modeling_llama.py, 5.23)."""
        if self.liger and w is not None:
            return self.liger_rms_norm(x, w)
        src = x.dt
        y = self.to(self.rms_normalise(self.to(x, F32)), src)
        return y if w is None else self.mul(w, y)

    def liger_rms_norm(self, x: Tensor, w: Tensor) -> Tensor:
        """liger-kernel 0.8 ``ops/rms_norm.py``: keeps x and a number a row; the gradient is written over dY."""
        t = self.t
        new, rx, rw, nw, ws, wd = t.new, x.rg, w.rg, w.n * w.dt.size, w.shape, w.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (g if rx else None, new(nw, "liger rms_norm grad weight", ws, wd) if rw else None)

        out = self.apply("liger rms_norm", (x, w), x.shape, x.dt, bw, save=(x, w))
        if out.rg:
            t.save(out.node, "liger rms_norm", t.tensor((x.n // x.shape[-1],), F32, "liger rms_norm rstd"))
        return out

    def rms_norm_fp32_weight(self, x: Tensor, w: Tensor) -> Tensor:
        """OLMo-2's: the weight is applied in fp32 before the cast back."""
        src = x.dt
        return self.to(self.mul(w, self.rms_normalise(self.to(x, F32))), src)

    def rms_norm_cast_weight(self, x: Tensor, w: Tensor) -> Tensor:
        """Helium's: the weight is cast to fp32 by itself before the product."""
        src = x.dt
        return self.to(self.mul(self.to(w, F32), self.rms_normalise(self.to(x, F32))), src)

    def layer_norm_cohere(self, x: Tensor, w: Tensor, dim: int | None = None) -> Tensor:
        """Cohere's, in Python ops and fp32: x - mean is made twice; ``dim``: norm by heads of this width."""
        src, shape = x.dt, x.shape
        if dim is not None:
            x = x.view(*shape[:-1], shape[-1] // dim, dim)
        x = self.to(x, F32)
        mean = self.mean_last(x)
        variance = self.mean_last(self.pow(self.sub(x, mean)))
        x = self.mul(self.sub(x, mean), self.rsqrt(self.add_scalar(variance)))
        x = self.mul(self.to(w, F32), x)
        return self.to(x, src).view(*shape)

    def layer_norm_1p(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """Nemotron's: weight + 1; autocast's own dtype instead of fp32 (modeling_nemotron.py)."""
        w = self.add_scalar(w)
        x, w, b = self.lower(x), self.lower(w), self.lower(b)
        with self.t.autocasting(None):
            return self.layer_norm(x, w, b)

    def rms_norm_gemma(self, x: Tensor, w: Tensor) -> Tensor:
        """Gemma's: fp32, times (1 + weight.float()), cast back (modeling_gemma2.py)."""
        src = x.dt
        y = self.rms_normalise(self.to(x, F32))
        return self.to(self.mul(y, self.add_scalar(self.to(w, F32))), src)

    def rms_norm_t5(self, x: Tensor, w: Tensor) -> Tensor:
        """T5's: only the variance is in fp32; a half weight casts the product back (modeling_t5.py)."""
        variance = self.mean_last(self.pow(self.float(x)))
        x = self.mul(x, self.rsqrt(self.add_scalar(variance)))
        if w.dt in (F16, BF16):
            x = self.to(x, w.dt)
        return self.mul(w, x)

    def layer_norm(self, x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        """``F.layer_norm``: keeps x and two fp32 numbers a row; backward allocates gradients of x, w, b.

        On autocast's fp32 list: a half input is cast up and the output is fp32.
        Frozen weights still have their (unused) slots: no gradient is made for them.
        """
        if self.t.autocast is not None:
            x = self.upper(x)
            w = self.upper(w) if w is not None else None
            b = self.upper(b) if b is not None else None
        t = self.t
        rows = x.n // x.shape[-1]
        new, rx, n, dt, shape = t.new, x.rg, x.n * x.dt.size, x.dt, x.shape
        rw, nw, ws, wd = (w.rg, w.n * w.dt.size, w.shape, w.dt) if w is not None else (False, 0, (), dt)
        rb, nb, bs = (b.rg, b.n * b.dt.size, b.shape) if b is not None else (False, 0, ())

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (
                new(n, "layer_norm backward", shape, dt) if rx else None,
                new(nw, "layer_norm grad weight", ws, wd) if rw else None,
                new(nb, "layer_norm grad bias", bs, wd) if rb else None,
            )

        inputs = [x]
        if w is not None:
            inputs.append(w)
        if b is not None:
            inputs.append(b)
        out = self.apply("layer_norm", inputs, shape, dt, bw, save=(x, w, b))
        if out.rg:
            mean = t.tensor((rows, 1), F32, "layer_norm mean")
            rstd = t.tensor((rows, 1), F32, "layer_norm rstd")
            t.save(out.node, "layer_norm", mean, rstd)
        return out
