"""Files that are read in pieces: a file object over ranges, and the headers that need one."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

from hubvram.errors import CorruptHeaderError
from hubvram.snapshot.gguf import read_gguf
from hubvram.snapshot.header import Header
from hubvram.snapshot.pickled import read_checkpoint
from hubvram.snapshot.text import one_line, shown

_T = TypeVar("_T")
Fetch = Callable[[int, int], bytes]
"""Bytes from ``start`` to ``stop`` (not included); never past the end."""

_PICKLE_BLOCKS = (65_536, 65_536, 262_144, 4_194_304)
"""A zip checkpoint is described at its end (about 100 bytes a tensor) and at its beginning (about as many)."""
_GGUF_BLOCKS = (1_048_576, 8_388_608, 16_777_216)
"""A vocabulary of 32,000 takes 0.7 MB, one of 128,000 with its merges 8 MB."""
_MAX_GGUF_BYTES = 64_000_000
_MAX_PICKLE_BYTES = 12_000_000
"""What is read of one file at most. A directory entry has 46 bytes and more, and takes 600 in memory."""


class RangeFile(io.RawIOBase):
    """A file object that fetches blocks when they are asked for, and keeps them.

    Args:
        fetch: gives the bytes.
        size: of the file.
        blocks: how much to fetch at a time: first, second... the last again and again.
        limit: bytes in all, after which reading is refused.
    """

    def __init__(self, fetch: Fetch, size: int, blocks: tuple[int, ...], limit: int) -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._blocks = blocks
        self._limit = limit
        self._held: list[tuple[int, bytes]] = []
        self._at = 0
        self.fetched = 0
        """Bytes fetched so far."""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes, without fetching anything."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; ValueError before the beginning, as for any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a place before the beginning of the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from what is held, fetching once if nothing is."""
        want = min(len(buffer), self._size - self._at)
        if want <= 0:
            return 0
        piece = self._piece(want)
        count = min(want, len(piece))
        buffer[:count] = piece[:count]
        self._at += count
        return count

    def _piece(self, want: int) -> bytes:
        for start, data in self._held:
            if start <= self._at < start + len(data):
                return data[self._at - start :]
        block = max(want, self._blocks[min(len(self._held), len(self._blocks) - 1)])
        # A read near the end is of a zip directory: the block goes before it, for what comes next lies there.
        start = self._at if self._at + block <= self._size or self._held == [] else max(0, self._size - block)
        start = min(start, self._at)
        stop = min(self._size, max(start + block, self._at + want))
        if self.fetched + stop - start > self._limit:
            raise ValueError(f"more than {self._limit:,} bytes of it would have to be read")
        data = self._fetch(start, stop)
        self.fetched += len(data)
        self._held.append((start, data))
        return data[self._at - start :]


def pickle_header(fetch: Fetch, size: int, path: str, repo_id: str) -> Header:
    """The tensors of a PyTorch checkpoint; see `hubvram.snapshot.pickled`.

    Raises:
        CorruptHeaderError: if it is none.
    """
    return _guarded(RangeFile(fetch, size, _PICKLE_BLOCKS, _MAX_PICKLE_BYTES), read_checkpoint, path, repo_id)


def gguf_header(fetch: Fetch, size: int, path: str, repo_id: str) -> tuple[Header, dict[str, Any]]:
    """The tensors and pairs of a GGUF file; see `hubvram.snapshot.gguf`.

    Raises:
        CorruptHeaderError: if it is none.
    """
    return _guarded(RangeFile(fetch, size, _GGUF_BLOCKS, _MAX_GGUF_BYTES), read_gguf, path, repo_id)


def _guarded(raw: RangeFile, read: Callable[[BinaryIO, str, str | None], _T], path: str, repo_id: str) -> _T:
    try:
        # The class does all that a BinaryIO does here.
        return read(cast("BinaryIO", io.BufferedReader(raw, 65_536)), path, repo_id)
    except ValueError as error:
        raise CorruptHeaderError(
            f"{repo_id}: {shown(path)} cannot be read: {one_line(error)}",
            hint="the file is not what its name says: try another one with --file",
            repo_id=repo_id,
        ) from None
