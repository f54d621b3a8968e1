"""Snapshots as bytes, for the store: small, and quick to read back.

The 92,000 tensors of a large mixture of experts become columns (names, and
indexes into tables of dtypes, shapes and files) in one JSON text, compressed
with zlib. No pickle: the bytes may come from a database that somebody else
wrote.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from typing import Any

from hubvram.errors import StoreError
from hubvram.snapshot.records import FileInfo, Snapshot, TensorInfo

FORMAT = 1
_MAGIC = b"HVS1"
_LEVEL = 3
_MAX_BYTES = 500_000_000


def encode(snapshot: Snapshot) -> bytes:
    """``snapshot`` as bytes; equal snapshots give equal bytes."""
    dtypes: dict[str, int] = {}
    shapes: dict[tuple[int, ...], int] = {}
    files: dict[str, int] = {}
    names: list[str] = []
    columns: tuple[list[int], list[int], list[int]] = ([], [], [])
    for name, dtype, shape, file in snapshot.tensors:
        names.append(name)
        columns[0].append(dtypes.setdefault(dtype, len(dtypes)))
        columns[1].append(shapes.setdefault(shape, len(shapes)))
        columns[2].append(files.setdefault(file, len(files)))
    content = {
        "repo_id": snapshot.repo_id,
        "requested_revision": snapshot.requested_revision,
        "commit_sha": snapshot.commit_sha,
        "endpoint": snapshot.endpoint,
        "source": snapshot.source,
        "config": dict(snapshot.config),
        "files": [list(asdict(f).values()) for f in snapshot.files],
        "metadata": dict(snapshot.metadata),
        "warnings": list(snapshot.warnings),
        "dtypes": list(dtypes),
        "shapes": list(shapes),
        "weight_files": list(files),
        "names": names,
        "columns": columns,
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
    return _MAGIC + zlib.compress(text.encode("ascii"), _LEVEL)


def decode(data: bytes) -> Snapshot:
    """The snapshot that `encode` was given.

    Raises:
        StoreError: if the bytes are not from `encode` (of this format).
    """
    if data[: len(_MAGIC)] != _MAGIC:
        raise _broken("it has another format")
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data[len(_MAGIC) :], _MAX_BYTES)
        if not unpacker.eof:
            raise _broken("it is cut short")
        return _snapshot(json.loads(text))
    except (zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise _broken(f"{type(error).__name__}") from None


def _snapshot(content: dict[str, Any]) -> Snapshot:
    dtypes, files = content["dtypes"], content["weight_files"]
    shapes = [tuple(s) for s in content["shapes"]]
    d, s, f = content["columns"]
    tensors = tuple(
        map(
            TensorInfo,
            content["names"],
            map(dtypes.__getitem__, d),
            map(shapes.__getitem__, s),
            map(files.__getitem__, f),
        )
    )
    if not len(tensors) == len(content["names"]) == len(d):
        raise ValueError("columns of different length")
    return Snapshot(
        repo_id=content["repo_id"],
        requested_revision=content["requested_revision"],
        commit_sha=content["commit_sha"],
        endpoint=content["endpoint"],
        source=content["source"],
        config=content["config"],
        tensors=tensors,
        files=tuple(FileInfo(*row) for row in content["files"]),
        metadata=content["metadata"],
        warnings=tuple(content["warnings"]),
    )


def _broken(what: str) -> StoreError:
    return StoreError(f"a snapshot in the cache cannot be read: {what}", hint="fetch it again with --refresh")
