"""Linear layers whose weight is held quantised by bitsandbytes.

Sources: bitsandbytes 0.50 ``autograd/_functions.py`` (MatMul4Bit,
MatMul8bitLt), ``nn/modules.py``, ``backends/cuda/ops.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.timeline.dtypes import F16, F32, I8, I32, DType
from hubvram.timeline.ops.loss import LossOps
from hubvram.timeline.tracer import Storage, Tensor

BLOCKSIZE_4BIT = 64
"""Weights per absmax; bitsandbytes default for nf4 and fp4."""
NESTED_BLOCKSIZE = 256
"""absmax values per second-level absmax under double quantisation."""


def nf4_bytes(n: int, double_quant: bool) -> list[int]:
    """Sizes of the tensors that hold ``n`` weights in 4 bits: data, absmax, second absmax, code tables, offset."""
    blocks = -(-n // BLOCKSIZE_4BIT)
    code = 16 * 4
    if not double_quant:
        return [-(-n // 2), blocks * 4, code]
    return [-(-n // 2), blocks, -(-blocks // NESTED_BLOCKSIZE) * 4, 256 * 4, code, 4]


def int8_bytes(out_features: int, in_features: int) -> list[int]:
    """Sizes of the tensors of an LLM.int8 weight: int8 data and one fp32 scale a row (SCB)."""
    return [out_features * in_features, out_features * 4]


def gptq_bytes(out_features: int, in_features: int, bits: int, group_size: int) -> list[int]:
    """Sizes of a GPTQ layer's tensors: qweight (int32), scales (fp16), qzeros (int32), g_idx (int32)."""
    groups = -(-in_features // group_size) if group_size > 0 else 1
    return [
        in_features * out_features * bits // 8,
        groups * out_features * 2,
        groups * out_features * bits // 8,
        in_features * 4,
    ]


class QuantizedOps(LossOps):
    """4-bit and 8-bit matrix products over frozen weights."""

    def matmul_4bit(self, x: Tensor, out_features: int, bias: Tensor | None, op: str = "linear4bit") -> Tensor:
        """``bnb.matmul_4bit``: no activation is kept; backward dequantises the whole weight for one product."""
        n_in = x.shape[-1]
        rows = x.n // n_in
        n = n_in * out_features
        t, dt = self.t, x.dt
        absmax = -(-n // BLOCKSIZE_4BIT) * 4
        whole = [absmax, absmax, n * dt.size]
        passing = whole if self._dequantises(rows, out_features, n_in, dt) else []
        new, xs, xb = t.new, x.shape, x.n * dt.size

        def bw(g: Storage) -> Sequence[Storage | None]:
            scales = new(absmax, op + " absmax", (absmax // 4,), F32)
            weight = new(n * dt.size, op + " dequantised weight", (out_features, n_in), dt)
            del scales
            out = new(xb, op + " grad input", xs, dt)
            del weight
            return (out,)

        out = self.apply(op, (x,), (*x.shape[:-1], out_features), dt, bw)
        if passing:
            t.passing(*passing, op=op + " dequantised weight")
        if bias is not None:
            out = self.add(out, bias)
        return out

    def _dequantises(self, rows: int, out_features: int, in_features: int, dt: DType) -> bool:
        """Whether the forward product dequantises the weight first.

        bitsandbytes < 0.50 does for more than one row; 0.50 has a fused kernel
        for small products (``_gemm_4bit_use_custom_cuda``), never above 1536 rows.
        """
        if rows == 1:
            return False
        if self.bitsandbytes < (0, 50):
            return True
        return rows > 64 or in_features % 64 != 0

    def linear_4bit(
        self, x: Tensor, out_features: int, bias: Tensor | None, compute: DType, op: str = "linear4bit"
    ) -> Tensor:
        """``Linear4bit.forward``: cast to the compute dtype, product, cast back to the input's dtype."""
        src = x.dt
        return self.to(self.matmul_4bit(self.to(x, compute), out_features, bias, op), src)

    def linear_8bit(self, x: Tensor, out_features: int, bias: Tensor | None, op: str = "linear8bit") -> Tensor:
        """LLM.int8 (threshold 6, no outlier columns): the input is quantised by rows, the product is int32.

        Keeps its input as a plain attribute (``ctx.tensors``): checkpointing does not free it.
        Backward dequantises the weight.
        """
        n_in = x.shape[-1]
        rows = x.n // n_in
        t, dt = self.t, x.dt
        new, xs, xb, n = t.new, x.shape, x.n * dt.size, n_in * out_features

        def bw(g: Storage) -> Sequence[Storage | None]:
            scales = new(out_features * 4, op + " scales", (out_features,), F32)
            weight = new(n * dt.size, op + " dequantised weight", (out_features, n_in), dt)
            del scales
            out = new(xb, op + " grad input", xs, dt)
            del weight
            return (out,)

        half = x if dt is F16 else self._plain(x.shape, F16, op + " input fp16")
        quantised = self._plain((rows, n_in), I8, op + " input int8")
        row_scale = self._plain((rows,), F32, op + " row scales")
        del half
        product = self._plain((rows, out_features), I32, op + " int32 product")
        shape = (*x.shape[:-1], out_features)
        if dt is F16:
            out = self.apply(op, (x,), shape, dt, bw)
        else:
            low = self._plain(shape, F16, op + " fp16 output")
            out = self.apply(op, (x,), shape, dt, bw)
            del low
        if out.rg:
            t.attach(out.node, op, x)
        del product, quantised, row_scale
        return self.add(out, bias) if bias is not None else out

    def linear_gptq(self, x: Tensor, out_features: int, bias: Tensor | None, op: str = "gptq linear") -> Tensor:
        """A GPTQ product that dequantises the weight in forward and again in backward; no activation is kept.

        Source: the autograd function around the Triton kernel of auto-gptq 0.7 /
        gptqmodel 1.x (``DequantAndGemm``); computes in half, under autocast or not.
        """
        x = self.lower(x)
        n = x.shape[-1] * out_features
        t, dt = self.t, x.dt
        new, xs, xb, whole = t.new, x.shape, x.n * dt.size, n * dt.size

        def bw(g: Storage) -> Sequence[Storage | None]:
            weight = new(whole, op + " dequantised weight", (out_features, xs[-1]), dt)
            out = new(xb, op + " grad input", xs, dt)
            del weight
            return (out,)

        weight = self._plain((out_features, x.shape[-1]), dt, op + " dequantised weight")
        out = self.apply(op, (x,), (*x.shape[:-1], out_features), dt, bw)
        del weight
        return self.add(out, bias) if bias is not None else out

    def _plain(self, shape: tuple[int, ...], dt: DType, op: str) -> Tensor:
        return self.t.tensor(shape, dt, op)
