"""Records to rows and back. Pure: nothing here touches the database."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hubvram.report.record import AliveGroup, Breakdown, Estimate, GpuFit, Mark, ParameterCounts
from hubvram.snapshot.dtypes import size_in_bytes
from hubvram.snapshot.records import FileInfo, Snapshot, TensorInfo
from hubvram.store.schema import SETTING_COLUMNS, SETTING_JSON_COLUMNS

if TYPE_CHECKING:
    # The estimator is not needed to print a report from the cache.
    from hubvram.estimator import Description

Row = dict[str, Any]

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A whole part of a dotted name that is a number: the 3 of ``layers.3.mlp``, not that of ``conv3``."""


def to_json(value: Any) -> str:
    """Compact JSON text; ASCII, so that any string of a config survives every database."""
    return json.dumps(value, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    return str(value)


def _utf8(text: str) -> str:
    """Text that any database takes: lone surrogates become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def model_row(snapshot: Snapshot, description: Description) -> Row:
    """The columns of ``_models`` that come from the records."""
    counts = description.parameters
    meta = snapshot.metadata
    gated = meta.get("gated")
    author, slash, _ = snapshot.repo_id.partition("/")
    return {
        "author": author if slash else None,
        "model_type": description.model_type,
        "architecture": description.architecture,
        "family": description.family,
        "parameters": counts.total,
        "stored_bytes": counts.stored_bytes,
        "logical_parameters": counts.logical_total,
        "logical_note": counts.logical_note,
        "dtype": max(counts.by_dtype, key=lambda d: counts.by_dtype[d], default=None),
        "tensor_count": len(snapshot.tensors),
        "max_seq_len": description.max_seq_len,
        "gated": None if gated is None else ("no" if gated is False else str(gated)),
        "library_name": _text_or_none(meta.get("library_name")),
        "pipeline_tag": _text_or_none(meta.get("pipeline_tag")),
        "config": to_json(snapshot.config),
        "metadata": to_json(meta),
        "warnings": to_json(snapshot.warnings),
        "description_warnings": to_json(description.warnings),
    }


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def parameter_rows(counts: ParameterCounts) -> list[Row]:
    """Rows of ``_parameters``."""
    return [{"dtype": d, "count": n, "bytes": size_in_bytes(d, n)} for d, n in counts.by_dtype.items()]


def tensor_rows(tensors: Iterable[TensorInfo]) -> list[Row]:
    """Rows of ``_tensors``: tensors alike in all but the numbers in their names, as one row."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[int]] = {}
    patterns: dict[str, str] = {}
    for tensor in tensors:
        pattern = patterns.get(tensor.name)
        if pattern is None:
            pattern = patterns[tensor.name] = _NUMBER.sub("*", tensor.name)
        numel = tensor.numel
        group = groups.setdefault((pattern, tensor.dtype, tensor.shape), [0, numel])
        group[0] += 1
    rows: list[Row] = []
    for position, ((name, dtype, shape), (count, numel)) in enumerate(groups.items()):
        each = size_in_bytes(dtype, numel)
        rows.append(
            {
                "position": position,
                "name": _utf8(name),
                "dtype": dtype,
                "shape": to_json(shape),
                "count": count,
                "parameters": count * numel,
                "bytes": None if each is None else count * each,
            }
        )
    return rows


def file_rows(files: Iterable[FileInfo]) -> list[Row]:
    """Rows of ``_files``."""
    return [
        {
            "position": position,
            "path": f.path,
            "size": f.size,
            "role": f.role,
            "reason": f.reason,
            "header_bytes": f.header_bytes,
            "content_hash": f.content_hash,
        }
        for position, f in enumerate(files)
    ]


def run_row(settings_key: str, applied: Mapping[str, Any], warnings: Sequence[str]) -> Row:
    """The columns of ``_runs`` that come from settings; ``settings_key`` is `Settings.key()`."""
    row: Row = {name: applied.get(name) for name in SETTING_COLUMNS}
    row |= {name: to_json(applied.get(name) or {}) for name in SETTING_JSON_COLUMNS}
    row["asked_settings"] = settings_key
    row["applied_settings"] = to_json(applied)
    row["warnings"] = to_json(list(warnings))
    return row


_FIGURES = (
    "trainable_parameters",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "total_bytes",
    "peak_phase",
    "loaded_bytes",
    "steady_bytes",
)
_PARTS = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "temporary_bytes")


def estimate_row(estimate: Estimate, position: int) -> Row:
    """The columns of ``_estimates``."""
    parts = estimate.breakdown
    row: Row = {name: getattr(estimate, name) for name in ("method", "status", "reason", *_FIGURES)}
    row |= {name: None if parts is None else getattr(parts, name) for name in _PARTS}
    row["position"] = position
    row["not_counted"] = to_json(estimate.not_counted)
    row["gpus"] = to_json([g.to_dict() for g in estimate.gpus])
    return row


def estimate_from(row: Mapping[Any, Any], explanation: bytes | None = None) -> Estimate:
    """An estimate from its row, with marks and tensors where their blob is given."""
    parts = None
    if row["weights_bytes"] is not None:
        parts = Breakdown(*(row[name] for name in _PARTS))
    marks, alive = unpack_explanation(explanation) if explanation is not None else ((), ())
    return Estimate(
        method=row["method"],
        status=row["status"],
        reason=row["reason"],
        not_counted=tuple(json.loads(row["not_counted"])),
        breakdown=parts,
        gpus=tuple(GpuFit(**g) for g in json.loads(row["gpus"])),
        marks=marks,
        alive=alive,
        **{name: row[name] for name in _FIGURES},
    )


def pack_explanation(estimate: Estimate) -> bytes | None:
    """Marks and tensors of an estimate as one compressed blob; None where it has none."""
    if not estimate.marks and not estimate.alive:
        return None
    data = {"marks": [m.to_dict() for m in estimate.marks], "alive": [a.to_dict() for a in estimate.alive]}
    return zlib.compress(to_json(data).encode("ascii"), 6)


def unpack_explanation(data: bytes) -> tuple[tuple[Mark, ...], tuple[AliveGroup, ...]]:
    """The reverse of `pack_explanation`."""
    found = json.loads(zlib.decompress(data))
    marks = tuple(Mark(**m) for m in found["marks"])
    alive = tuple(AliveGroup(**{**a, "shape": tuple(a["shape"])}) for a in found["alive"])
    return marks, alive


def counts_from(model: Mapping[Any, Any], by_dtype: Iterable[tuple[str, int]]) -> ParameterCounts:
    """The exact counts from a model's row and its rows of ``_parameters``."""
    return ParameterCounts(
        total=model["parameters"],
        by_dtype=dict(sorted(by_dtype, key=lambda pair: (-pair[1], pair[0]))),
        stored_bytes=model["stored_bytes"],
        logical_total=model["logical_parameters"],
        logical_note=model["logical_note"],
    )


def file_from(row: Mapping[Any, Any]) -> FileInfo:
    """A file from its row."""
    return FileInfo(
        path=row["path"],
        size=row["size"],
        role=row["role"],
        reason=row["reason"],
        header_bytes=row["header_bytes"],
        content_hash=row["content_hash"],
    )
