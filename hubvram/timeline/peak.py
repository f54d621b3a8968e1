"""From the log of allocations to figures: the highest point of each phase, and what is alive there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

from hubvram.timeline.tracer import Segment, Tracer


@dataclass(frozen=True, slots=True)
class High:
    """The highest point of one phase."""

    phase: str
    bytes: int
    position: int
    """Log position (of the one copy that is traced)."""
    copies: int
    """For a peak inside a repeated segment: the equal copies beside it, already in ``bytes``."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """What the log says."""

    highs: tuple[High, ...]
    """One per phase, in order."""
    ends: tuple[int, ...]
    """Bytes alive at the end of each phase."""

    @property
    def steady(self) -> int:
        """Between steps: after the optimizer step and zero_grad."""
        return self.ends[-2]

    @property
    def peak(self) -> High:
        """The highest of all; the earlier phase wins a draw."""
        return max(self.highs, key=lambda h: h.bytes)


def weights_of(tracer: Tracer) -> list[int]:
    """Bytes that each storage stands for outside the segment it was born in."""
    weighted = list(tracer.sizes)
    for segment in tracer.segments:
        if segment.m == 1:
            continue
        for sid in range(segment.sid_start, segment.sid_end):
            weighted[sid] *= segment.m
    for sid in tracer.single:
        weighted[sid] = tracer.sizes[sid]
    for sid, count in tracer.mult.items():
        weighted[sid] = tracer.sizes[sid] * count
    return weighted


def read(tracer: Tracer) -> Timeline:
    """Walk the log once.

    A segment of m equal copies raises the level by (m - 1) times its own net
    change before its inner peak is looked at (the last copy), or not at all if
    the change is negative (the first copy): inside, the level is linear in the
    number of copies, so the highest is at one of the two ends.
    """
    log = tracer.log
    weighted = weights_of(tracer)
    segments = sorted((s for s in tracer.segments if s.m > 1), key=lambda s: s.start)
    cuts = [*tracer.phases, ("end", len(log))]
    level = 0
    highs: list[High] = []
    ends: list[int] = []
    for (name, start), (_, end) in pairwise(cuts):
        best, best_at, best_copies = level, start, 0
        at = start
        for segment in [*[s for s in segments if start <= s.start < end], None]:
            stop = segment.start if segment is not None else end
            if stop > at:
                deltas = [weighted[e] if e >= 0 else -weighted[~e] for e in log[at:stop]]
                run = list(accumulate(deltas))
                top = max(run)
                if level + top > best:
                    best, best_at, best_copies = level + top, at + run.index(top) + 1, 0
                level += run[-1]
            if segment is None:
                break
            deltas, once = _inside(tracer, segment)
            if deltas:
                run = list(accumulate(deltas))
                top, net = max(run), run[-1]
                before = max(0, (segment.m - 1) * net)
                if level + before + top > best:
                    best = level + before + top
                    best_at = segment.start + run.index(top) + 1
                    best_copies = segment.m - 1 if net > 0 else 0
                level += segment.m * net - once
            at = segment.end
        highs.append(High(name, best, best_at, best_copies))
        ends.append(level)
    return Timeline(tuple(highs), tuple(ends))


def _inside(tracer: Tracer, segment: Segment) -> tuple[list[int], int]:
    """Level changes of one copy of a segment, and what is freed once for all copies.

    Tables shared by all layers (rotary cos and sin, masks) go when the last
    copy lets go of them: the traced copy's free of such a storage counts once.
    """
    sizes, single = tracer.sizes, tracer.single
    low = segment.sid_start
    forward = segment.forward
    f0, f1 = (forward.sid_start, forward.sid_end) if forward is not None else (0, 0)
    deltas: list[int] = []
    once = 0
    for e in tracer.log[segment.start : segment.end]:
        if e >= 0:
            deltas.append(sizes[e])
            continue
        sid = ~e
        if sid >= low or f0 <= sid < f1 or sid in single:
            deltas.append(-sizes[sid])
        else:
            deltas.append(0)
            once += sizes[sid]
    return deltas, once


def counts_at(tracer: Tracer, position: int, copies: int) -> dict[int, int]:
    """How many of each storage are alive at a log position (sid -> count, zeros left out).

    ``copies`` more of the segment the position lies in are counted whole.
    """
    log, single, sizes = tracer.log, tracer.single, tracer.sizes
    weighted = weights_of(tracer)
    counts: dict[int, int] = {}
    at = 0
    for segment in [*sorted((s for s in tracer.segments if s.m > 1), key=lambda s: s.start), None]:
        stop = min(segment.start if segment is not None else position, position)
        for e in log[at:stop]:
            sid = e if e >= 0 else ~e
            whole = weighted[sid] // sizes[sid]
            counts[sid] = counts.get(sid, 0) + (whole if e >= 0 else -whole)
        if segment is None or segment.start >= position:
            break
        inside = position <= segment.end
        times = copies if inside else segment.m
        low, forward = segment.sid_start, segment.forward
        f0, f1 = (forward.sid_start, forward.sid_end) if forward is not None else (0, 0)
        # What all copies share goes when the last one lets go: at the segment's end, and once (see `_inside`).
        stretches = [(log[segment.start : segment.end], times, not inside)] if times else []
        if inside:
            stretches.append((log[segment.start : position], 1, False))
        for events, weight, ended in stretches:
            for e in events:
                sid = e if e >= 0 else ~e
                own = sid >= low or f0 <= sid < f1 or sid in single
                if own:
                    counts[sid] = counts.get(sid, 0) + (weight if e >= 0 else -weight)
                elif ended:
                    counts[sid] = counts.get(sid, 0) - 1
        if inside:
            break
        at = segment.end
    # Each copy frees what the copy before handed on, the traced one what it was given: the storage
    # handed in ends below zero and the one handed out as much above it.
    short = [sid for sid, n in counts.items() if n < 0]
    for sid in short:
        for other, n in counts.items():
            if n > 0 and other in single and sizes[other] == sizes[sid]:
                moved = min(n, -counts[sid])
                counts[other] -= moved
                counts[sid] += moved
                if counts[sid] == 0:
                    break
    return {sid: n for sid, n in counts.items() if n}


def categories(tracer: Tracer, high: High) -> tuple[int, int, int, int, int]:
    """Bytes alive at a high point: weights, gradients, optimizer, activations, temporary."""
    totals = [0, 0, 0, 0, 0]
    cats, sizes = tracer.cats, tracer.sizes
    for sid, n in counts_at(tracer, high.position, high.copies).items():
        totals[cats[sid]] += n * sizes[sid]
    return (totals[0], totals[1], totals[2], totals[3], totals[4])
