"""The page of a `Report`: the main table, its header lines and notes, and `--explain`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubvram.errors import HubvramError
from hubvram.gpus import smallest
from hubvram.report.band import HIGH, LOW
from hubvram.report.page import Column, Page, Sheet
from hubvram.report.record import Estimate, ParameterCounts, Report
from hubvram.report.text import number, size

_PARTS = ("weights", "gradients", "optimizer", "activations", "temporary")
_SETTING_FIELDS = (
    "batch_size",
    "seq_len",
    "dtype",
    "mixed_precision",
    "optim",
    "gradient_checkpointing",
    "attn_implementation",
)
FIELDS = (
    "repo_id",
    "commit_sha",
    "model_type",
    "parameters",
    *_SETTING_FIELDS,
    "method",
    "status",
    "reason",
    "trainable_parameters",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "total_bytes",
    "peak_phase",
    *(f"{part}_bytes" for part in _PARTS),
    "loaded_bytes",
    "steady_bytes",
    "smallest_gpu",
    "rule_of_thumb_bytes",
    "error_code",
    "error_message",
)
"""Columns of CSV and TSV."""


@dataclass(frozen=True, slots=True)
class View:
    """How the reader wants a report."""

    unit: str = "GiB"
    explain: bool = False
    rule_of_thumb: bool = False
    per_gpu: bool = False
    """Cards were asked for by name: a column for each instead of the smallest that fits."""
    more_methods: int = 0
    """How many methods were left out for brevity; a line says so."""


def rule_of_thumb(parameters: int) -> int:
    """The seed guide's figure in bytes: parameters in billions x 2 x 2, GB. Settings play no part in it."""
    return parameters * 2 * 2


def report_page(report: Report, view: View) -> Page:
    """A report as data, as records and as the main table."""
    data = report.to_dict(explain=view.explain)
    thumb = rule_of_thumb(report.parameters.logical_total) if view.rule_of_thumb else None
    if thumb is not None:
        data["rule_of_thumb_bytes"] = thumb
    shown = [estimate for estimate in report.estimates if estimate.status != "skipped"]
    sheets = [_main_sheet(shown, view, thumb)] if shown else []
    if view.explain:
        for estimate in shown:
            sheets += _explain_sheets(estimate, view.unit)
    return Page(
        data=data,
        records=[_record(report, estimate, thumb) for estimate in report.estimates],
        head=_head(report, view.unit),
        sheets=tuple(sheets),
        notes=_notes(report, view),
        fields=FIELDS,
    )


def error_page(repo_id: str | None, error: HubvramError) -> Page:
    """What stands in the place of a result that could not be had. For people it is on stderr only."""
    record = {"repo_id": repo_id, "status": "error", "error_code": error.code, "error_message": error.message}
    return Page(data={"repo_id": repo_id, "error": error.to_dict()}, records=[record], fields=FIELDS)


def dtypes_line(parameters: ParameterCounts) -> str:
    """``all BF16``, or each dtype with its share."""
    counts = parameters.by_dtype
    if len(counts) == 1:
        return f"all {next(iter(counts))}"
    return ", ".join(f"{dtype} {number(count)}" for dtype, count in counts.items())


def title_line(repo_id: str, commit_sha: str | None, source: str) -> str:
    """``org/name @ 0123456789ab (from the Hub)``."""
    where = {"hub": "from the Hub", "cache": "from the cache", "local": "local folder"}.get(source, source)
    return f"{repo_id} @ {commit_sha[:12]} ({where})" if commit_sha else f"{repo_id} ({where})"


def model_line(model_type: str | None, architecture: str | None, parameters: ParameterCounts, unit: str) -> str:
    """Type, exact parameters, dtypes and stored size."""
    if model_type and architecture:
        kind = f"{model_type} ({architecture})"
    else:
        kind = architecture or model_type or "no config.json"
    stored = f"{size(parameters.stored_bytes, unit)} {unit} stored"
    return f"{kind}: {number(parameters.total)} parameters, {dtypes_line(parameters)}, {stored}"


