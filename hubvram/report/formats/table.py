"""``table``: for a terminal. Plain text, at most a rule under the header; the default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hubvram.report.page import Page, Sheet
from hubvram.report.text import clean


def render(pages: Iterable[Page], many: bool) -> Iterator[str]:
    """See :func:`hubvram.report.formats.render`."""
    first = True
    for page in pages:
        parts = ["\n".join(clean(line) for line in page.head)] if page.head else []
        parts += [grid(sheet, "simple") for sheet in page.sheets]
        if page.notes:
            parts.append("\n".join(clean(line) for line in page.notes))
        if not parts:
            continue
        yield ("" if first else "\n") + "\n\n".join(parts) + "\n"
        first = False


def grid(sheet: Sheet, style: str) -> str:
    """A sheet through tabulate, whose parsing of numbers is switched off: cells are text already."""
    import tabulate

    rows = [[clean(cell) for cell in row] for row in sheet.rows]
    padding = tabulate.MIN_PADDING
    # Two columns more for each title: with ten of them the table would not fit on a line.
    tabulate.MIN_PADDING = 0
    try:
        text = tabulate.tabulate(
            rows,
            headers=[clean(column.title) for column in sheet.columns],
            tablefmt=style,
            disable_numparse=True,
            colalign=[column.align for column in sheet.columns] if rows else None,
        )
    finally:
        tabulate.MIN_PADDING = padding
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"{clean(sheet.title)}\n{lines}" if sheet.title else lines
