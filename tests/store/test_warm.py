"""The second run: how long the cache takes to give a finished report."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubvram.plan.settings import Settings
from hubvram.store import migrate

ROOT = Path(migrate.__file__).parents[2]
METHODS = tuple(f"method_{i}" for i in range(12))


def test_a_report_takes_four_statements(db: Path, store: Any, save: Callable[..., Any]) -> None:
    """Model, dtypes, estimates, and BEGIN: the blob with the tensors is not read."""
    from sqlalchemy import event

    save(methods=METHODS)
    heard: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *a: heard.append(a[2]))
    found = store.load_report("https://huggingface.co", "org/name", None, Settings().key(), 1, METHODS)
    assert len(found.report.estimates) == len(METHODS)
    assert [sql.split()[0] for sql in heard] == ["BEGIN", "SELECT", "SELECT", "SELECT"]
    assert not any("_blobs" in sql or "_explanations" in sql for sql in heard)


@pytest.mark.benchmark
def test_the_cache_adds_little_to_the_imports(db: Path, store: Any, save: Callable[..., Any]) -> None:
    """Whole processes in turn: opening and loading against the bare imports, at most 1.4 times."""
    save(methods=METHODS)
    store.close()
    bare = "import click, sqlalchemy, tabulate"
    warm = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import click, tabulate
from hubvram.plan.settings import Settings
from hubvram.store.store import open_store
with open_store({str(db)!r}) as store:
    report = store.load_report("https://huggingface.co", "org/name", None, Settings().key(), 1, {METHODS!r}).report
assert len(report.estimates) == {len(METHODS)}
"""
    times: dict[str, list[float]] = {bare: [], warm: []}
    for _ in range(9):
        for program, taken in times.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            taken.append(time.perf_counter() - start)
    assert statistics.median(times[warm]) <= 1.4 * statistics.median(times[bare])
