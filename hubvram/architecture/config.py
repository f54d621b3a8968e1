"""Reading config.json: aliases, nesting, nulls.

A `Config` answers by the first alias that is present and not null, and
remembers where it looked, so that a missing size is an error with names in it
and never a silent 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubvram.errors import UnsupportedError


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

    def int(self, *names: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            UnsupportedError: absent without a default, or not a whole number.
        """
        value = self.raw(*names)
        if value is None:
            if default is None:
                raise UnsupportedError(f"{self.where} has none of {', '.join(names)}: the shapes cannot be worked out.")
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise UnsupportedError(f"{self.where}: {names[0]} is {value!r}, not a whole number.")
        return value

    def positive(self, *names: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.int(*names, default=default)
        if value < 1:
            if default is not None and value == 0:
                return default
            raise UnsupportedError(f"{self.where}: {names[0]} is {value}, not at least 1.")
        return value

    def optional(self, *names: str) -> int | None:
        """A whole number or None (0 counts as None, as head_dim = 0 does in real configs)."""
        value = self.raw(*names)
        if value is None or value == 0:
            return None
        return self.int(*names)

    def number(self, *names: str, default: float) -> float:
        """A number."""
        value = self.raw(*names)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UnsupportedError(f"{self.where}: {names[0]} is {value!r}, not a number.")
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
            raise UnsupportedError(f"{self.where}: {names[0]} is {value!r}, not a text.")
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
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return default
        return float(value)
