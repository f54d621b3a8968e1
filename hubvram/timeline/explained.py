"""What is alive at the peak, in words: the source of ``--explain``."""

from __future__ import annotations

from hubvram.report.record import AliveGroup, Mark
from hubvram.timeline.peak import Timeline, weights_of
from hubvram.timeline.tracer import Tracer

CATEGORIES = ("weights", "gradients", "optimizer", "activations", "temporary")
_WHY = {
    "weights": "a weight, held for the whole run",
    "gradients": "a gradient, held from backward to zero_grad",
    "optimizer": "optimizer state, held for the whole run",
    "activations": "made in the forward pass",
    "temporary": "made in backward or in passing",
}


def marks(timeline: Timeline) -> tuple[Mark, ...]:
    """The highest point of each phase."""
    return tuple(
        Mark(h.phase, f"highest point of {h.phase}", h.bytes)  # type: ignore[arg-type]  # phases.trace names them
        for h in timeline.highs
        if h.phase != "steady"
    )


def alive(tracer: Tracer, timeline: Timeline) -> tuple[AliveGroup, ...]:
    """Groups of tensors alive at the peak, largest first; their bytes sum to the peak."""
    peak = timeline.peak
    weighted = weights_of(tracer)
    counts: dict[int, int] = {}
    segments = sorted((s for s in tracer.segments if s.m > 1), key=lambda s: s.start)
    at = 0
    done = False
    for segment in [*segments, None]:
        stop = min(segment.start if segment is not None else peak.position, peak.position)
        for e in tracer.log[at:stop]:
            sid = e if e >= 0 else ~e
            whole = weighted[sid] // tracer.sizes[sid]
            counts[sid] = counts.get(sid, 0) + (whole if e >= 0 else -whole)
        if segment is None or segment.start >= peak.position or done:
            break
        inside = peak.position <= segment.end
        times = peak.copies if inside else segment.m
        forward = segment.forward
        for e in tracer.log[segment.start : segment.end]:
            sid = e if e >= 0 else ~e
            own = sid >= segment.sid_start or sid in tracer.single
            own = own or (forward is not None and forward.sid_start <= sid < forward.sid_end)
            step = times if own else 1
            counts[sid] = counts.get(sid, 0) + (step if e >= 0 else -step)
        if inside:
            for e in tracer.log[segment.start : peak.position]:
                sid = e if e >= 0 else ~e
                counts[sid] = counts.get(sid, 0) + (1 if e >= 0 else -1)
            break
        at = segment.end
    return _grouped(tracer, counts)


def _grouped(tracer: Tracer, counts: dict[int, int]) -> tuple[AliveGroup, ...]:
    groups: dict[tuple[str, str, tuple[int, ...], str, str], list[int]] = {}
    kept = tracer.kept_by or {}
    for sid, count in counts.items():
        if count == 0:
            continue
        op, scope, shape, dt = tracer.info[sid]
        category = CATEGORIES[tracer.cats[sid]]
        users = kept.get(sid)
        why = f"kept for the backward of {', '.join(users)}" if users else _WHY[category]
        entry = groups.setdefault((category, f"{scope}.{op}" if scope else op, shape, dt.name, why), [0, 0])
        entry[0] += count
        entry[1] += count * tracer.sizes[sid]
    rows = [
        AliveGroup(category, name, name, count, shape, dtype, size, why)
        for (category, name, shape, dtype, why), (count, size) in groups.items()
        if size
    ]
    return tuple(sorted(rows, key=lambda r: -r.bytes))
