"""Reading config.json: aliases, nesting, nulls.

A `Config` answers by the first alias that is present and not null, and
remembers where it looked, so that a missing size is an error with names in it
and never a silent 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubvram.errors import UnsupportedError
from hubvram.snapshot.text import shown

MAX_VALUE = 10**9
"""Larger sizes than this are in no model: they are a mistake or a trick, and would only cost time and memory."""
MAX_LAYERS = 2_000
"""Of a number of layers, blocks or groups: each costs work, whatever its size."""
MAX_EXPERTS = 100_000
_MAX_NUMBER = 1e15
_LIMITS = (
    ("layer", MAX_LAYERS),
    ("depth", MAX_LAYERS),
    ("block", MAX_LAYERS),
    ("group", MAX_LAYERS),
    ("expert", MAX_EXPERTS),
)


def _limit(name: str) -> int:
    """The largest value of a number of that name."""
    return next((limit for word, limit in _LIMITS if word in name), MAX_VALUE)


class Config:
    """Read access to one (sub)config."""

    def __init__(self, data: Mapping[str, Any], where: str = "config.json") -> None:
        """``where`` is the path used in messages."""
        self.data = data
        self.where = where

    def raw(self, *names: str) -> Any:
        """First value present and not null, else None."""
        for name in names:
            value = self.data.get(name)
            if value is not None:
                return value
        return None

    def whole(self, *names: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            UnsupportedError: absent without a default, not a whole number, or
                beyond what any model has.
        """
        value = self.raw(*names)
        if value is None:
            if default is None:
                raise UnsupportedError(f"{self.where} has none of {', '.join(names)}: the shapes cannot be worked out.")
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise UnsupportedError(f"{self.where}: {names[0]} is {shown(value)}, not a whole number.")
        if abs(value) > _limit(names[0]):
            raise UnsupportedError(f"{self.where}: {names[0]} is {_long(value)}, more than any model has.")
        return value

    def positive(self, *names: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.whole(*names, default=default)
        if value < 1:
            if default is not None and value == 0:
                return default
            raise UnsupportedError(f"{self.where}: {names[0]} is {value:,}, not at least 1.")
        return value

    def optional(self, *names: str) -> int | None:
        """A whole number of at least 1, or None (0 and -1 count as None: real configs write them for "none")."""
        value = self.raw(*names)
        if value is None or value == 0:
            return None
        found = self.whole(*names)
        return found if found > 0 else None

    def number(self, *names: str, default: float) -> float:
        """A number."""
        value = self.raw(*names)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UnsupportedError(f"{self.where}: {names[0]} is {shown(value)}, not a number.")
        if not abs(value) <= _MAX_NUMBER:  # NaN is no size either
            raise UnsupportedError(f"{self.where}: {names[0]} is {_long(value)}, more than any model has.")
        return float(value)

    def flag(self, *names: str, default: bool) -> bool:
        """A boolean."""
        value = self.raw(*names)
        return default if value is None else bool(value)

    def text(self, *names: str, default: str) -> str:
        """A string."""
        value = self.raw(*names)
        if value is None:
            return default
        if not isinstance(value, str):
            raise UnsupportedError(f"{self.where}: {names[0]} is {shown(value)}, not a text.")
        return value

    def sub(self, *names: str) -> Config | None:
        """A nested config, or None."""
        for name in names:
            value = self.data.get(name)
            if isinstance(value, Mapping):
                return Config(value, f"{self.where}:{name}")
        return None

    def rope_parameter(self, name: str, default: float) -> float:
        """A value that lives at the top level or in ``rope_parameters`` / ``rope_scaling`` (transformers 5)."""
        value = self.raw(name)
        if value is None:
            for key in ("rope_parameters", "rope_scaling"):
                inner = self.data.get(key)
                if isinstance(inner, Mapping) and inner.get(name) is not None:
                    value = inner[name]
                    break
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MAX_NUMBER:
            return default
        return float(value)


def _long(value: float) -> str:
    """A number that may have thousands of digits, on a piece of one line."""
    return f"{value:,}" if abs(value) < 10**30 else "a number of far too many digits"
