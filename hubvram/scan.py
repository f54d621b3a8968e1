"""Another name for `hubvram.scanning`.

Importing this module makes ``hubvram.scan`` the module and no longer the public
function of that name: import `hubvram.scanning` instead.
"""

from __future__ import annotations

from hubvram.scanning import DEFAULT_JOBS, ScanResult, iter_scan, parse_repo_list, scan

__all__ = ["DEFAULT_JOBS", "ScanResult", "iter_scan", "parse_repo_list", "scan"]
