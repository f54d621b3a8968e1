"""Errors of estimates, and how they are summed up."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from hubvram.errors import HubvramError
from hubvram.plan.settings import Settings
from hubvram.snapshot.records import Snapshot


@dataclass(frozen=True, slots=True)
class Row:
    """One cell, scored."""

    id: str
    origin: str
    quality: str
    method: str
    family: str
    repo_id: str
    metric: str
    gpus: int
    truth: int
    predicted: int | None
    reason: str | None = None
    """Why there is no prediction."""
    trainable_matches: bool | None = None
    """Whether the trainable parameters are the stated ones; None where none are stated."""

    @property
    def error(self) -> float:
        """Signed relative error; 0.1 = 10 % too high."""
        return 0.0 if self.predicted is None else self.predicted / self.truth - 1


@dataclass(frozen=True, slots=True)
class Summary:
    """A group of rows in figures; shares and errors as fractions."""

    rows: int
    skipped: int
    median: float
    p90: float
    bias: float
    """Median signed error."""
    within_5: float
    within_10: float
    under_5: float
    """Share under-predicted by more than 5 %."""
    worst: float


def read_cells(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All cells of some JSON-lines files, gzipped or not."""
    cells = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            cells += [json.loads(line) for line in lines if line.strip()]
    return cells


def settings_of(cell: Mapping[str, Any]) -> Settings:
    """A cell's settings as the estimator takes them."""
    given = dict(cell["settings"])
    for key in ("peft", "quantization", "stack"):
        if cell.get(key):
            given[key] = cell[key]
    return Settings.from_kwargs(**given)


def score(cells: Iterable[Mapping[str, Any]], snapshot_of: Callable[[str], Snapshot]) -> list[Row]:
    """Estimate every cell."""
    from hubvram import estimator

    snapshots: dict[str, Snapshot | HubvramError] = {}
    families: dict[str, str] = {}
    rows = []
    for cell in cells:
        repo_id = cell["repo_id"]
        if repo_id not in snapshots:
            try:
                snapshots[repo_id] = snapshot_of(repo_id)
            except HubvramError as error:
                snapshots[repo_id] = error
        snapshot = snapshots[repo_id]
        predicted: int | None = None
        matches: bool | None = None
        family = "?"
        if isinstance(snapshot, HubvramError):
            reason: str | None = snapshot.message
        else:
            if repo_id not in families:
                families[repo_id] = estimator.describe(snapshot).family or "?"
            family = families[repo_id]
            try:
                _, [estimate] = estimator.estimate(snapshot, settings_of(cell), [cell["method"]])
                reason = estimate.reason
                predicted = getattr(estimate, cell["metric"])
                if cell.get("trainable_parameters") and estimate.trainable_parameters is not None:
                    matches = estimate.trainable_parameters == cell["trainable_parameters"]
            except HubvramError as error:
                reason = error.message
        rows.append(
            Row(
                cell["id"], cell["origin"], cell["quality"], cell["method"], family, repo_id, cell["metric"],
                cell["settings"].get("num_gpus", 1), cell["bytes"], predicted, reason, matches,
            )
        )  # fmt: skip
    return rows


def summarise(rows: Sequence[Row]) -> Summary | None:
    """Figures of a group; None when nothing in it has a prediction."""
    errors = [r.error for r in rows if r.predicted is not None]
    if not errors:
        return None
    absolute = sorted(abs(e) for e in errors)
    n = len(errors)
    return Summary(
        rows=n,
        skipped=len(rows) - n,
        median=median(absolute),
        p90=absolute[min(n - 1, int(0.9 * n))],
        bias=median(errors),
        within_5=sum(e <= 0.05 for e in absolute) / n,
        within_10=sum(e <= 0.10 for e in absolute) / n,
        under_5=sum(e < -0.05 for e in errors) / n,
        worst=absolute[-1],
    )


def grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
    """Rows by a key, largest group first."""
    sizes = Counter(key(r) for r in rows)
    return [(name, [r for r in rows if key(r) == name]) for name, _ in sizes.most_common()]


def headline(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The four groups that accuracy is judged by."""
    one = [r for r in rows if r.gpus == 1]
    return [
        ("simulated, allocated", [r for r in one if r.quality == "S"]),
        ("measured A, allocated", [r for r in one if r.quality == "A" and r.metric == "peak_allocated_bytes"]),
        (
            "measured A, reserved or nvidia-smi",
            [r for r in one if r.quality == "A" and r.metric != "peak_allocated_bytes"],
        ),
        ("measured B", [r for r in one if r.quality == "B"]),
        ("several GPUs", [r for r in rows if r.gpus > 1]),
    ]
