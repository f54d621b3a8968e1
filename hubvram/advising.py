"""`fit` and `recommend` for one repo: the snapshot from the client, the search over it from `hubvram.advice`.

Nothing of what comes out is kept: it is computed from the snapshot, which is.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubvram.client import Client, check_methods, make_report
from hubvram.errors import SettingError, UnsupportedError
from hubvram.gpus import Card, resolve
from hubvram.plan.settings import Settings
from hubvram.sources import parse_ref

if TYPE_CHECKING:
    from hubvram.advice.bench import Bench
    from hubvram.advice.fit import FitReport
    from hubvram.advice.recommend import Advice
    from hubvram.report.record import Report


def fit(
    repo: str,
    gpus: str | Sequence[str],
    methods: Sequence[str] | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    db: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    token: str | bool | None = None,
    variant: str | None = None,
    file: str | None = None,
    allow_conversion_pr: bool = False,
    **settings: Any,
) -> FitReport:
    """Which methods fit on a card, and the largest batch, sequence and LoRA rank that do, all else fixed.

    Args:
        gpus: cards by name; at least one.
        settings, and all others: as in :func:`hubvram.estimate`. With
            ``num_gpus`` and ``strategy``, each card is one of so many.

    Raises:
        HubvramError: a subclass says what happened (`hubvram.errors`).
    """
    if not gpus:
        raise SettingError("fit needs a card to fit on.", hint="Name one, such as gpus=['RTX 4090'].")
    cards = resolve([gpus] if isinstance(gpus, str) else gpus)
    with Client(
        endpoint=endpoint,
        db=db,
        offline=offline,
        refresh=refresh,
        token=token,
        variant=variant,
        file=file,
        allow_conversion_pr=allow_conversion_pr,
    ) as client:
        return fit_with(client, repo, cards, methods, revision, settings)


def recommend(
    repo: str,
    goals: Sequence[str] | None = None,
    gpus: str | Sequence[str] | None = None,
    max_gpus: int | None = None,
    methods: Sequence[str] | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    db: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    token: str | bool | None = None,
    variant: str | None = None,
    file: str | None = None,
    allow_conversion_pr: bool = False,
    **settings: Any,
) -> Advice:
    """For each goal a method, its settings and the cards to run it on, with the reason.

    Args:
        goals: names of `hubvram.advice.goals.GOALS`; None = all.
        gpus: cards at hand; None = the seed guide's.
        max_gpus: cards of one kind that a run may use; None = 64.
        methods: the methods that may be recommended; None = all.
        settings, and all others: as in :func:`hubvram.estimate`. What is set here no recommendation changes.

    Raises:
        HubvramError: a subclass says what happened (`hubvram.errors`).
    """
    cards = resolve([gpus] if isinstance(gpus, str) else gpus)
    with Client(
        endpoint=endpoint,
        db=db,
        offline=offline,
        refresh=refresh,
        token=token,
        variant=variant,
        file=file,
        allow_conversion_pr=allow_conversion_pr,
    ) as client:
        return recommend_with(client, repo, goals, cards, max_gpus, methods, revision, settings)


def fit_with(
    client: Client,
    repo: str,
    cards: Sequence[Card],
    methods: Sequence[str] | None = None,
    revision: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    strict: bool | None = None,
) -> FitReport:
    """As :func:`fit`, with a client that is open.

    Args:
        strict: a PEFT setting that one of the methods does not have is an error. None: where methods are named.

    Raises:
        HubvramError: a subclass says what happened.
    """
    from hubvram.advice.fit import FitReport, fit_cards

    asked = Settings.from_kwargs(**(settings or {}))
    names = check_methods(methods)
    bench, report, max_seq_len = _bench(
        client, repo, revision, asked, strict=methods is not None if strict is None else strict
    )
    return FitReport(report, fit_cards(bench, names, cards, max_seq_len=max_seq_len))


def recommend_with(
    client: Client,
    repo: str,
    goals: Sequence[str] | None,
    cards: Sequence[Card],
    max_gpus: int | None = None,
    methods: Sequence[str] | None = None,
    revision: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Advice:
    """As :func:`recommend`, with a client that is open.

    Raises:
        HubvramError: a subclass says what happened.
    """
    from hubvram.advice import goals as catalogue
    from hubvram.advice.recommend import MAX_CARDS, Advice, Adviser

    given = {name for name, value in (settings or {}).items() if value is not None}
    asked = Settings.from_kwargs(**(settings or {}))
    most = _most(max_gpus, asked, given, MAX_CARDS)
    wanted = catalogue.find(goals)
    allowed = set(check_methods(methods)) if methods is not None else None
    bench, report, _ = _bench(client, repo, revision, asked.with_(num_gpus=1), strict=False)
    adviser = Adviser(bench, given - {"num_gpus"}, cards, max_gpus=most, methods=allowed)
    return Advice(report, tuple(card.name for card in cards), most, tuple(adviser.recommend(goal) for goal in wanted))


def _most(max_gpus: Any, asked: Settings, given: Collection[str], default: int) -> int:
    """How many cards of one kind there are: as said, else as many as the run is to use."""
    if max_gpus is None:
        return asked.num_gpus if "num_gpus" in given else default
    if isinstance(max_gpus, bool) or not isinstance(max_gpus, int) or max_gpus < 1:
        raise SettingError(f"max_gpus is {max_gpus!r}: it must be a whole number of at least 1.")
    return max_gpus


def _bench(
    client: Client, repo: str, revision: str | None, asked: Settings, *, strict: bool
) -> tuple[Bench, Report, int | None]:
    """The model on the bench, the report without estimates, and the tokens that the model takes at most.

    A PEFT adapter stands for its base, under its own config and with its own method.

    Raises:
        HubvramError: a subclass says what happened.
    """
    from hubvram import adapters
    from hubvram.advice.bench import Bench

    snapshot, description = client.snapshot(parse_ref(repo, revision, client.endpoint), client.selection)
    if snapshot.metadata.get("layout") != "adapter":
        bench = Bench(snapshot, asked, strict=strict)
        return bench, make_report(snapshot, description, bench.applied, ()), description.max_seq_len
    adapter = adapters.read_adapter(snapshot)
    if adapter.base is None:
        raise UnsupportedError(
            f"{snapshot.repo_id}: {adapters.no_base(adapter)}.",
            hint="Name the base model instead.",
            repo_id=snapshot.repo_id,
        )
    base, based = client.snapshot(adapter.base)
    bench = Bench(
        base,
        replace(asked, peft={**adapter.peft, **asked.peft}),
        only=(*adapter.methods, "inference"),
        why_only=adapters.only_these(adapter),
    )
    report = make_report(snapshot, description, bench.applied, ())
    warnings = dict.fromkeys((*report.warnings, adapters.continuing(adapter, base), *base.warnings, *based.warnings))
    return bench, replace(report, warnings=tuple(warnings)), based.max_seq_len
