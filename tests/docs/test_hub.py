"""docs/hub.md says what the cases of the Hub's tests say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_its_cases_say() -> None:
    spec = importlib.util.spec_from_file_location("tools_hub", ROOT / "tools" / "hub.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    written = (ROOT / "docs" / "hub.md").read_text("utf-8").splitlines()
    assert tool.page().splitlines() == written, "run `make docs`"
