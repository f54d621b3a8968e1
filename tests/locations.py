"""Where the tests find their data, and what they raise when one tries to leave the machine."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "fixtures" / "models"
"""The repo's own copies of real headers: ``<org>/<name>/``."""
_shared = Path(os.environ.get("HUBVRAM_SHARED_MODELS") or ROOT.parent / "shared" / "models")
SHARED_MODELS = _shared if (_shared / "INDEX.csv").is_file() else None
"""A larger library of real headers, where there is one."""


class NetworkForbiddenError(AssertionError):
    """A test tried to reach another machine (raised by the guard in conftest.py)."""
