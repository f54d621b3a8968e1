"""The dtypes that PyTorch tensors of a training step have, with bytes per element."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """One dtype. Compared by identity: there is one object per dtype."""

    name: str
    size: int
    """Bytes per element."""
    rank: int
    """Position in PyTorch's promotion order; floats above integers. The two half types are equal: they give float32."""

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point type."""
        return self.rank >= 10

    def __repr__(self) -> str:
        """The name, for messages."""
        return self.name


BOOL = DType("bool", 1, 0)
U8 = DType("uint8", 1, 1)
I8 = DType("int8", 1, 2)
I32 = DType("int32", 4, 4)
I64 = DType("int64", 8, 5)
F8 = DType("float8_e4m3fn", 1, 9)
F16 = DType("float16", 2, 10)
BF16 = DType("bfloat16", 2, 10)
F32 = DType("float32", 4, 11)
F64 = DType("float64", 8, 12)
C64 = DType("complex64", 8, 13)

BY_NAME = {d.name: d for d in (BOOL, U8, I8, I32, I64, F8, F16, BF16, F32, F64, C64)}

SAFETENSORS = {
    "F64": F64,
    "F32": F32,
    "F16": F16,
    "BF16": BF16,
    "I64": I64,
    "I32": I32,
    "I8": I8,
    "U8": U8,
    "BOOL": BOOL,
    "F8_E4M3": F8,
    "F8_E5M2": F8,
}
"""From the words of safetensors headers to dtypes (safetensors 0.8)."""


def promote(a: DType, b: DType) -> DType:
    """Result dtype of an element-wise op on two tensors (torch.promote_types, for the dtypes above)."""
    if a is b:
        return a
    if a.rank == b.rank:
        return F32
    return a if a.rank > b.rank else b


def is_half(dt: DType) -> bool:
    """Whether a dtype is one of the two 16-bit floats."""
    return dt is F16 or dt is BF16
