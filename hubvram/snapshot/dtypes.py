"""The dtypes of the safetensors format and their size in bits; those of GGUF by blocks.

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

GGML_BLOCKS: Mapping[str, tuple[int, int]] = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q8_1": (32, 36),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "Q8_K": (256, 292),
    "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74),
    "IQ3_XXS": (256, 98),
    "IQ1_S": (256, 50),
    "IQ4_NL": (32, 18),
    "IQ3_S": (256, 110),
    "IQ2_S": (256, 82),
    "IQ4_XS": (256, 136),
    "IQ1_M": (256, 56),
    "TQ1_0": (256, 54),
    "TQ2_0": (256, 66),
    "MXFP4": (32, 17),
    "NVFP4": (64, 36),
    "Q1_0": (128, 18),
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "F64": (1, 8),
    "I8": (1, 1),
    "I16": (1, 2),
    "I32": (1, 4),
    "I64": (1, 8),
}
"""Elements and bytes of a block, for the types of GGUF files (ggml.h); quantised ones carry their scales inside."""


def size_in_bytes(dtype: str, numel: int) -> int | None:
    """Bytes that ``numel`` elements take on disk, or None for a dtype not in the table.

    Rounded up to whole bytes; a valid header never needs the rounding.
    """
    bits = DTYPE_BITS.get(dtype)
    if bits is not None:
        return (numel * bits + 7) // 8
    block = GGML_BLOCKS.get(dtype)
    return None if block is None else -(-numel // block[0]) * block[1]
