"""The pure core behind one door: snapshot + settings -> estimates.

Imports no network, no database, no click. The same inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hubvram.plan.settings import Settings
from hubvram.report.record import Estimate, ParameterCounts
from hubvram.snapshot.records import Snapshot

FORMULA_VERSION = 1
"""Raised whenever a change of the estimator can change a figure; part of the cache key of an estimate."""


@dataclass(frozen=True, slots=True)
class Description:
    """What the estimator makes of a snapshot before any method is chosen."""

    model_type: str | None
    architecture: str | None
    """The first entry of ``architectures`` in config.json."""
    family: str | None
    """Name in the catalogue of architectures, None where unknown."""
    parameters: ParameterCounts
    max_seq_len: int | None
    warnings: tuple[str, ...] = ()
