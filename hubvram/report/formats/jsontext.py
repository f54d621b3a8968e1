"""``json``: one object, or an array where several results may come; indented."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from hubvram.report.page import Page

_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def dumps(data: Any, indent: int | None = None) -> str:
    r"""JSON text that is safe to print: no NaN, and every control character escaped.

    ``json`` escapes C0 itself; the others of :func:`hubvram.report.text.clean`
    can stand only inside strings, where ``\uXXXX`` mean the same character.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators, default=_plain)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _plain(value: object) -> str:
    """Values that databases know and JSON does not: dates as ISO text, blobs as hex."""
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    isoformat = getattr(value, "isoformat", None)
    if isoformat is not None:
        return str(isoformat())
    return str(value)


def render(pages: Iterable[Page], many: bool) -> Iterator[str]:
    """See :func:`hubvram.report.formats.render`."""
    if not many:
        for page in pages:
            yield dumps(page.data, indent=2) + "\n"
        return
    empty = True
    for page in pages:
        yield ("[\n" if empty else ",\n") + dumps(page.data, indent=2)
        empty = False
    yield "[]\n" if empty else "\n]\n"
