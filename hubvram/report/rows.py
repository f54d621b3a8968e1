"""The page of plain rows (SQL results, catalogues, cache facts) and that of an inspection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hubvram.report.estimates import model_line, title_line
from hubvram.report.inspection import Inspection
from hubvram.report.page import Column, Page, Sheet
from hubvram.report.text import number, plural, size


def rows_page(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, hide: Sequence[str] = ()) -> Page:
    """Rows under named columns; ``hide`` leaves columns out of the tables for people, not out of the data.

    A column name that occurs twice (as in a careless join) gets a number, since
    JSON objects can hold it once only. NaN and infinities become null.
    """
    names = _unique(columns)
    records = [dict(zip(names, (_finite(value) for value in row), strict=True)) for row in rows]
    shown = [index for index, name in enumerate(names) if name not in hide]
    cells = [[_cell(row[index]) for index in shown] for row in rows]
    sheet_columns = tuple(
        Column(names[index], "right" if _numeric([row[index] for row in rows]) else "left") for index in shown
    )
    return Page(data=records, records=records, sheets=(Sheet(sheet_columns, cells),), fields=tuple(names))


def dicts_page(rows: Sequence[Mapping[str, Any]], *, hide: Sequence[str] = ()) -> Page:
    """The same from mappings with one set of keys."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return rows_page(columns, [[row.get(key) for key in columns] for row in rows], hide=hide)


def facts_page(facts: Mapping[str, Any]) -> Page:
    """One object with named facts: a line each for people."""
    sheet = Sheet((Column("Fact"), Column("Value")), [(name, _cell(value)) for name, value in facts.items()])
    return Page(data=dict(facts), records=[facts], sheets=(sheet,), fields=tuple(facts))


INSPECT_FIELDS = (
    "repo_id",
    "commit_sha",
    "model_type",
    "architecture",
    "family",
    "parameters",
    "dtype",
    "count",
    "stored_bytes",
    "error_code",
    "error_message",
)
"""Columns of `inspect` in CSV and TSV: a row per dtype."""


def inspection_page(inspection: Inspection, *, unit: str = "GiB", tensors: bool = False) -> Page:
    """An inspection: parameters by dtype, the files read and ignored, and (on demand) the tensors."""
    parameters = inspection.parameters
    head = [
        title_line(inspection.repo_id, inspection.commit_sha, inspection.source),
        model_line(inspection.model_type, inspection.architecture, parameters, unit),
    ]
    if parameters.logical_total != parameters.total or parameters.logical_note:
        note = f" ({parameters.logical_note})" if parameters.logical_note else ""
        head.append(f"{number(parameters.logical_total)} parameters as the config means them{note}")
    family = inspection.family or "not known, estimates are partial"
    limit = f", at most {number(inspection.max_seq_len)} tokens" if inspection.max_seq_len else ""
    head.append(f"architecture family: {family}{limit}; {plural(inspection.tensor_count, 'tensor')}")
    dtypes = Sheet(
        (Column("Dtype"), Column("Parameters", "right"), Column("Share", "right")),
        [
            (dtype, number(count), f"{count / parameters.total:.1%}" if parameters.total else "-")
            for dtype, count in parameters.by_dtype.items()
        ],
    )
    files = Sheet(
        (Column("File"), Column(unit, "right"), Column("Role"), Column("Header bytes", "right"), Column("Why")),
        [
            (
                file.path,
                size(file.size, unit),
                file.role,
                "" if file.header_bytes is None else number(file.header_bytes),
                file.reason or "",
            )
            for file in inspection.files
        ],
    )
    groups = Sheet(
        (Column("Tensors"), Column("Count", "right"), Column("Shape"), Column("Dtype"), Column("Parameters", "right")),
        [
            (
                group.name,
                number(group.count),
                " x ".join(str(side) for side in group.shape) or "scalar",
                group.dtype,
                number(group.parameters),
            )
            for group in inspection.groups
        ],
    )
    listed = inspection.metadata.get("components")
    components = Sheet(
        (Column("Component"), Column("Class"), Column("Parameters", "right"), Column("Dtypes")),
        [
            (c["name"], c["class"] or "", number(c["parameters"]), ", ".join(c["by_dtype"]))
            for c in (listed if isinstance(listed, list) else [])
        ],
    )
    sheets = [dtypes, components, files, *([groups] if tensors else [])]
    base = {
        "repo_id": inspection.repo_id,
        "commit_sha": inspection.commit_sha,
        "model_type": inspection.model_type,
        "architecture": inspection.architecture,
        "family": inspection.family,
        "parameters": parameters.total,
        "stored_bytes": parameters.stored_bytes,
    }
    return Page(
        data=inspection.to_dict(),
        records=[{**base, "dtype": dtype, "count": count} for dtype, count in parameters.by_dtype.items()],
        head=tuple(head),
        sheets=tuple(sheet for sheet in sheets if sheet.rows),
        fields=INSPECT_FIELDS,
    )


def _unique(columns: Sequence[str]) -> list[str]:
    names: list[str] = []
    for column in columns:
        name, copy = column, 2
        while name in names:
            name, copy = f"{column}_{copy}", copy + 1
        names.append(name)
    return names


def _numeric(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        return f"{value:,.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_cell(item)}" for key, item in value.items())
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return str(value)
