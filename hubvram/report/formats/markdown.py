"""``markdown``: pipe tables, for an issue, a README or a model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hubvram.report.formats.table import grid
from hubvram.report.page import Page, Sheet
from hubvram.report.text import clean

_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#])")


def render(pages: Iterable[Page], many: bool) -> Iterator[str]:
    """See :func:`hubvram.report.formats.render`."""
    first = True
    for page in pages:
        parts = ["  \n".join(escape(line) for line in page.head)] if page.head else []
        parts += [_sheet(sheet) for sheet in page.sheets]
        parts += ["- " + "\n- ".join(escape(line) for line in page.notes)] if page.notes else []
        if not parts:
            continue
        yield ("" if first else "\n") + "\n\n".join(parts) + "\n"
        first = False


def escape(text: str) -> str:
    """Text with Markdown's and HTML's own characters escaped: a repo id must not become a link or a tag."""
    return _MARKUP.sub(r"\\\1", clean(text))


def _sheet(sheet: Sheet) -> str:
    title = f"**{escape(sheet.title)}**\n\n" if sheet.title else ""
    columns = sheet.columns
    rows = [[escape(cell) for cell in row] for row in sheet.rows]
    return title + grid(Sheet(columns, rows), "pipe")
