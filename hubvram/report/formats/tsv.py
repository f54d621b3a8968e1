"""``tsv``: as CSV, with tabs; for spreadsheets and `cut`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hubvram.report.formats.csvtext import delimited
from hubvram.report.page import Page


def render(pages: Iterable[Page], many: bool) -> Iterator[str]:
    """See :func:`hubvram.report.formats.render`."""
    return delimited(pages, "\t")
