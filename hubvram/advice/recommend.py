"""Goal -> method -> cards: for each goal the first rung of its ladder that the cards can carry."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubvram.advice.bench import Bench
from hubvram.advice.changes import COUNTS
from hubvram.advice.goals import Goal, Rung
from hubvram.gpus import Card
from hubvram.report.record import Estimate, Report

KEPT_FREE = 0.05
"""Share of a card that a recommendation leaves free: an estimate is no guarantee, and another program may want some."""
MAX_CARDS = COUNTS[-1]
"""Cards of one kind that are thought of where the user does not say how many there are."""
_HALF = {"bfloat16": "float16", "bf16": "fp16"}
"""What cards before Ampere (compute capability 8.0) compute in."""
_BF16_FROM = (8, 0)


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A rung above the one that is recommended, and why it is not taken."""

    title: str
    method: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {"title": self.title, "method": self.method, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to do for one goal. Where no card will do, the fields of the set-up are those of what comes nearest."""

    goal: str
    title: str
    reachable: bool
    reason: str
    """One sentence: why this, or why nothing."""
    setup: str | None = None
    """The rung's title."""
    method: str | None = None
    settings: Mapping[str, Any] | None = None
    """Fields of `Settings` that differ from those asked for, cards and strategy left out."""
    batch_size: int | None = None
    """Samples per card and step."""
    seq_len: int | None = None
    gpu: str | None = None
    num_gpus: int | None = None
    strategy: str | None = None
    """None on one card."""
    usable_bytes: int | None = None
    """Per card."""
    total_bytes: int | None = None
    """Per card, as nvidia-smi would show it."""
    headroom_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    trainable_parameters: int | None = None
    not_counted: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    command: str | None = None
    """The command line that shows the estimate; None where flags cannot say it."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "goal": self.goal,
            "title": self.title,
            "reachable": self.reachable,
            "reason": self.reason,
            "setup": self.setup,
            "method": self.method,
            "settings": dict(self.settings) if self.settings is not None else None,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "gpu": self.gpu,
            "num_gpus": self.num_gpus,
            "strategy": self.strategy,
            "usable_bytes": self.usable_bytes,
            "total_bytes": self.total_bytes,
            "headroom_bytes": self.headroom_bytes,
            "peak_allocated_bytes": self.peak_allocated_bytes,
            "trainable_parameters": self.trainable_parameters,
            "not_counted": list(self.not_counted),
            "passed_over": [rung.to_dict() for rung in self.passed_over],
            "command": self.command,
        }


@dataclass(frozen=True, slots=True)
class Advice:
    """What `hubvram.recommend` returns."""

    report: Report
    """The model and the settings that all recommendations start from; without estimates."""
    cards: tuple[str, ...]
    """Cards that were considered, smallest first."""
    max_gpus: int
    recommendations: tuple[Recommendation, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: that of an estimate, with ``recommendations`` in the place of ``estimates``."""
        data = self.report.to_dict()
        data.pop("estimates")
        data["gpus"] = list(self.cards)
        data["max_gpus"] = self.max_gpus
        data["recommendations"] = [item.to_dict() for item in self.recommendations]
        return data


@dataclass(frozen=True, slots=True)
class _Seat:
    """A rung on some cards."""

    rung: Rung
    card: Card
    count: int
    changes: Mapping[str, Any]
    estimate: Estimate
    overruled: frozenset[str] = frozenset()
    """Fields of `Settings` in which the user's word stands against the rung's."""

    @property
    def title(self) -> str:
        """The rung's, unless the user has made another thing of it."""
        return self.rung.short if self.overruled else self.rung.title

    @property
    def spare(self) -> int:
        """Bytes left on each card beyond those that are to stay free; negative where it does not fit."""
        return int(self.card.usable_bytes * (1 - KEPT_FREE)) - (self.estimate.total_bytes or 0)


class Adviser:
    """Looks for set-ups of one model on some kinds of cards.

    Args:
        bench: the model, and the settings that hold unless a rung changes them.
        given: fields of `Settings` that the user has set: no rung touches them.
        cards: kinds of cards to consider, smallest first.
        max_gpus: cards of one kind that a run may use.
        methods: the methods that may be recommended; None = all.
    """

    def __init__(
        self,
        bench: Bench,
        given: Collection[str],
        cards: Sequence[Card],
        *,
        max_gpus: int = MAX_CARDS,
        methods: Collection[str] | None = None,
    ) -> None:
        self.bench = bench
        self.given = frozenset(given)
        self.cards = cards
        self.counts = [1, *(count for count in COUNTS if count < max_gpus), *([max_gpus] if max_gpus > 1 else [])]
        self.methods = methods

    def recommend(self, goal: Goal) -> Recommendation:
        """The set-up for a goal.

        Raises:
            SettingError: a setting that the estimator refuses.
        """
        rungs = [rung for rung in goal.rungs if self.methods is None or rung.method in self.methods]
        if not rungs:
            known = ", ".join(dict.fromkeys(rung.method for rung in goal.rungs))
            return Recommendation(
                goal.name, goal.title, False, f"None of the methods asked for leads there ({known} do)."
            )
        counts = [1] if goal.one_card else self.counts
        if goal.policy == "smallest_card":
            seat = self._smallest(rungs, counts)
        else:
            seat = self._first(rungs, counts)
        if seat is None:
            return self._out_of_reach(goal, rungs, counts)
        above = rungs[: rungs.index(seat.rung)]
        return self._record(
            goal, seat, True, _why(seat), tuple(self._passed(rung, seat, goal, counts) for rung in above)
        )

    def _first(self, rungs: Sequence[Rung], counts: Sequence[int]) -> _Seat | None:
        """The first rung that some cards carry: on the fewest, and of those on the smallest."""
        for rung in rungs:
            for count in counts:
                for card in self.cards:
                    for seat in self._seats(rung, card, count):
                        if seat.spare >= 0:
                            return seat
        return None

    def _smallest(self, rungs: Sequence[Rung], counts: Sequence[int]) -> _Seat | None:
        """The fewest and smallest cards that carry any rung, with the first that they carry."""
        for count in counts:
            for card in self.cards:
                for rung in rungs:
                    for seat in self._seats(rung, card, count):
                        if seat.spare >= 0:
                            return seat
        return None

    def _seats(self, rung: Rung, card: Card, count: int) -> list[_Seat]:
        """A rung on ``count`` cards: under each strategy, that which takes the least first. None that is skipped."""
        bf16 = tuple(int(part) for part in card.compute_capability.split(".")) >= _BF16_FROM
        bf16 = bf16 or not self.given.isdisjoint(("dtype", "mixed_precision"))  # the user has decided
        if rung.pure_half and not bf16:
            return []
        if count == 1:
            ways: dict[str, Mapping[str, Any]] = {"": {}}
        else:
            allowed = [s for s in rung.sharded if "strategy" not in self.given or s == self.bench.settings.strategy]
            ways = {s: {**rung.sharded[s], "num_gpus": count, "strategy": s} for s in allowed}
        seats = []
        for way in ways.values():
            changes = self._changes(rung, way, bf16)
            estimate = self.bench.estimate(rung.method, changes)
            if estimate.total_bytes is not None:
                overruled = self._overruled(rung, way, changes)
                seats.append(_Seat(rung, card, count, changes, estimate, overruled))
        return sorted(seats, key=lambda seat: -seat.spare)

    def _changes(self, rung: Rung, way: Mapping[str, Any], bf16: bool) -> dict[str, Any]:
        """What a rung changes of the settings: nothing that the user has set, and nothing that is so already."""
        now = self.bench.settings
        wanted = self._wanted(rung, way)
        if rung.method == "qlora" and not bf16 and not self.bench.applied["quantization"].get("quant_method"):
            wanted["quantization"] = {"bnb_4bit_compute_dtype": "float16"}
        changes: dict[str, Any] = {}
        for name, value in wanted.items():
            if name in ("peft", "quantization"):
                left = {key: item for key, item in value.items() if key not in getattr(now, name)}
                if left:
                    changes[name] = left
            elif name == "num_gpus" or (name not in self.given and getattr(now, name) != value):
                changes[name] = _HALF.get(value, value) if name in ("dtype", "mixed_precision") and not bf16 else value
        if changes["num_gpus"] == now.num_gpus:
            del changes["num_gpus"]
        return changes

    def _wanted(self, rung: Rung, way: Mapping[str, Any]) -> dict[str, Any]:
        """The rung's settings, for these cards."""
        wanted: dict[str, Any] = {"num_gpus": 1, **rung.settings, **way}
        if rung.max_tokens is not None:
            wanted["seq_len"] = min(rung.max_tokens, int(self.bench.applied["seq_len"]))
        return wanted

    def _overruled(self, rung: Rung, way: Mapping[str, Any], changes: Mapping[str, Any]) -> frozenset[str]:
        """Where the run is not what the rung wants, because the user (or the adapter) says otherwise."""
        settings = self.bench.changed(rung.method, changes)
        wanted = self._wanted(rung, way)
        peft = wanted.pop("peft", {})
        found = {name for name, value in wanted.items() if name in self.given and getattr(settings, name) != value}
        found.discard("seq_len")  # the length is the user's own affair: the set-up is the same
        if any(settings.peft.get(key) != value for key, value in peft.items()):
            found.add("peft")
        return frozenset(found)

    def _passed(self, rung: Rung, seat: _Seat, goal: Goal, counts: Sequence[int]) -> PassedOver:
        """Why a rung above the one taken is not taken."""
        tried = [s for card in self.cards for s in self._seats(rung, card, 1)]
        if goal.policy == "smallest_card":
            cards = f"the {seat.card.name}" if seat.count == 1 else f"{seat.count} x {seat.card.name}"
            reason = self._why_none(rung) if not tried else f"does not fit on {cards}"
        elif not tried:
            reason = self._why_none(rung)
        elif goal.one_card or not rung.sharded or counts == [1]:
            reason = "no single card holds it"
        else:
            reason = f"not even {counts[-1]} cards of one kind hold it"
        return PassedOver(rung.title, rung.method, reason)

    def _why_none(self, rung: Rung) -> str:
        """Why a rung has no estimate on any of the cards."""
        if rung.pure_half and self.bench.estimate(rung.method, self._changes(rung, {}, True)).total_bytes is not None:
            return "none of the cards computes in bfloat16"
        return self.bench.estimate(rung.method, self._changes(rung, {}, True)).reason or "the model cannot take it"

    def _out_of_reach(self, goal: Goal, rungs: Sequence[Rung], counts: Sequence[int]) -> Recommendation:
        """Nothing carries any rung: what comes nearest."""
        seats = [
            seat for rung in rungs for count in counts for card in self.cards for seat in self._seats(rung, card, count)
        ]
        if not seats:
            return Recommendation(goal.name, goal.title, False, _sentence(self._why_none(rungs[-1])))
        nearest = max(seats, key=lambda seat: seat.spare)
        several = f"{counts[-1]} cards of one kind" if len(counts) > 1 else "a single card"
        why = f"Nothing that leads there fits on {several} of those considered with 5 % to spare; this comes nearest."
        return self._record(goal, nearest, False, why, ())

    def _record(
        self, goal: Goal, seat: _Seat, reachable: bool, reason: str, passed: tuple[PassedOver, ...]
    ) -> Recommendation:
        from hubvram.advice.flags import command_line

        estimate, usable = seat.estimate, seat.card.usable_bytes
        applied = self.bench.changed(seat.rung.method, seat.changes)
        shown = {key: value for key, value in seat.changes.items() if key not in ("num_gpus", "strategy")}
        return Recommendation(
            goal=goal.name,
            title=goal.title,
            reachable=reachable,
            reason=reason,
            setup=seat.title,
            method=seat.rung.method,
            settings=shown,
            batch_size=applied.batch_size,
            seq_len=applied.seq_len or int(self.bench.applied["seq_len"]),
            gpu=seat.card.name,
            num_gpus=seat.count,
            strategy=applied.strategy if seat.count > 1 else None,
            usable_bytes=usable,
            total_bytes=estimate.total_bytes,
            headroom_bytes=usable - (estimate.total_bytes or 0),
            peak_allocated_bytes=estimate.peak_allocated_bytes,
            trainable_parameters=estimate.trainable_parameters,
            not_counted=estimate.not_counted,
            passed_over=passed,
            command=command_line(self.bench.snapshot.repo_id, seat.rung.method, applied, seat.card.name),
        )


def _why(seat: _Seat) -> str:
    if seat.count == 1:
        where = f"the {seat.card.name} is the smallest card considered that holds it"
    else:
        where = f"no single card holds it, so {seat.count} share the model"
    why = seat.rung.why
    if seat.overruled:
        why = "of what leads there it comes first among the set-ups that fit under the settings given"
    return _sentence(f"{why}; {where}")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
