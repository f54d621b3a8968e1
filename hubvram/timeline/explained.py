"""What is alive at the peak, in words: the source of ``--explain``."""

from __future__ import annotations

from hubvram.report.record import AliveGroup, Mark
from hubvram.timeline.peak import Timeline, counts_at
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
    counts = counts_at(tracer, peak.position, peak.copies)
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
