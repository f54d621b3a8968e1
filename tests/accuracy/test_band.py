"""The band around the total holds 90 % of the measured rows it was read off."""

from __future__ import annotations

from functools import partial

import pytest
from locations import ROOT

from hubvram.accuracy import library
from hubvram.accuracy.score import read_cells, score
from hubvram.report.band import HIGH, LOW, band

FIXTURE = ROOT / "fixtures" / "accuracy"


def test_nine_in_ten_measured_rows_lie_in_the_band() -> None:
    cells = [
        cell
        for cell in read_cells([FIXTURE / "cells.jsonl.gz"])
        if cell["quality"] == "A"
        and cell["metric"] != "peak_allocated_bytes"
        and cell["settings"].get("num_gpus", 1) == 1
    ]
    rows = [r for r in score(cells, partial(library.load, FIXTURE / "models")) if r.predicted]
    assert len(rows) > 90
    inside = sum(LOW <= r.truth / r.predicted <= HIGH for r in rows if r.predicted)
    assert inside / len(rows) == pytest.approx(0.9, abs=0.04)


def test_the_band_is_in_bytes() -> None:
    assert band(1_000) == (int(1_000 * LOW), int(1_000 * HIGH))
