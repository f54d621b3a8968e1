"""How long a whole process takes, beside `python -c "import click, sqlalchemy, tabulate"` in the same run.

    python tools/startup.py [RUNS]

Runs alternate, so that a busy machine slows all of them alike; compared are
the medians of the wall time. CPU time is printed beside: on a machine with
other work it is the steadier figure. Exit code 1 if a bar is missed: 1.5 for
an answer from the cache, 3 for one from a Hub on loopback.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hubvram.sources.loopback import LoopbackHub, serving

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "models"
REPO = "mistralai/Mistral-7B-v0.1"
BASE = ("-c", "import click, sqlalchemy, tabulate")
BARS = {"warm": 1.5, "cold": 3.0}


def seconds(*arguments: str, environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU time of one Python process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def main(runs: int) -> int:
    """Measure, print, and judge."""
    times: dict[str, list[tuple[float, float]]] = {"base": [], "help": [], "warm": [], "cold": []}
    with serving(LoopbackHub(FIXTURES).answer) as endpoint, tempfile.TemporaryDirectory() as folder:
        warm = {"HF_ENDPOINT": endpoint, "HUBVRAM_DB": str(Path(folder, "warm.db"))}
        seconds("-m", "hubvram", REPO, environment=warm)
        for index in range(runs):
            cold = {**warm, "HUBVRAM_DB": str(Path(folder, f"cold{index}.db"))}
            times["base"].append(seconds(*BASE, environment={}))
            times["help"].append(seconds("-m", "hubvram", "--help", environment={}))
            times["warm"].append(seconds("-m", "hubvram", REPO, environment=warm))
            times["cold"].append(seconds("-m", "hubvram", REPO, environment=cold))
    base_wall, base_cpu = (statistics.median(column) for column in zip(*times["base"], strict=True))
    missed = 0
    for name, found in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        bar = BARS.get(name)
        missed += bar is not None and wall > bar * base_wall
        limit = f" (bar {bar})" if bar else ""
        print(f"{name:5} {wall:.3f} s = {wall / base_wall:.2f} x base{limit}; CPU {cpu:.3f} s = {cpu / base_cpu:.2f} x")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
