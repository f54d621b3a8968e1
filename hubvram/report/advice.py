"""The pages of `hubvram fit` and `hubvram recommend`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from textwrap import wrap
from typing import Any

from hubvram.advice.fit import CardFit, FitReport, Limit, MethodFit
from hubvram.advice.recommend import KEPT_FREE, Advice, Recommendation
from hubvram.report.estimates import model_line, settings_line, title_line
from hubvram.report.page import Column, Page, Sheet
from hubvram.report.record import Report
from hubvram.report.text import number, size

FIT_FIELDS = (
    "repo_id",
    "commit_sha",
    "gpu",
    "gpus",
    "usable_bytes",
    "method",
    "status",
    "reason",
    "trainable_parameters",
    "fits",
    "total_bytes",
    "headroom_bytes",
    "max_batch_size",
    "max_seq_len",
    "max_r",
    "binds",
    "fix",
    "fix_total_bytes",
)
"""Columns of `fit` in CSV and TSV: a row per card and method."""
RECOMMEND_FIELDS = (
    "repo_id",
    "commit_sha",
    "goal",
    "reachable",
    "setup",
    "method",
    "settings",
    "batch_size",
    "seq_len",
    "gpu",
    "num_gpus",
    "strategy",
    "usable_bytes",
    "total_bytes",
    "headroom_bytes",
    "trainable_parameters",
    "reason",
    "command",
)
"""Columns of `recommend` in CSV and TSV: a row per goal."""

_WIDTH = 88
"""Of the reasons, so that the table stays within a usual terminal's 120 columns."""


def fit_page(result: FitReport, unit: str = "GiB", *, more_methods: int = 0) -> Page:
    """A fit: per card a table of what fits and how far it goes, and one of what would make the rest fit."""
    report = result.report
    sheets: list[Sheet] = []
    for card in result.cards:
        shown = [method for method in card.methods if method.status != "skipped"]
        if shown:
            sheets.append(_limits_sheet(card, shown, unit))
        misfits = [method for method in shown if method.fits is False]
        if misfits:
            sheets.append(_fixes_sheet(card, misfits, unit))
    methods = result.cards[0].methods if result.cards else ()
    notes = []
    if sheets:
        notes.append(
            f"{unit}. Batch, tokens and rank: the largest that fits, all else as in the line above"
            + ("; * where the model ends it." if _ended_by(result, "model") else ".")
        )
        if _ended_by(result, "search"):
            notes.append("+ where the search ends, not the card.")
    notes += [
        f"Lower bound for {method.method}: {'; '.join(method.not_counted)}." for method in methods if method.not_counted
    ]
    if more_methods:
        notes.append(f"{more_methods} more methods: --all shows them, -m NAME one of them.")
    notes += [f"Skipped {method.method}: {method.reason}" for method in methods if method.status == "skipped"]
    return Page(
        data=result.to_dict(),
        records=[_fit_record(report, card, method) for card in result.cards for method in card.methods],
        head=_head(report, unit),
        sheets=tuple(sheets),
        notes=tuple(notes),
        fields=FIT_FIELDS,
    )


def _ended_by(result: FitReport, bound: str) -> bool:
    limits = (limit for card in result.cards for method in card.methods for limit in method.limits)
    return any(limit.bound == bound for limit in limits)


def _head(report: Report, unit: str) -> tuple[str, ...]:
    return (
        title_line(report.repo_id, report.commit_sha, report.source),
        model_line(report.model_type, report.architecture, report.parameters, unit),
        settings_line(report.settings),
    )


def _card_title(card: CardFit, unit: str) -> str:
    name = card.name if card.count == 1 else f"each of {card.count} x {card.name}"
    return f"{name}, {size(card.usable_bytes, unit)} {unit}"


def _limits_sheet(card: CardFit, methods: list[MethodFit], unit: str) -> Sheet:
    columns = (
        Column("Method"),
        Column("Fits"),
        Column("Total", "right"),
        Column("Left", "right"),
        Column("Batch", "right"),
        Column("Tokens", "right"),
        Column("Rank", "right"),
        Column("At the largest batch binds"),
    )
    rows = [
        (
            method.method,
            "yes" if method.fits else "no",
            size(method.total_bytes, unit),
            _signed(method.headroom_bytes, unit),
            _limit_cell(method.limit("batch_size")),
            _limit_cell(method.limit("seq_len")),
            _limit_cell(method.limit("r")),
            _binds(method),
        )
        for method in methods
    ]
    return Sheet(columns, rows, title=_card_title(card, unit))


def _fixes_sheet(card: CardFit, methods: list[MethodFit], unit: str) -> Sheet:
    columns = (
        Column("Method"),
        Column("Lacks", "right"),
        Column("Cheapest change that makes it fit"),
        Column("Total then", "right"),
        Column("What it costs"),
    )
    rows = []
    for method in methods:
        lacks = size(-(method.headroom_bytes or 0), unit)
        fix, nearest = method.fix, method.nearest
        if fix is not None:
            rows.append((method.method, lacks, fix.label, size(fix.total_bytes, unit), fix.cost))
        elif nearest is not None:
            label = f"none; nearest: {nearest.label}"
            rows.append((method.method, lacks, label, size(nearest.total_bytes, unit), nearest.cost))
        else:
            rows.append((method.method, lacks, "none", "-", ""))
    return Sheet(columns, rows, title=f"What does not fit on {card.name}")


def _limit_cell(limit: Limit | None) -> str:
    if limit is None:
        return ""
    if limit.value is None:
        return "-"
    return number(limit.value) + {"memory": "", "model": "*", "search": "+"}[limit.bound or "memory"]


