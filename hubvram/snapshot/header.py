"""The safetensors header: eight bytes of length, then JSON, then the tensors' bytes.

Everything that the format promises is checked here, so that what comes out can
be counted without a second thought: the length, strict UTF-8, JSON without
duplicate keys, known dtypes, non-negative integer shapes, and offsets that
cover the data without hole or overlap and match dtype x shape and file size.

Source: the format description in the safetensors README and the checks of its
reader (`SafeTensors::read_metadata`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

from hubvram.errors import CorruptHeaderError
from hubvram.snapshot.dtypes import DTYPE_BITS
from hubvram.snapshot.limits import MAX_NAME, MAX_READ_BYTES, MAX_TENSORS, is_bulky, too_large
from hubvram.snapshot.records import TensorInfo
from hubvram.snapshot.text import shown

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit (huggingface_hub stops at 25 MB already)."""
_MAX_INT = 2**63 - 1
"""Sizes beyond this overflow in every reader of the format."""
_HINT = "the file breaks the safetensors format: try another revision, or tell the repo's authors"


class _Entry(NamedTuple):
    """The description of one tensor, as the JSON hook makes it."""

    dtype: Any
    shape: Any
    data_offsets: Any


@dataclass(frozen=True, slots=True)
class Header:
    """One parsed and checked header."""

    tensors: tuple[TensorInfo, ...]
    """In header order."""
    metadata: Mapping[str, str]
    """The ``__metadata__`` object."""
    header_bytes: int | None
    """Length of the header JSON; None where only its content is known."""
    data_bytes: int
    """Length of the data section: where the last tensor ends."""
    warnings: tuple[str, ...] = ()

    def at(self, file: str) -> Header:
        """The header of the same content at another path."""
        if all(t.file == file for t in self.tensors):
            return self
        old = self.tensors[0].file
        return replace(
            self,
            tensors=tuple(t._replace(file=file) for t in self.tensors),
            warnings=tuple(w.replace(shown(old), shown(file)) for w in self.warnings),
        )


class _DuplicateError(ValueError):
    """A key stands twice in one JSON object."""


def _where(file: str, repo_id: str | None) -> str:
    return f"{repo_id}: {shown(file)}" if repo_id else shown(file)


def corrupt(file: str, what: str, repo_id: str | None = None) -> CorruptHeaderError:
    """The error for a broken file: names repo and file, and says what is wrong."""
    return CorruptHeaderError(
        f"{_where(file, repo_id)} is not a valid safetensors file: {what}", hint=_HINT, repo_id=repo_id
    )


def header_length(prefix: bytes, file: str, *, file_size: int | None = None, repo_id: str | None = None) -> int:
    """Length of the header JSON, from the file's first eight bytes (little-endian).

    Raises:
        CorruptHeaderError: if the file is shorter than eight bytes, or the
            length is 0, over 100 MB or larger than the file.
        UnsupportedError: if the length is allowed, but more than is read.
    """
    if len(prefix) < LENGTH_BYTES:
        raise corrupt(file, f"it holds {len(prefix)} bytes, fewer than the 8 of the header length", repo_id)
    if prefix.startswith(b"version "):
        raise corrupt(file, "it is the text of a Git LFS pointer, not the file itself", repo_id)
    if prefix.lstrip()[:1] == b"<":
        raise corrupt(file, "it is a web page, not weights", repo_id)
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length < 2:
        raise corrupt(file, f"its header is {length} bytes long", repo_id)
    if length > MAX_HEADER_BYTES:
        raise corrupt(file, f"its header claims {length:,} bytes, more than the {MAX_HEADER_BYTES:,} allowed", repo_id)
    if file_size is not None and LENGTH_BYTES + length > file_size:
        raise corrupt(file, f"its header claims {length:,} bytes, the file has {file_size:,}", repo_id)
    if length > MAX_READ_BYTES:
        raise too_large(
            _where(file, repo_id),
            f"has a header of {length:,} bytes, more than the {MAX_READ_BYTES:,} that are read",
            repo_id,
        )
    return length


def parse_header(raw: bytes, file: str, *, file_size: int | None = None, repo_id: str | None = None) -> Header:
    """Parse the header JSON (without the eight length bytes).

    Args:
        raw: exactly the header's bytes.
        file: path inside the repo, for the tensors and the messages.
        file_size: size of the whole file where known; then it is checked too.
        repo_id: for the messages.

    Raises:
        CorruptHeaderError: naming the file and the first promise it breaks.
        UnsupportedError: if it holds more than `MAX_TENSORS` tensors, or as much of anything else.
    """
    if raw[:1] != b"{":
        raise corrupt(file, "its header does not begin with '{'", repo_id)
    if raw.count(b'"data_offsets"') > MAX_TENSORS:
        raise too_large(_where(file, repo_id), f"holds more than {MAX_TENSORS:,} tensors", repo_id)
    content = parse_json(raw, file, repo_id=repo_id)
    return check_header(content, file, header_bytes=len(raw), file_size=file_size, repo_id=repo_id)


def parse_json(raw: bytes, file: str, *, repo_id: str | None = None) -> Any:
    """JSON as the header may hold it: strict UTF-8, no duplicate keys, no NaN.

    Objects that describe a tensor come back in a compact form that only
    `check_header` reads.

    Raises:
        CorruptHeaderError: if the bytes are anything else.
        UnsupportedError: if they would take too much memory.
    """
    # A tensor has three brackets and, where its shape has two sides, five commas.
    if is_bulky(raw, 3 * MAX_TENSORS + 10_000, 10 * MAX_TENSORS):
        raise too_large(_where(file, repo_id), "holds far more values than the header of any model", repo_id)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise corrupt(file, f"its header is not UTF-8 (byte {error.start})", repo_id) from None
    try:
        content = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except _DuplicateError as error:
        raise corrupt(file, f"its header names {shown(error)} twice", repo_id) from None
    except RecursionError:
        raise corrupt(file, "its header is nested too deeply", repo_id) from None
    except json.JSONDecodeError as error:
        raise corrupt(file, f"its header is not JSON ({error.msg} at character {error.pos})", repo_id) from None
    except ValueError as error:
        raise corrupt(file, f"its header is not JSON ({shown(error)})", repo_id) from None
    _refuse_surrogates(content, text, file, repo_id)
    return content


