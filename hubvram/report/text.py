"""Numbers and names as people read them: units, counts, and text that is safe on a terminal."""

from __future__ import annotations

import re

UNITS = {"GiB": 2**30, "GB": 10**9, "MiB": 2**20, "B": 1}
"""Bytes per unit. GiB and MiB are what nvidia-smi and PyTorch mean; GB is the decimal one of boxes and disks."""

_DECIMALS = {"GiB": 2, "GB": 2, "MiB": 0, "B": 0}
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 (ESC among them), DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # line and paragraph separators, direction overrides
    "\ud800-\udfff]"  # lone surrogates
)
_CONTROL_BUT_LAYOUT = re.compile(_CONTROL.pattern.replace("\x00-\x1f", "\x00-\x08\x0b\x0c\x0e-\x1f", 1))


def clean(text: str, *, layout: bool = False) -> str:
    r"""Text from outside with every control character spelled out (``\x1b``).

    Names of repos, files and tensors come from strangers; printed raw, an
    escape sequence in one would drive the reader's terminal. ``layout`` lets
    tab and line break through, for cells of CSV and of SQL results.
    """
    pattern = _CONTROL_BUT_LAYOUT if layout else _CONTROL
    return pattern.sub(lambda m: m.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def size(count: int | None, unit: str = "GiB") -> str:
    """Bytes in a unit, without the unit's name: ``13.49``; ``-`` for unknown."""
    if count is None:
        return "-"
    decimals = _DECIMALS[unit]
    if decimals == 0:
        return f"{round(count / UNITS[unit]):,}"
    value = count / UNITS[unit]
    if count and abs(value) < 0.01:
        return "<0.01" if count > 0 else ">-0.01"
    return f"{value:,.{decimals}f}"


def number(count: int | None) -> str:
    """A count with thousands separated; ``-`` for unknown."""
    return "-" if count is None else f"{count:,}"


def plural(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def age(seconds: float) -> str:
    """How long ago, in the largest unit that says it: ``3 h``."""
    for limit, div, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // div)} {unit}"
    return f"{int(seconds // 86400)} days"
