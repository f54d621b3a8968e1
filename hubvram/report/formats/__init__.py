"""Output formats: a registry of modules, one format each.

A format is a module with ``render(pages, many) -> Iterator[str]``: pieces of
text, in order, each given out as soon as its page is there. ``many`` says
that there may be several pages (JSON then prints an array). To add one, write
the module and name it here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator

from hubvram.report.page import Page

MODULES = {
    "table": "hubvram.report.formats.table",
    "json": "hubvram.report.formats.jsontext",
    "ndjson": "hubvram.report.formats.ndjson",
    "csv": "hubvram.report.formats.csvtext",
    "tsv": "hubvram.report.formats.tsv",
    "markdown": "hubvram.report.formats.markdown",
}
"""Name as ``--format`` takes it -> module. Imported when used."""

NAMES = tuple(MODULES)
DATA_FORMATS = ("json", "ndjson")
"""Formats in which an error becomes an object on stdout, in the place of the result."""


def render(name: str, pages: Iterable[Page], *, many: bool = False) -> Iterator[str]:
    """Text of ``pages`` in the format ``name``.

    Raises:
        KeyError: on a name that is not in :data:`MODULES`.
    """
    module = importlib.import_module(MODULES[name])
    text: Iterator[str] = module.render(pages, many)
    return text
