"""Reserved memory: the timeline's allocations played through the caching allocator.

Repeated layers are played a few times only; what each further copy adds is the
mean of what the played ones added. Weights and optimizer states come first and
stay: they are laid out by arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable

from hubvram.timeline.allocator import MIDDLE_LIMIT, SMALL_LIMIT, CachingAllocator, segment_size
from hubvram.timeline.peak import Timeline
from hubvram.timeline.tracer import OPTIMIZER, Segment, Tracer

CUDA_CONTEXT_BYTES = 500 * 2**20
"""What nvidia-smi shows beyond reserved memory: context, loaded kernels, library handles.

Published readings: 141 MiB (T4, CUDA 12.8, lazy loading, few kernels), 0.47 to
0.92 GiB (A100 class, kernels loaded), 1343 MiB (V100, CUDA 11.2, eager
loading). The figure stands for a current card with CUDA 12 and lazy loading
after a training step has loaded its kernels.
"""

PLAYED = 1
"""Copies of a repeated layer that are played; playing all gives 0 to 7 % more (median 2 %, 31 measured runs)."""


def packed(sizes: Iterable[tuple[int, int]]) -> int:
    """Bytes reserved by (size, count) allocations that stay for good, made in any order.

    Large ones have segments of their own; the others go where they fit best, the larger first.
    """
    reserved = 0
    small = 0
    middle: dict[int, int] = {}
    gaps: list[tuple[int, int]] = []  # (free bytes of a segment, how many such)
    for size, count in sizes:
        if size <= SMALL_LIMIT:
            small += size * count
        elif size < MIDDLE_LIMIT:
            middle[size] = middle.get(size, 0) + count
        else:
            reserved += segment_size(size) * count
            if segment_size(size) - size > SMALL_LIMIT:  # else the block is not split
                gaps.append((segment_size(size) - size, count))
    reserved += -(-small // segment_size(1)) * segment_size(1)
    whole = segment_size(SMALL_LIMIT + 1)
    for size, count in sorted(middle.items(), reverse=True):
        kept: list[tuple[int, int]] = []
        for gap, times in [*sorted(gaps), (whole, count)]:  # best fit; what no gap takes gets segments of its own
            each = gap // size
            filled, rest = divmod(min(count, each * times), each) if each else (0, 0)
            count -= filled * each + rest
            used = filled + (rest > 0)
            if gap == whole:
                reserved += used * whole
            elif times > used:
                kept.append((gap, times - used))
            if filled and gap % size:
                kept.append((gap % size, filled))
            if rest:
                kept.append((gap - rest * size, 1))
        gaps = kept
    return reserved


def peak_reserved(tracer: Tracer, timeline: Timeline) -> int:
    """``torch.cuda.max_memory_reserved()`` over steps 1 to 3, in bytes.

    Optimizer states are made at the end of the first step: they settle in the
    large blocks that the first forward and backward pass left free (the
    loss's), with the gradients still alive; the next step asks for such blocks
    anew. The optimizer's temporaries go where large free blocks remain.
    """
    start = next(at for name, at in tracer.phases if name == "optimizer")
    sizes, mult = tracer.sizes, tracer.mult
    before = {sid for sid in tracer.log[:start] if sid in tracer.held}
    static = [(sizes[sid], mult.get(sid, 1)) for sid in before if tracer.cats[sid] != OPTIMIZER]
    states = [(sizes[sid], mult.get(sid, 1)) for sid in before if tracer.cats[sid] == OPTIMIZER]
    stepping = [(sizes[e], mult.get(e, 1)) for e in tracer.log[start:] if e in tracer.held and e not in before]
    player = _Player(tracer)
    moving = player.play()
    largest = max((size for size, _ in (*states, *stepping)), default=0)
    room = player.a.free_above(max((size for size, count in (*states, *stepping) if count > 1), default=largest))
    made = packed(states)
    settled = min(made, room)
    limit = player.largest_kept
    large = packed((size, count) for size, count in stepping if size > limit)
    small = packed((size, count) for size, count in stepping if size <= limit)
    anew = min(settled, player.a.free_above(largest))
    anew += max(0, large + max(0, small - player.kept_room) - (room - settled))
    return max(packed(static) + moving + made - settled + anew, timeline.peak.bytes)


class _Player:
    """Plays the forward and backward phases."""

    def __init__(self, tracer: Tracer) -> None:
        self.t = tracer
        self.a = CachingAllocator()
        self.extra = 0
        self.copies: dict[int, int] = {}
        """sid -> copies played, for storages born in repeated segments."""
        self.largest_kept = 0
        """Largest segment that activations of repeated layers lie in: larger requests find no room there."""
        self.kept_room = 0
        """Bytes that activations of repeated layers leave free after backward, in segments up to that size."""
        self.handed: dict[int, int] = {}
        """Carried-in sid -> carried-out sid of the same segment."""

    def play(self) -> int:
        """Reserved bytes at the end."""
        t = self.t
        segments = sorted((s for s in t.segments if s.m > 1), key=lambda s: s.start)
        start = next(at for name, at in t.phases if name == "forward")
        stop = next(at for name, at in t.phases if name == "optimizer")
        at = start
        for segment in segments:
            if segment.start < start or segment.start >= stop:
                continue
            self._plain(t.log[at : segment.start])
            self._repeated(segment)
            at = segment.end
        self._plain(t.log[at:stop])
        return self.a.reserved + self.extra

    def _plain(self, events: list[int]) -> None:
        t, a = self.t, self.a
        held, sizes, copies, single = t.held, t.sizes, self.copies, t.single
        for e in events:
            if e >= 0:
                if e not in held:
                    a.malloc(e, sizes[e])
                continue
            sid = ~e
            n = copies.get(sid)
            if n is None:
                a.free(sid)
            elif sid in single:
                a.free((sid, n - 1))
                a.free((sid, 0))
            else:
                for j in range(n):
                    a.free((sid, j))

    def _repeated(self, segment: Segment) -> None:
        t, a = self.t, self.a
        sizes, single, held = t.sizes, t.single, t.held
        events = t.log[segment.start : segment.end]
        n = min(segment.m, PLAYED)
        forward = segment.forward
        low, high = segment.sid_start, segment.sid_end
        f0, f1 = (forward.sid_start, forward.sid_end) if forward is not None else (0, 0)
        carried_in = [~e for e in events if e < 0 and ~e < low and not f0 <= ~e < f1 and ~e in single]
        carried_out = [s for s in range(low, high) if s in single]
        handed = dict(zip(carried_in, carried_out, strict=False))
        if forward is None:
            self.handed.update(zip(carried_in, carried_out, strict=False))
        levels = []
        for i in range(n):
            j = i if forward is None else n - 1 - i  # backward meets the last copy first
            for e in events:
                sid = e if e >= 0 else ~e
                if low <= sid < high or f0 <= sid < f1:
                    key: object = (sid, j)
                elif sid in single and sid in handed and i > 0:
                    key = (handed[sid], j - 1 if forward is None else j + 1)
                else:
                    key = sid
                    if e < 0 and i < n - 1 and sid not in single:
                        continue  # shared by all copies: the last one lets go
                if e >= 0:
                    if e not in held:
                        a.malloc(key, sizes[e])
                else:
                    a.free(key)
            levels.append(a.reserved)
        for sid in range(low, high):
            self.copies[sid] = n
        if segment.m > n:
            # A backward copy frees as much as it takes, but for the gradients of weights that pile up. A
            # forward copy reserves what it keeps, wherever the first ones found room for it: what they keep
            # takes the place of passing tensors, which then need new room.
            kept = self._kept(events)
            if forward is None:
                self.largest_kept = max([self.largest_kept, *(segment_size(size) for size in kept)])
                self.extra += max(0, packed((size, segment.m - 1) for size in kept) - (levels[-1] - levels[0]))
                self.kept_room += packed((size, segment.m) for size in kept)
            else:
                # gradients of weights too large for the room that activations leave
                large = [size for size in kept if size > self.largest_kept]
                net = self._net(events) - sum(large)
                self.kept_room = max(0, self.kept_room - segment.m * (sum(kept) - sum(large)))
                self.extra += packed((size, segment.m - n) for size in large) + (segment.m - n) * max(0, net)

    def _kept(self, events: list[int]) -> list[int]:
        """Sizes of what one copy leaves alive."""
        alive = {e for e in events if e >= 0} - {~e for e in events if e < 0}
        return [self.t.sizes[sid] for sid in alive]

    def _net(self, events: list[int]) -> int:
        sizes = self.t.sizes
        return sum(sizes[e] if e >= 0 else -sizes[~e] for e in events)