def settings_line(settings: Mapping[str, Any]) -> str:
    """The settings that move the figures most, in one line; those at rest are left out."""
    words = [f"batch {settings.get('batch_size')} x {settings.get('seq_len')} tokens"]
    if settings.get("source_len") not in (None, settings.get("seq_len")):
        words.append(f"{settings['source_len']} source tokens")
    words.append(str(settings.get("dtype")))
    if settings.get("mixed_precision") not in (None, "no"):
        words.append(f"mixed precision {settings['mixed_precision']}")
    words.append(str(settings.get("optim")))
    words.append(f"checkpointing {'on' if settings.get('gradient_checkpointing') else 'off'}")
    words.append(str(settings.get("attn_implementation")))
    if settings.get("padding"):
        words.append("padding")
    if (settings.get("gradient_accumulation_steps") or 1) > 1:
        words.append(f"accumulation {settings['gradient_accumulation_steps']}")
    if settings.get("max_grad_norm") == 0:
        words.append("no clipping")
    if settings.get("use_liger_kernel"):
        words.append("liger")
    if (settings.get("num_gpus") or 1) > 1:
        words.append(f"{settings['num_gpus']} GPUs {settings.get('strategy')}")
    if settings.get("offload") not in (None, "none"):
        words.append(f"{settings['offload']} offloaded")
    for key in ("peft", "quantization"):
        words += [f"{name}={_short(value)}" for name, value in (settings.get(key) or {}).items()]
    return ", ".join(words)


def _short(value: Any) -> str:
    return "+".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def _head(report: Report, unit: str) -> tuple[str, ...]:
    lines = [
        title_line(report.repo_id, report.commit_sha, report.source),
        model_line(report.model_type, report.architecture, report.parameters, unit),
    ]
    if report.parameters.logical_total != report.parameters.total:
        note = f" ({report.parameters.logical_note})" if report.parameters.logical_note else ""
        lines.append(f"{number(report.parameters.logical_total)} parameters as the config means them{note}")
    lines.append(settings_line(report.settings))
    stack = report.settings.get("stack") or {}
    if stack:
        lines.append("as of " + ", ".join(f"{library} {version}" for library, version in stack.items()))
    return tuple(lines)


def _card(estimate: Estimate) -> str:
    gpu = smallest(estimate.gpus)
    if gpu is None:
        return "none" if estimate.gpus else "-"
    return gpu.name if gpu.count == 1 else f"{gpu.count} x {gpu.name}"


def _main_sheet(estimates: list[Estimate], view: View, thumb: int | None) -> Sheet:
    unit = view.unit
    columns = [Column("Method"), Column("Trainable", "right")]
    columns += [Column(part.capitalize(), "right") for part in _PARTS]
    columns += [Column("Peak", "right"), Column("Total", "right")]
    if thumb is not None:
        columns.append(Column("Rule of thumb", "right"))
    named = estimates[0].gpus if view.per_gpu else ()
    columns += [Column(gpu.name) for gpu in named] or [Column("Smallest card")]
    rows = []
    for estimate in estimates:
        parts = estimate.breakdown.to_dict() if estimate.breakdown else {}
        row = [estimate.method + ("*" if estimate.status == "partial" else ""), number(estimate.trainable_parameters)]
        row += [size(parts.get(f"{part}_bytes"), unit) for part in _PARTS]
        row += [size(estimate.peak_allocated_bytes, unit), size(estimate.total_bytes, unit)]
        if thumb is not None:
            row.append(size(thumb, unit))
        if named:
            row += [_fit(gpu.fits, gpu.headroom_bytes, unit) for gpu in estimate.gpus]
        else:
            row.append(_card(estimate))
        rows.append(row)
    return Sheet(tuple(columns), rows)


def _fit(fits: bool, headroom: int, unit: str) -> str:
    return f"fits, +{size(headroom, unit)}" if fits else f"no, -{size(-headroom, unit)}"


