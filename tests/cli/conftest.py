"""Shared by the tests of the command line."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # sample_reports.py: test folders are no packages
