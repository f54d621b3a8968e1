"""How much GPU memory fine-tuning a Hugging Face model takes, from its headers alone.

::

    import hubvram

    report = hubvram.estimate("mistralai/Mistral-7B-v0.1", methods=["qlora"], batch_size=4)
    report.estimates[0].total_bytes

Everything here is imported when it is first used: ``import hubvram`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hubvram.version import __version__

if TYPE_CHECKING:
    from hubvram.advice.fit import FitReport
    from hubvram.advice.recommend import Advice
    from hubvram.advising import fit, recommend
    from hubvram.api import estimate, inspect, scan
    from hubvram.errors import HubvramError
    from hubvram.report.inspection import Inspection
    from hubvram.report.record import Report

__all__ = [
    "Advice",
    "FitReport",
    "HubvramError",
    "Inspection",
    "Report",
    "__version__",
    "estimate",
    "fit",
    "inspect",
    "recommend",
    "scan",
]

_HOMES = {
    "estimate": "hubvram.api",
    "inspect": "hubvram.api",
    "scan": "hubvram.api",
    "fit": "hubvram.advising",
    "recommend": "hubvram.advising",
    "Advice": "hubvram.advice.recommend",
    "FitReport": "hubvram.advice.fit",
    "HubvramError": "hubvram.errors",
    "Inspection": "hubvram.report.inspection",
    "Report": "hubvram.report.record",
}


def __getattr__(name: str) -> Any:
    """A public name, from its home, kept for the next time."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hubvram' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
