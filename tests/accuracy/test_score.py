"""The scorecard's arithmetic."""

from __future__ import annotations

import pytest

from hubvram.accuracy.__main__ import report
from hubvram.accuracy.score import Row, headline, summarise


def row(truth: int, predicted: int | None, *, quality: str = "A", gpus: int = 1) -> Row:
    """A scored cell."""
    return Row("x", "here", quality, "lora", "llama", "a/b", "peak_allocated_bytes", gpus, truth, predicted, "why")


def test_errors_are_signed_shares_of_the_truth() -> None:
    assert row(200, 190).error == pytest.approx(-0.05)
    assert row(200, None).error == 0


def test_a_group_in_figures() -> None:
    rows = [row(100, p) for p in (100, 101, 104, 93, 120)] + [row(100, None)]
    s = summarise(rows)
    assert s is not None
    assert (s.rows, s.skipped) == (5, 1)
    assert s.median == pytest.approx(0.04)
    assert s.p90 == pytest.approx(0.20)
    assert s.bias == pytest.approx(0.01)
    assert s.within_5 == pytest.approx(3 / 5)
    assert s.under_5 == pytest.approx(1 / 5)
    assert s.worst == pytest.approx(0.20)
    assert summarise([row(100, None)]) is None


def test_the_page_counts_what_is_skipped() -> None:
    text = report([row(100, 100), row(100, None), row(100, 100, quality="S"), row(100, 90, gpus=2)])
    assert "Coverage: 3 of 4 rows (75.0%)." in text
    assert "skipped 1: lora: why" in text
    assert [len(rows) for _, rows in headline([row(1, 1, gpus=2), row(1, 1)])] == [0, 1, 0, 0, 1]
