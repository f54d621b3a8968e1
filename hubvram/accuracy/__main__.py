"""Print the scorecard of some files of cells."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hubvram.accuracy import library
from hubvram.accuracy.score import Row, grouped, headline, read_cells, score, summarise

COLUMNS = ("rows", "skipped", "median", "P90", "bias", "<= 5 %", "<= 10 %", "under > 5 %", "worst")


def table(groups: Sequence[tuple[str, list[Row]]], title: str) -> str:
    """A Markdown table of groups."""
    lines = [f"| {title} | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, rows in groups:
        s = summarise(rows)
        if s is None:
            lines.append(f"| {name} | 0 | {len(rows)} |" + " |" * (len(COLUMNS) - 2))
            continue
        lines.append(
            f"| {name} | {s.rows} | {s.skipped} | {s.median:.2%} | {s.p90:.2%} | {_signed(s.bias)} | {s.within_5:.0%} "
            f"| {s.within_10:.0%} | {s.under_5:.1%} | {s.worst:.1%} |"
        )
    return "\n".join(lines)


def _signed(share: float) -> str:
    text = f"{share:+.2%}"
    return text[1:] if float(text[:-1]) == 0 else text


def report(rows: list[Row], worst: int = 10) -> str:
    """The whole scorecard as Markdown."""
    parts = [table(headline(rows), "truth")]
    keys = {
        "source": lambda r: f"{r.origin} {r.metric.removeprefix('peak_').removesuffix('_bytes')}",
        "method": lambda r: r.method,
        "family": lambda r: r.family,
    }
    parts += [table(grouped(rows, key), name) for name, key in keys.items()]
    scored = sorted((r for r in rows if r.predicted is not None), key=lambda r: -abs(r.error))
    lines = [f"| the {worst} worst | error | repo | method | metric |", "|---|---|---|---|---|"]
    lines += [f"| {r.id} | {r.error:+.1%} | {r.repo_id} | {r.method} | {r.metric} |" for r in scored[:worst]]
    parts.append("\n".join(lines))
    skipped = Counter(f"{r.method}: {r.reason}" for r in rows if r.predicted is None)
    done = len(scored) / len(rows) if rows else 0
    stated = [r for r in rows if r.trainable_matches is not None]
    parts.append(f"Coverage: {len(scored)} of {len(rows)} rows ({done:.1%}).")
    parts.append(
        f"Trainable parameters as stated: {sum(bool(r.trainable_matches) for r in stated)} of {len(stated)} rows."
    )
    parts.append("\n".join(f"- skipped {n}: {why}" for why, n in skipped.most_common()))
    return "\n\n".join(p for p in parts if p) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the scorecard."""
    parser = argparse.ArgumentParser(prog="python -m hubvram.accuracy", description=__doc__)
    parser.add_argument("cells", nargs="+", type=Path, help="JSON-lines files of cells")
    parser.add_argument("--models", type=Path, required=True, help="folder of configs and headers")
    parser.add_argument("--worst", type=int, default=10, help="how many of the worst rows to list")
    parser.add_argument("--all", action="store_true", help="also every row with its error")
    asked = parser.parse_args(argv)
    rows = score(read_cells(asked.cells), partial(library.load, asked.models))
    sys.stdout.write(report(rows, asked.worst) + "\n")
    if asked.all:
        for r in sorted(rows, key=lambda r: r.error):
            words = (r.id, f"{r.error:+.2%}", r.repo_id, r.method, r.metric, r.reason or "", r.trainable_matches)
            sys.stdout.write(" ".join(map(str, words)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
