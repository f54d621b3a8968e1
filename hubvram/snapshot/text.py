"""Names from outside, made safe for one line of a message."""

from __future__ import annotations


def shown(text: object, limit: int = 120) -> str:
    """``text`` in quotes: control and escape characters spelled out, cut to ``limit``."""
    raw = str(text)
    if len(raw) > limit:
        raw = raw[: limit - 3] + "..."
    if not raw.isprintable():
        raw = raw.encode("unicode_escape").decode("ascii")
    return f"'{raw}'"
