"""docs/methods.md is what the catalogue says."""

from __future__ import annotations

from pathlib import Path

from hubvram.plan.methods import methods
from hubvram.plan.methods.doc import page

DOCS = Path(__file__).resolve().parents[2] / "docs" / "methods.md"


def test_page_is_written_from_the_catalogue() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(), "run: python -m hubvram.plan.methods.doc"


def test_every_method_says_where_it_comes_from() -> None:
    for method in methods().values():
        assert method.trains, method.name
        assert method.formula, method.name
        assert any(c.isdigit() for c in method.source) or "requires_grad" in method.source, (method.name, method.source)
