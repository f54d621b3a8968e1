"""The inverse question: what fits on this card, and how far the settings can go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hubvram.advice.bench import Bench, growing_part, largest_part
from hubvram.advice.changes import Change, tried
from hubvram.advice.search import largest, rising
from hubvram.gpus import Card
from hubvram.report.record import Estimate, Phase, Report, Status
from hubvram.snapshot.records import Snapshot

MAX_BATCH = 2**16
"""Where the search for the largest batch ends."""
MIN_TOKENS = 2
"""Where that for the longest sequence begins: a single token has no next one to predict."""
MAX_TOKENS = 2**20
"""Where it ends, on a model that sets no limit itself."""
MAX_RANK = 2**14
"""Where that for the largest rank ends, on a model without matrices."""

Bound = Literal["memory", "model", "search"]


@dataclass(frozen=True, slots=True)
class Limit:
    """How far one setting can go on a card, all others fixed."""

    setting: str
    """batch_size, seq_len or r."""
    value: int | None
    """The largest that fits; None where not even the smallest does."""
    bound: Bound | None
    """What ends it: the card's memory; the model (its longest sequence, its widest matrix); or the search itself."""
    total_bytes: int | None = None
    """At the limit, as nvidia-smi would show it."""
    headroom_bytes: int | None = None
    next_bytes: int | None = None
    """With one more, where memory is what ends it."""
    grows: str | None = None
    """The part of the peak that one more enlarges most: what binds."""
    largest: str | None = None
    """The part of the peak that takes the most."""
    phase: Phase | None = None
    """Where in the step the peak is."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "value": self.value,
            "bound": self.bound,
            "total_bytes": self.total_bytes,
            "headroom_bytes": self.headroom_bytes,
            "next_bytes": self.next_bytes,
            "grows": self.grows,
            "largest": self.largest,
            "phase": self.phase,
        }


@dataclass(frozen=True, slots=True)
class MethodFit:
    """One method on one card."""

    method: str
    status: Status
    reason: str | None
    not_counted: tuple[str, ...] = ()
    trainable_parameters: int | None = None
    total_bytes: int | None = None
    headroom_bytes: int | None = None
    """Under the settings as they hold: what the card has left, or (negative) lacks."""
    limits: tuple[Limit, ...] = ()
    changes: tuple[Change, ...] = ()
    """Where it does not fit: the single changes that lower the total, the cheapest first."""

    @property
    def fits(self) -> bool | None:
        """Under the settings as they hold; None for a skipped method."""
        return None if self.headroom_bytes is None else self.headroom_bytes >= 0

    @property
    def fix(self) -> Change | None:
        """The cheapest single change that makes it fit."""
        return next((change for change in self.changes if change.fits), None)

    @property
    def nearest(self) -> Change | None:
        """The change that comes nearest, where none makes it fit."""
        if self.fix is not None or not self.changes:
            return None
        return max(self.changes, key=lambda change: change.headroom_bytes or 0)

    def limit(self, setting: str) -> Limit | None:
        """The limit of one setting; None where the method has no such setting."""
        return next((limit for limit in self.limits if limit.setting == setting), None)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        fix, nearest = self.fix, self.nearest
        return {
            "method": self.method,
            "status": self.status,
            "reason": self.reason,
            "not_counted": list(self.not_counted),
            "trainable_parameters": self.trainable_parameters,
            "fits": self.fits,
            "total_bytes": self.total_bytes,
            "headroom_bytes": self.headroom_bytes,
            "limits": {limit.setting: limit.to_dict() for limit in self.limits},
            "fix": fix.to_dict() if fix else None,
            "nearest": nearest.to_dict() if nearest else None,
            "changes": [change.to_dict() for change in self.changes],
        }


@dataclass(frozen=True, slots=True)
class CardFit:
    """Every method on one card."""

    name: str
    count: int
    usable_bytes: int
    """Per card, as the driver reports it."""
    methods: tuple[MethodFit, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "name": self.name,
            "count": self.count,
            "usable_bytes": self.usable_bytes,
            "methods": [method.to_dict() for method in self.methods],
        }


@dataclass(frozen=True, slots=True)
class FitReport:
    """What `hubvram.fit` returns."""

    report: Report
    """The model and the settings as applied; its estimates are those that the search began with."""
    cards: tuple[CardFit, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: that of an estimate, with ``cards`` in the place of ``estimates``."""
        data = self.report.to_dict()
        return {("cards" if k == "estimates" else k): v for k, v in data.items()} | {
            "cards": [card.to_dict() for card in self.cards]
        }