def _binds(method: MethodFit) -> str:
    """The part that one more sample enlarges most, and where in the step."""
    limit = method.limit("batch_size")
    if limit is None or limit.value is None:
        return ""
    if limit.grows is None:
        return "nothing"
    return f"{limit.grows}, in {limit.phase}"


def _signed(count: int | None, unit: str) -> str:
    if count is None:
        return "-"
    return f"+{size(count, unit)}" if count >= 0 else f"-{size(-count, unit)}"


def _fit_record(report: Report, card: CardFit, method: MethodFit) -> dict[str, Any]:
    limits = {limit.setting: limit for limit in method.limits}
    fix = method.fix
    return {
        "repo_id": report.repo_id,
        "commit_sha": report.commit_sha,
        "gpu": card.name,
        "gpus": card.count,
        "usable_bytes": card.usable_bytes,
        "method": method.method,
        "status": method.status,
        "reason": method.reason,
        "trainable_parameters": method.trainable_parameters,
        "fits": method.fits,
        "total_bytes": method.total_bytes,
        "headroom_bytes": method.headroom_bytes,
        **{f"max_{name}": limits[name].value if name in limits else None for name in ("batch_size", "seq_len", "r")},
        "binds": limits["batch_size"].grows if "batch_size" in limits else None,
        "fix": fix.label if fix else None,
        "fix_total_bytes": fix.total_bytes if fix else None,
    }


def recommend_page(advice: Advice, unit: str = "GiB") -> Page:
    """A set of recommendations: one table, and below it a line of reason and the settings for each."""
    report = advice.report
    columns = (
        Column("Goal"),
        Column("Method"),
        Column("Batch x tokens", "right"),
        Column("Cards"),
        Column("Strategy"),
        Column("Total", "right"),
        Column("Left", "right"),
        Column("Trainable", "right"),
    )
    rows = [
        (
            item.title,
            (item.setup or "-") + "*" * bool(item.not_counted) if item.reachable else "none",
            f"{item.batch_size} x {item.seq_len}" if item.reachable else "",
            _cards(item) if item.reachable else "",
            (item.strategy or "") if item.reachable else "",
            size(item.total_bytes, unit) if item.reachable else "-",
            _signed(item.headroom_bytes, unit) if item.reachable else "-",
            number(item.trainable_parameters) if item.reachable else "-",
        )
        for item in advice.recommendations
    ]
    reasons = Sheet(
        (Column("Goal"), Column("Why")),
        [
            (row_title, text)
            for item in advice.recommendations
            for row_title, text in zip_longest((item.title,), _reasons(item, unit), fillvalue="")
        ],
    )
    most = f"at most {advice.max_gpus} of a kind" if advice.max_gpus > 1 else "one card only"
    notes = [
        f"{unit} per card; {KEPT_FREE:.0%} of each card is left free; {most}.",
        *wrap(f"Considered: {', '.join(advice.cards)}.", _WIDTH + 30),
    ]
    bounds = dict.fromkeys(missing for item in advice.recommendations for missing in item.not_counted)
    if bounds:
        notes.append(f"* a lower bound, not counted: {'; '.join(bounds)}.")
    return Page(
        data=advice.to_dict(),
        records=[_recommend_record(report, item) for item in advice.recommendations],
        head=_head(report, unit),
        sheets=(Sheet(columns, rows), reasons),
        notes=tuple(notes),
        fields=RECOMMEND_FIELDS,
    )


def _cards(item: Recommendation) -> str:
    return item.gpu or "" if item.num_gpus in (None, 1) else f"{item.num_gpus} x {item.gpu}"


def _reasons(item: Recommendation, unit: str) -> list[str]:
    """The reason, the rungs passed over, what comes nearest, and the command that shows the figures."""
    lines = [item.reason]
    if not item.reachable and item.setup is not None:
        lines.append(
            f"Nearest: {item.setup} on {_cards(item)}, {size(item.total_bytes, unit)} {unit} where there are "
            f"{size(item.usable_bytes, unit)}."
        )
    grouped: dict[str, list[str]] = {}
    for rung in item.passed_over:
        grouped.setdefault(rung.reason.rstrip("."), []).append(rung.title)
    lines += [f"Not {'; not '.join(titles)}: {reason}." for reason, titles in grouped.items()]
    lines = [part for line in lines for part in wrap(line, _WIDTH)]
    if item.command is not None:
        lines.append(item.command)
    return lines


def _recommend_record(report: Report, item: Recommendation) -> dict[str, Any]:
    return {
        "repo_id": report.repo_id,
        "commit_sha": report.commit_sha,
        "goal": item.goal,
        "reachable": item.reachable,
        "setup": item.setup,
        "method": item.method,
        "settings": None if item.settings is None else " ".join(_words(item.settings)),
        "batch_size": item.batch_size,
        "seq_len": item.seq_len,
        "gpu": item.gpu,
        "num_gpus": item.num_gpus,
        "strategy": item.strategy,
        "usable_bytes": item.usable_bytes,
        "total_bytes": item.total_bytes,
        "headroom_bytes": item.headroom_bytes,
        "trainable_parameters": item.trainable_parameters,
        "reason": item.reason,
        "command": item.command,
    }


def _words(settings: Mapping[str, Any]) -> list[str]:
    """``dtype=bfloat16 r=64``: nested keys on their own."""
    words = []
    for key, value in settings.items():
        inner = value if isinstance(value, Mapping) else {key: value}
        words += [f"{name}={item}" for name, item in inner.items()]
    return words
