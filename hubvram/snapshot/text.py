"""Names from outside, made safe for one line of a message."""

from __future__ import annotations

import json
from typing import Any


def shown(text: object, limit: int = 120) -> str:
    """``text`` in quotes: control and escape characters spelled out, cut to ``limit``."""
    raw = str(text)
    if len(raw) > limit:
        raw = raw[: limit - 3] + "..."
    if not raw.isprintable():
        raw = raw.encode("unicode_escape").decode("ascii")
    return f"'{raw}'"


def one_line(text: object, limit: int = 300) -> str:
    """A sentence that is ours or a library's, without quotes where it is fit to print as it is."""
    raw = str(text)
    return raw if len(raw) <= limit and raw.isprintable() else shown(raw, limit)


def storable(content: Any, raw: bytes) -> Any:
    r"""Parsed JSON without lone surrogates (``"\ud800"``): Python takes them, UTF-8 and databases do not.

    Args:
        content: what ``json.loads`` made of ``raw``.
        raw: the text; where it holds no escape of that kind, nothing is done.
    """
    if b"\\ud" not in raw and b"\\uD" not in raw:
        return content
    return json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
