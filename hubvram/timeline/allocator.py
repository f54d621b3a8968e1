"""PyTorch's caching allocator for CUDA, as far as it decides how much memory is reserved.

Source: torch 2.13 ``c10/cuda/CUDACachingAllocator.cpp`` (native backend,
default settings: no expandable segments, no split limit). Sizes in bytes.
"""

from __future__ import annotations

from bisect import bisect_left, insort

SMALL_LIMIT = 1 << 20
"""kSmallSize: requests up to 1 MiB come from the small pool."""
SMALL_SEGMENT = 2 << 20
"""kSmallBuffer."""
MIDDLE_SEGMENT = 20 << 20
"""kLargeBuffer: segment for requests between 1 and 10 MiB."""
MIDDLE_LIMIT = 10 << 20
"""kMinLargeAlloc."""
LARGE_ROUND = 2 << 20
"""kRoundLarge: larger requests get a segment of their own, rounded up to this."""


def segment_size(size: int) -> int:
    """Bytes asked of the driver for a request (already rounded to 512) that finds no free block."""
    if size <= SMALL_LIMIT:
        return SMALL_SEGMENT
    if size < MIDDLE_LIMIT:
        return MIDDLE_SEGMENT
    return (size + LARGE_ROUND - 1) // LARGE_ROUND * LARGE_ROUND


class CachingAllocator:
    """Best fit in two pools, splitting, merging of neighbours; segments are never given back."""

    def __init__(self) -> None:
        """Nothing reserved."""
        self.reserved = 0
        self._pools: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        self._free_at: dict[int, int] = {}
        """Start of a free block -> its size."""
        self._free_to: dict[int, int] = {}
        """End of a free block -> its start."""
        self._live: dict[object, tuple[int, int, bool]] = {}
        self._next = 0

    def malloc(self, key: object, size: int) -> None:
        """Allocate ``size`` bytes (a multiple of 512) under ``key``."""
        small = size <= SMALL_LIMIT
        pool = self._pools[small]
        i = bisect_left(pool, (size, -1))
        if i < len(pool):
            have, at = pool.pop(i)
            del self._free_at[at], self._free_to[at + have]
        else:
            have, at = segment_size(size), self._next
            self._next += have + LARGE_ROUND  # a gap, so that segments never merge
            self.reserved += have
        rest = have - size
        if (rest >= 512) if small else (rest > SMALL_LIMIT):
            self._put(pool, at + size, rest)
            have = size
        self._live[key] = (at, have, small)

    def free(self, key: object) -> None:
        """Free what is under ``key``; a key that is not there is ignored."""
        block = self._live.pop(key, None)
        if block is None:
            return
        at, size, small = block
        pool = self._pools[small]
        before = self._free_to.get(at)
        if before is not None:
            self._take(pool, before, at - before)
            at, size = before, size + at - before
        after = self._free_at.get(at + size)
        if after is not None:
            self._take(pool, at + size, after)
            size += after
        self._put(pool, at, size)

    def free_above(self, size: int) -> int:
        """Bytes in free blocks larger than ``size``."""
        return sum(have for have, _ in self._pools[False] if have > size)

    def _put(self, pool: list[tuple[int, int]], at: int, size: int) -> None:
        insort(pool, (size, at))
        self._free_at[at] = size
        self._free_to[at + size] = at

    def _take(self, pool: list[tuple[int, int]], at: int, size: int) -> None:
        del pool[bisect_left(pool, (size, at))]
        del self._free_at[at], self._free_to[at + size]