def _notes(report: Report, view: View) -> tuple[str, ...]:
    notes = []
    if any(estimate.status != "skipped" for estimate in report.estimates):
        notes.append(
            f"{view.unit} per GPU. The five parts sum to the peak (torch.cuda.max_memory_allocated); total is what"
        )
        notes.append(
            f"nvidia-smi shows. Of measured runs, 90 % lie between {LOW - 1:+.0%} and {HIGH - 1:+.0%} of the total."
        )
    if view.per_gpu:
        notes.append("Below each card: what it has left, or lacks.")
    if view.rule_of_thumb:
        notes.append("Rule of thumb: parameters in billions x 2 x 2 GB, whatever the method and settings.")
    notes += _remarks(report)
    if view.more_methods:
        notes.append(f"{view.more_methods} more methods: --all shows them, -m NAME one of them.")
    skipped = [estimate for estimate in report.estimates if estimate.status == "skipped"]
    notes += [f"Skipped {estimate.method}: {estimate.reason}" for estimate in skipped]
    return tuple(notes)


def _remarks(report: Report) -> list[str]:
    """What was assumed and what is not counted, once for all methods it is true of."""
    assumed: dict[str, list[str]] = {}
    for estimate in report.estimates:
        if estimate.status == "skipped":
            continue
        text = (estimate.reason or ("lower bound" if estimate.status == "partial" else "")).rstrip(".")
        if estimate.not_counted:
            text = f"{text}. Not counted: {'; '.join(estimate.not_counted)}".removeprefix(". ")
        if text:
            mark = "* " if estimate.status == "partial" else ""
            assumed.setdefault(f"{mark}{{}}: {text}.", []).append(estimate.method)
    done = sum(estimate.status != "skipped" for estimate in report.estimates)
    notes = []
    for text, methods in assumed.items():
        every = len(methods) == done and done > 1
        notes.append(text.replace("{}", "all methods" if every else ", ".join(methods), 1))
    return notes


def _explain_sheets(estimate: Estimate, unit: str) -> list[Sheet]:
    marks = Sheet(
        (Column("Phase"), Column("High-water mark"), Column(f"Allocated {unit}", "right")),
        [
            (
                mark.phase,
                mark.name + (" <- peak" if mark.bytes == estimate.peak_allocated_bytes else ""),
                size(mark.bytes, unit),
            )
            for mark in estimate.marks
        ],
        title=f"{estimate.method}: timeline",
    )
    peak = size(estimate.peak_allocated_bytes, unit)
    alive = Sheet(
        (
            Column("Part"),
            Column("Tensors"),
            Column("Count", "right"),
            Column("Shape"),
            Column("Dtype"),
            Column(unit, "right"),
            Column("Made by"),
            Column("Alive because"),
        ),
        [
            (
                group.category,
                group.name,
                number(group.count),
                " x ".join(str(side) for side in group.shape) or "scalar",
                group.dtype,
                size(group.bytes, unit),
                group.op,
                group.why,
            )
            for group in sorted(estimate.alive, key=lambda group: (_PARTS.index(group.category), -group.bytes))
        ],
        title=f"{estimate.method}: alive at the peak, {peak} {unit} in {estimate.peak_phase}",
    )
    return [sheet for sheet in (marks, alive) if sheet.rows]


def _record(report: Report, estimate: Estimate, thumb: int | None) -> dict[str, Any]:
    parts: dict[str, int | None] = dict.fromkeys(f"{part}_bytes" for part in _PARTS)
    if estimate.breakdown:
        parts.update(estimate.breakdown.to_dict())
    gpu = smallest(estimate.gpus)
    return {
        "repo_id": report.repo_id,
        "commit_sha": report.commit_sha,
        "model_type": report.model_type,
        "parameters": report.parameters.total,
        **{key: report.settings.get(key) for key in _SETTING_FIELDS},
        "method": estimate.method,
        "status": estimate.status,
        "reason": estimate.reason,
        "trainable_parameters": estimate.trainable_parameters,
        "peak_allocated_bytes": estimate.peak_allocated_bytes,
        "peak_reserved_bytes": estimate.peak_reserved_bytes,
        "total_bytes": estimate.total_bytes,
        "peak_phase": estimate.peak_phase,
        **parts,
        "loaded_bytes": estimate.loaded_bytes,
        "steady_bytes": estimate.steady_bytes,
        "smallest_gpu": gpu.name if gpu else None,
        "rule_of_thumb_bytes": thumb,
    }