def fit_cards(
    bench: Bench, methods: Iterable[str], cards: Sequence[Card], *, max_seq_len: int | None = None
) -> tuple[CardFit, ...]:
    """Each method on each card.

    Args:
        bench: the model, and the settings that hold.
        methods: names in the catalogue.
        cards: to hold it against.
        max_seq_len: tokens that the model takes at most; None = not known.

    Raises:
        SettingError: a setting that the estimator refuses.
    """
    names = tuple(methods)
    count = bench.settings.num_gpus
    return tuple(
        CardFit(
            card.name,
            count,
            card.usable_bytes,
            tuple(_fit(bench, name, card.usable_bytes, max_seq_len) for name in names),
        )
        for card in cards
    )


def _fit(bench: Bench, method: str, usable: int, max_seq_len: int | None) -> MethodFit:
    now = bench.estimate(method)
    if now.total_bytes is None:
        return MethodFit(method, now.status, now.reason)
    limits = [_batch(bench, method, usable), _tokens(bench, method, usable, max_seq_len)]
    if bench.rank(method) is not None:
        limits.append(_rank(bench, method, usable))
    headroom = usable - now.total_bytes
    known = {limit.setting: limit.value for limit in limits}
    return MethodFit(
        method,
        now.status,
        now.reason,
        now.not_counted,
        now.trainable_parameters,
        now.total_bytes,
        headroom,
        tuple(limits),
        tried(bench, now, usable, known) if headroom < 0 else (),
    )


def _batch(bench: Bench, method: str, usable: int) -> Limit:
    def at(value: int) -> Estimate:
        return bench.estimate(method, {"batch_size": value})

    points = rising(lambda value: at(value).total_bytes, usable, MAX_BATCH)
    return _limit("batch_size", at, usable, points, "search")


def _tokens(bench: Bench, method: str, usable: int, max_seq_len: int | None) -> Limit:
    def at(value: int) -> Estimate:
        return bench.estimate(method, {"seq_len": value})

    def needs(value: int) -> int | None:
        return at(value).total_bytes

    last = max(max_seq_len, int(bench.applied["seq_len"])) if max_seq_len else MAX_TOKENS
    window = sliding_window(bench.snapshot)
    if window is None or window >= last:
        points = rising(needs, usable, last, min(MIN_TOKENS, last))
    else:
        points = rising(needs, usable, window, min(MIN_TOKENS, window)) + rising(needs, usable, last, window + 1)
    return _limit("seq_len", at, usable, points, "model" if max_seq_len else "search")


def _rank(bench: Bench, method: str, usable: int) -> Limit:
    def at(value: int) -> Estimate:
        return bench.estimate(method, {"peft": {"r": value}})

    points = rising(lambda value: at(value).total_bytes, usable, widest(bench.snapshot))
    return _limit("r", at, usable, points, "model")


def _limit(setting: str, at: Any, usable: int, points: Sequence[int], end: Bound) -> Limit:
    value = largest(lambda value: at(value).total_bytes, usable, points)
    if value is None:
        return Limit(setting, None, None)
    here: Estimate = at(value)
    total = here.total_bytes or 0
    if value == points[-1]:
        return Limit(setting, value, end, total, usable - total, largest=largest_part(here), phase=here.peak_phase)
    more: Estimate = at(value + 1)
    return Limit(
        setting,
        value,
        "memory",
        total,
        usable - total,
        more.total_bytes,
        growing_part(here, more),
        largest_part(here),
        here.peak_phase,
    )


def sliding_window(snapshot: Snapshot) -> int | None:
    """Tokens of the model's attention window: past it another kernel may run. None where it has none."""
    for config in (snapshot.config, snapshot.config.get("text_config")):
        value = config.get("sliding_window") if isinstance(config, Mapping) else None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def widest(snapshot: Snapshot) -> int:
    """The largest rank that can mean anything: the shorter side of the matrix where that is longest."""
    sides = [min(tensor.shape) for tensor in snapshot.tensors if len(tensor.shape) == 2]
    return max(sides, default=MAX_RANK) or MAX_RANK