def _refuse_surrogates(content: Any, text: str, file: str, repo_id: str | None) -> None:
    r"""A name such as ``"\ud800"`` is no Unicode: the reader of the format refuses it, and no database keeps it."""
    if "\\ud" not in text and "\\uD" not in text:
        return
    try:
        # The metadata's texts as well as the names.
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise corrupt(file, "its header holds half a surrogate pair, which is no Unicode", repo_id) from None


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """Called by the JSON scanner for each object, innermost first."""
    if len(pairs) == 3:
        (a, dtype), (b, shape), (c, offsets) = pairs
        # The order that every writer uses. A header may also hold three tensors with these
        # very names: then the values are objects.
        if a == "dtype" and b == "shape" and c == "data_offsets" and type(shape) is list and type(offsets) is list:
            return _Entry(dtype, tuple(shape), offsets)
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateError(key)
        seen.add(key)
    return found


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def check_header(
    content: Any,
    file: str,
    *,
    header_bytes: int | None = None,
    file_size: int | None = None,
    repo_id: str | None = None,
) -> Header:
    """Check what `parse_json` gave for one header.

    Raises:
        CorruptHeaderError: naming the file, the tensor and the broken promise.
        UnsupportedError: if a name is endless.
    """
    if not isinstance(content, dict):
        raise corrupt(file, "its header is not a JSON object", repo_id)
    metadata = _check_metadata(content.get("__metadata__"), file, repo_id)
    tensors: list[TensorInfo] = []
    spans: list[tuple[int, int, str]] = []
    unknown: dict[str, int] = {}
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # few differ: share them
    for name, entry in content.items():
        if name == "__metadata__":
            continue
        if len(name) > MAX_NAME:
            raise too_large(_where(file, repo_id), f"has a tensor whose name is {len(name):,} characters long", repo_id)
        try:
            dtype, shape, begin, end = _check_tensor(entry)
        except ValueError as error:
            raise corrupt(file, f"tensor {shown(name)} {error}", repo_id) from None
        if dtype not in DTYPE_BITS:
            unknown[dtype] = unknown.get(dtype, 0) + 1
        tensors.append(TensorInfo(name, dtype, shapes.setdefault(shape, shape), file))
        spans.append((begin, end, name))
    data_bytes = _check_spans(spans, file, repo_id)
    if file_size is not None:
        expected = file_size - LENGTH_BYTES - data_bytes
        if header_bytes is None:
            header_bytes = expected
        if header_bytes != expected or header_bytes < 2:
            promised = LENGTH_BYTES + header_bytes + data_bytes if header_bytes >= 2 else LENGTH_BYTES + data_bytes
            raise corrupt(file, f"it has {file_size:,} bytes, its header promises {promised:,}", repo_id)
    warnings = tuple(
        f"{shown(file)}: {count} tensors have the dtype {shown(dtype)}, unknown to this version"
        for dtype, count in sorted(unknown.items())
    )
    return Header(tuple(tensors), metadata, header_bytes, data_bytes, warnings)


def _check_metadata(value: Any, file: str, repo_id: str | None) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(type(v) is str for v in value.values()):
        raise corrupt(file, "its __metadata__ is not an object of strings", repo_id)
    return value


def _check_tensor(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape, begin and end of one tensor; ValueError says what is wrong with it."""
    if type(entry) is _Entry:
        dtype, shape, offsets = entry
    elif isinstance(entry, dict):
        try:
            dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        except KeyError as error:
            raise ValueError(f"lacks {shown(error.args[0])}") from None
    else:
        raise ValueError("is not described by an object")
    if type(dtype) is not str:
        raise ValueError("has a dtype that is not a string")
    if not isinstance(shape, (list, tuple)):
        raise ValueError("has a shape that is not a list")
    numel = 1
    for side in shape:
        if type(side) is not int or side < 0:
            raise ValueError(f"has the side {shown(side)} in its shape")
        numel *= side
        if numel > _MAX_INT:
            raise ValueError("has a shape whose product overflows")
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError("has data_offsets that are not a pair")
    begin, end = offsets
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end <= _MAX_INT:
        raise ValueError(f"has the data_offsets {shown(offsets)}")
    bits = DTYPE_BITS.get(dtype)
    if bits is not None and (end - begin) * 8 != numel * bits:
        need = f"{numel * bits / 8:,.10g}"
        raise ValueError(f"takes {end - begin:,} bytes where {dtype} of shape {shown(list(shape))} needs {need}")
    return sys.intern(dtype), tuple(shape), begin, end


def _check_spans(spans: list[tuple[int, int, str]], file: str, repo_id: str | None) -> int:
    """That the tensors cover the data section once; returns its length."""
    spans.sort()
    at = 0
    for begin, end, name in spans:
        if begin != at:
            kind = "overlaps the one before it" if begin < at else "leaves a hole before it"
            raise corrupt(file, f"tensor {shown(name)} {kind} (at byte {begin:,}, expected {at:,})", repo_id)
        at = end
    return at


def merge_tensors(headers: Mapping[str, Header]) -> tuple[TensorInfo, ...]:
    """The tensors of several files, in the mapping's order of files."""
    return tuple(chain.from_iterable(h.tensors for h in headers.values()))
