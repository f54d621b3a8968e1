"""docs/hub.md says what the cases of the Hub's tests say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

LIMITS = "## Repos that are too much"
ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_its_cases_say() -> None:
    spec = importlib.util.spec_from_file_location("tools_hub", ROOT / "tools" / "hub.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    written = (ROOT / "docs" / "hub.md").read_text("utf-8")
    head, limits = written.split(LIMITS)
    # tests/limits runs the last table's cases, at some length: here only that they are these.
    tool.limits = lambda: iter(())
    assert tool.page().split(LIMITS)[0].splitlines() == head.splitlines(), "run `make docs`"
    rows = [line.split(" | ") for line in limits.splitlines() if line.startswith("| ")][2:]
    assert [(row[0][2:], row[1].split("`")[1]) for row in rows] == [(k, v[1]) for k, v in tool.REFUSED.items()]
