"""The caching allocator's rules, worked out by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hubvram.timeline.allocator import CachingAllocator, segment_size
from hubvram.timeline.reserved import packed

MIB = 1 << 20


def test_segments_by_request() -> None:
    assert segment_size(512) == 2 * MIB
    assert segment_size(MIB) == 2 * MIB
    assert segment_size(MIB + 512) == 20 * MIB
    assert segment_size(10 * MIB) == 10 * MIB
    assert segment_size(11 * MIB) == 12 * MIB


def test_small_requests_share_a_segment() -> None:
    a = CachingAllocator()
    for i in range(4):
        a.malloc(i, 512 * 1024)
    assert a.reserved == 2 * MIB
    a.malloc("one more", 512)
    assert a.reserved == 4 * MIB


def test_freed_neighbours_merge_and_serve_a_larger_request() -> None:
    a = CachingAllocator()
    a.malloc(0, 8 * MIB)
    a.malloc(1, 8 * MIB)
    assert a.reserved == 20 * MIB
    a.free(0)
    a.free(1)
    a.malloc(2, 18 * MIB)
    assert a.reserved == 20 * MIB


def test_a_large_remainder_of_a_mebibyte_or_less_is_not_split_off() -> None:
    a = CachingAllocator()
    a.malloc(0, 19 * MIB + 512 * 1024)  # a segment of 20 MiB, half a MiB left
    a.malloc(1, 2 * MIB)  # does not fit what is left
    assert a.reserved == 40 * MIB


def test_best_fit_takes_the_smallest_block_that_is_large_enough() -> None:
    a = CachingAllocator()
    for key, size in ((0, 30), (1, 12), (2, 50)):
        a.malloc(key, size * MIB)
    for key in (0, 1, 2):
        a.free(key)
    a.malloc(3, 12 * MIB)
    a.malloc(4, 50 * MIB)
    assert a.reserved == 92 * MIB
    assert a.free_above(20 * MIB) == 30 * MIB


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60), st.randoms())
def test_reserved_never_falls_below_what_is_live(sizes: list[int], random: object) -> None:
    a = CachingAllocator()
    live: dict[int, int] = {}
    for key, size in enumerate(sizes):
        a.malloc(key, size * 512 * 1024)
        live[key] = size * 512 * 1024
        if random.random() < 0.4:  # type: ignore[attr-defined]  # hypothesis hands over random.Random
            gone = random.choice(sorted(live))  # type: ignore[attr-defined]
            a.free(gone)
            del live[gone]
        assert a.reserved >= sum(live.values())


@given(st.lists(st.tuples(st.integers(1, 80), st.integers(1, 9)), min_size=1, max_size=12))
def test_packing_by_arithmetic_is_what_the_allocator_reserves(items: list[tuple[int, int]]) -> None:
    sizes = [(n * 512 * 1024, count) for n, count in items]
    total = sum(size * count for size, count in sizes)
    reserved = packed(sizes)
    assert reserved >= total
    a = CachingAllocator()
    key = 0
    for size, count in sorted(sizes, reverse=True):
        for _ in range(count):
            a.malloc(key, size)
            key += 1
    assert reserved == a.reserved
