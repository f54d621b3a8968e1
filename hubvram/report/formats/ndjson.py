"""``ndjson``: one object a line, each as soon as it is there. A list of rows is a line per row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hubvram.report.formats.jsontext import dumps
from hubvram.report.page import Page


def render(pages: Iterable[Page], many: bool) -> Iterator[str]:
    """See :func:`hubvram.report.formats.render`."""
    for page in pages:
        for row in page.data if isinstance(page.data, list) else [page.data]:
            yield dumps(row) + "\n"
