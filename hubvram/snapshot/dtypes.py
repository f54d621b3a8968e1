"""The dtypes of the safetensors format and their size in bits.

Source: the `Dtype` list of the safetensors format (crate and package 0.4 to
0.8, read from the package's own table). Bits and not bytes: F4 and F6 pack
several elements into a byte.
"""

from __future__ import annotations

from collections.abc import Mapping

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits per element. C64 is two 32-bit floats."""


def size_in_bytes(dtype: str, numel: int) -> int | None:
    """Bytes that ``numel`` elements take on disk, or None for a dtype not in the table.

    Rounded up to whole bytes; a valid header never needs the rounding.
    """
    bits = DTYPE_BITS.get(dtype)
    return None if bits is None else (numel * bits + 7) // 8
