"""``csv``: flat rows with one header line; bytes as integers, lists joined by spaces."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from hubvram.report.page import Page
from hubvram.report.text import clean


def render(pages: Iterable[Page], many: bool) -> Iterator[str]:
    """See :func:`hubvram.report.formats.render`."""
    return delimited(pages, ",")


def delimited(pages: Iterable[Page], delimiter: str) -> Iterator[str]:
    """Rows under one header; columns that a later page brings are not dropped silently but refused.

    Raises:
        ValueError: if a later page has a column that the header lacks.
    """
    columns: list[str] | None = None
    for page in pages:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
        if columns is None and (page.fields or page.records):
            columns = list(page.fields or page.records[0])
            writer.writerow([_cell(column) for column in columns])
        for record in page.records:
            unknown = [key for key in record if key not in (columns or ())]
            if unknown:
                raise ValueError(f"columns {unknown} are not in the header {columns}")
            writer.writerow([_cell(record.get(column)) for column in columns or ()])
        yield buffer.getvalue()


def _cell(value: Any) -> str:
    """Empty for unknown, 0/1 words for truth values, text made safe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return " ".join(_cell(item) for item in value)
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return clean(str(value), layout=True)
