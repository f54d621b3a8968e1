"""The header of a GGUF file: key-value pairs, then name, shape, type and place of each tensor.

The vocabulary lies in the header, so it has megabytes where a safetensors
header has kilobytes; strings must be read to be passed over.

Source: the GGUF specification (ggml/docs/gguf.md) and the type table of
ggml.h: elements and bytes per block of each quantised type.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from hubvram.errors import CorruptHeaderError
from hubvram.snapshot.dtypes import GGML_BLOCKS
from hubvram.snapshot.header import Header
from hubvram.snapshot.limits import MAX_TENSORS
from hubvram.snapshot.records import TensorInfo
from hubvram.snapshot.text import shown

TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
"""Type ids to names; the gaps are types that were withdrawn."""
_SCALARS: Mapping[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_STRING = 16_000_000
_MAX_ITEMS = 4_000_000
_MAX_STRINGS = 2_000_000
"""In the whole header: the largest vocabularies have 260,000 tokens and twice as many merges."""
_MAX_PAIRS = 65_536
_MAX_DIMENSIONS = 8
_KEPT = 64
"""Items of an array that are kept; the vocabulary is passed over."""
_MAX_INT = 2**63 - 1


class _Reader:
    """Little-endian values off a stream."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.strings = 0
        self.wide = True
        """Whether counts have 64 bits (version 2 and later)."""

    def bytes(self, count: int) -> bytes:
        found = self.file.read(count)
        if len(found) < count:
            raise ValueError("it ends within its header")
        return found

    def scalar(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.bytes(struct.calcsize(f"<{code}")))[0]

    def count(self, limit: int, what: str) -> int:
        found = int(self.scalar("Q" if self.wide else "I"))
        if found > limit:
            raise ValueError(f"it claims {found:,} {what}")
        return found

    def text(self) -> str:
        self.strings += 1
        if self.strings > _MAX_STRINGS:
            raise ValueError(f"it has more than {_MAX_STRINGS:,} strings")
        return self.bytes(self.count(_MAX_STRING, "bytes for one string")).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or depth > 2:
            raise ValueError(f"it has a value of the unknown type {kind}")
        inner = self.scalar("I")
        count = self.count(_MAX_ITEMS, "items in one list")
        if inner in _SCALARS:
            raw = self.bytes(count * struct.calcsize(f"<{_SCALARS[inner]}"))
            keep = min(count, _KEPT)
            size = keep * struct.calcsize(f"<{_SCALARS[inner]}")
            return list(struct.unpack(f"<{keep}{_SCALARS[inner]}", raw[:size]))
        items = []
        for index in range(count):
            item = self.value(inner, depth + 1)
            if index < _KEPT:
                items.append(item)
        return items


def read_gguf(file: BinaryIO, path: str, repo_id: str | None = None) -> tuple[Header, dict[str, Any]]:
    """The tensors of a GGUF file and its key-value pairs (long lists cut short).

    Args:
        file: only its beginning is read.
        path: inside the repo, for the tensors and the messages.
        repo_id: for the messages.

    Raises:
        CorruptHeaderError: naming the file and what is wrong with it.
    """
    try:
        return _read(_Reader(file), path)
    except (ValueError, struct.error, OverflowError) as error:
        where = f"{repo_id}: {shown(path)}" if repo_id else shown(path)
        raise CorruptHeaderError(
            f"{where} is not a valid GGUF file: {error}",
            hint="the file is broken: try another one with --file, or tell the repo's authors",
            repo_id=repo_id,
        ) from None


def _read(r: _Reader, path: str) -> tuple[Header, dict[str, Any]]:
    magic = r.bytes(4)
    if magic != b"GGUF":
        raise ValueError("it is the text of a Git LFS pointer" if magic == b"vers" else "it does not begin with GGUF")
    version = r.scalar("I")
    if version not in (1, 2, 3):
        raise ValueError(f"its version {version} is unknown (or it is big-endian)")
    r.wide = version > 1
    tensor_count = r.count(MAX_TENSORS, "tensors")
    pair_count = r.count(_MAX_PAIRS, "pairs")
    pairs: dict[str, Any] = {}
    for _ in range(pair_count):
        key = r.text()
        pairs[key] = r.value(r.scalar("I"))
    tensors = []
    unknown: dict[int, int] = {}
    total = 0
    for _ in range(tensor_count):
        name = r.text()
        dimensions = r.scalar("I")
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"tensor {shown(name)} has {dimensions} dimensions")
        # ggml writes the innermost side first.
        shape = tuple(reversed([r.count(_MAX_INT, "elements") for _ in range(dimensions)]))
        kind = r.scalar("I")
        r.scalar("Q")
        info = TensorInfo(name, TYPES.get(kind, f"GGML_{kind}"), shape, path)
        if info.numel > _MAX_INT:
            raise ValueError(f"tensor {shown(name)} has a shape whose product overflows")
        block = GGML_BLOCKS.get(info.dtype)
        if block is not None and shape and shape[-1] % block[0]:
            raise ValueError(f"tensor {shown(name)} has rows of {shape[-1]:,}, not a multiple of {block[0]}")
        if kind not in TYPES:
            unknown[kind] = unknown.get(kind, 0) + 1
        elif block is not None:
            total += info.numel // block[0] * block[1]
        tensors.append(info)
    notes = tuple(f"{shown(path)}: {n} tensors have the type {k}, unknown to this version" for k, n in unknown.items())
    return Header(tuple(tensors), {}, None, total, notes), pairs


def summary(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """The pairs worth keeping: what the model is and of which size, not its vocabulary."""
    name = pairs.get("general.architecture")
    architecture = name if isinstance(name, str) else None
    out: dict[str, Any] = {}
    for key, value in pairs.items():
        head = key.split(".", 1)[0]
        if head in ("general", "quantize", "split", architecture) and not isinstance(value, (list, bytes)):
            out[key] = value[:500] if isinstance(value, str) else value
    return out


def base_model(pairs: Mapping[str, Any]) -> str | None:
    """``org/name`` of the model that was converted, where the header names it."""
    for key in ("general.base_model.0.repo_url", "general.source.url", "general.source.huggingface.repository"):
        value = pairs.get(key)
        if isinstance(value, str) and value:
            parts = value.rstrip("/").split("/")
            plain = len(parts) >= 2 and all(p and p.isprintable() and " " not in p for p in parts[-2:])
            if plain and (len(parts) == 2 or "huggingface.co" in value or "hf.co" in value):
                return "/".join(parts[-2:])
    return None
