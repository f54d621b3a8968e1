"""What a command has to say, before any format: one `Page` per result.

A page carries the same content three ways: as data (for the JSON formats), as
flat records (for CSV and TSV), and as sheets (for people). A format picks the
one it prints and knows nothing of models or methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a sheet for people."""

    title: str
    align: Literal["left", "right"] = "left"


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table for people: every cell is text, already in the reader's unit."""

    columns: tuple[Column, ...]
    rows: Sequence[Sequence[str]]
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One result of a command. One without head, sheets and notes has nothing to say to people."""

    data: Any
    """What the JSON formats print: plain values, bytes as integers."""
    records: Sequence[Mapping[str, Any]] = ()
    """Flat rows for CSV and TSV, bytes as integers. The first row's keys are the columns."""
    head: tuple[str, ...] = ()
    """Lines above the tables."""
    sheets: tuple[Sheet, ...] = ()
    notes: tuple[str, ...] = ()
    """Lines below the tables."""
    fields: tuple[str, ...] = field(default=())
    """The columns of CSV and TSV where there may be no record to read them from."""
