"""``python -m hubvram.accuracy.doc``: docs/accuracy.md and the accuracy lines of the README, from the fixture."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hubvram.accuracy import library
from hubvram.accuracy.__main__ import table
from hubvram.accuracy.score import Row, Summary, grouped, headline, read_cells, score, summarise

ROOT = Path(__file__).resolve().parents[2]
WORST = 4
"""Rows listed per kind of truth."""
GIB = 2**30

ORIGINS: Mapping[str, str] = {
    "simulated": "the real code of transformers, PEFT and bitsandbytes on fake CUDA tensors, every allocation recorded",
    "peft": "huggingface/peft, `method_comparison/MetaMathQA`: one model, most PEFT methods",
    "fms": "foundation-model-stack/fms-acceleration, `scripts/benchmarks`: TRL's SFTTrainer, packed to 4096 tokens",
    "fmsold": "the same benchmark at earlier versions of its libraries",
    "fitcheck": "fitcheck-llm, `data/measurements`: LoRA and QLoRA, one step each, random tokens",
    "swift": "modelscope/ms-swift, `Benchmark.md`",
    "qwen": "QwenLM/Qwen, the memory profiling of its README",
    "fsdpqlora": "AnswerDotAI/fsdp_qlora, `benchmarks_03_2024.md`: QLoRA under FSDP",
    "hfguide": "huggingface/transformers, the page on training on one GPU",
}
"""Where cells come from; `source` of each cell names file and commit."""

METRICS: Mapping[str, str] = {
    "peak_allocated_bytes": "allocated",
    "peak_reserved_bytes": "reserved",
    "total_bytes": "nvidia-smi",
}
"""The figure of hubvram that a reading is held against, in the words of the tables."""

INTRO = """
# How close the estimates are

<!-- Made by `python -m hubvram.accuracy.doc`: change the texts there, not here. -->

{cells} readings of GPU memory, each estimated with the settings it was taken with. The error is estimate / truth - 1:
plus is too high, minus is too low, and too low is what runs out of memory.

The rules of hubvram follow the libraries' code. They are not fitted to these rows, but the rows were known while the
rules were written, and the simulated ones served to check them. For models and settings that no row is like, expect
larger errors. Two figures are typical readings and not rules: the CUDA context, and NCCL's buffers on several GPUs.
"""

TRUTH = """
## What the truth is

**Simulated** ({simulated} rows). A training step of the real libraries runs on fake CUDA tensors, which have shape,
dtype and lifetime but no data, and a recorder adds up what is alive. The libraries' code is real; what kernels take
inside (attention, cuBLAS, softmax) is emulated after their sources, and so are LLM.int8 and the 8-bit optimizers. No
card is involved: the CUDA context and the allocator's leftovers are not in these rows.

**Measured** ({measured} rows). What others published of runs on real cards. Quality A: every setting is known and the
stack is Hugging Face's. Quality B: something is not stated (versions, which counter, lengths that depend on the data, a
plugin's kernels), so part of the error is the gap. *allocated* and *reserved* are PyTorch's counters; *nvidia-smi* is
what the driver shows, with the context and the allocator's leftovers, and varies from run to run.
"""

NOT_COVERED = """
## What is not covered

{scored} of {cells} rows ({share:.1%}) get a figure. Those without, and why:
"""

UNTESTED = """
In the catalogues, but without an estimate in any row, so that nothing on this page tests them:

- {methods_text}
- {types_text}

The cards measured on are {cards}: none from AMD, Intel or Apple. Several GPUs are in one machine here.
"""

AGAIN = """
## The same again

    python -m hubvram.accuracy fixtures/accuracy/cells.jsonl.gz --models fixtures/accuracy/models --all

prints the scorecard with every row; `source` of a cell says in which file of which commit its reading stands. The same
command takes cells of your own: a line of JSON each, with the keys of those.
"""

_LINES = re.compile(r"(?<=<!-- accuracy -->\n).*?(?=<!-- /accuracy -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Scored:
    """The fixture, scored."""

    cells: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]
    model_types: Mapping[str, str]
    """``model_type`` of each repo's config."""

    @classmethod
    def of(cls, root: Path) -> Scored:
        """Read and score the fixture of a checkout."""
        folder = root / "fixtures" / "accuracy"
        cells = read_cells([folder / "cells.jsonl.gz"])
        configs = {cell["repo_id"]: folder / "models" / cell["repo_id"] / "config.json" for cell in cells}
        types = {repo: json.loads(path.read_text(encoding="utf-8"))["model_type"] for repo, path in configs.items()}
        return cls(cells, score(cells, partial(library.load, folder / "models")), types)


def page(scored: Scored) -> str:
    """The whole page."""
    cells, rows = scored.cells, scored.rows
    simulated = sum(row.quality == "S" for row in rows)
    stated = [row for row in rows if row.trainable_matches is not None]
    matching = sum(bool(row.trainable_matches) for row in stated)
    estimated = sum(row.predicted is not None for row in rows)
    parts = [
        INTRO.format(cells=f"{len(rows):,}"),
        table(headline(rows), "truth"),
        f"The count of trainable parameters is the stated one in {matching} of the {len(stated)} rows that state it.",
        TRUTH.format(simulated=simulated, measured=len(rows) - simulated),
        sources(cells),
        "## By source",
        table(grouped(rows, _source), "source"),
        "## By method",
        table(grouped(rows, lambda r: r.method), "method"),
        "## By family",
        table(grouped([r for r in rows if r.family != "?"], lambda r: r.family), "family"),
        "## The worst rows",
        worst_rows(cells, rows),
        NOT_COVERED.format(scored=estimated, cells=len(rows), share=estimated / len(rows)),
        skipped(rows),
        untested(scored),
        AGAIN,
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _source(row: Row) -> str:
    return f"{row.origin}, {METRICS[row.metric]}{', several GPUs' if row.gpus > 1 else ''}"


def sources(cells: Iterable[Mapping[str, Any]]) -> str:
    """Where the cells come from, and on which cards they were measured."""
    cells = list(cells)
    lines = ["| source | rows | card | what |", "|---|---:|---|---|"]
    for origin, count in Counter(cell["origin"] for cell in cells).most_common():
        measured = {cell["gpu"] for cell in cells if cell["origin"] == origin and cell["quality"] != "S"}
        cards = sorted(measured) or ["none"]
        lines.append(f"| {origin} | {count} | {', '.join(cards)} | {ORIGINS[origin]} |")
    return "\n".join(lines)


def worst_rows(cells: Iterable[Mapping[str, Any]], rows: Sequence[Row]) -> str:
    """The largest errors of each kind of truth."""
    by_id = {cell["id"]: cell for cell in cells}
    head = "| truth | row | repo | method | batch × tokens | figure | truth, GiB | estimate, GiB | error |"
    lines = [head, "|---|---|---|---|---|---|---:|---:|---:|"]
    for name, group in headline(rows):
        found = sorted((r for r in group if r.predicted is not None), key=lambda r: (-abs(r.error), r.id))
        for row in found[:WORST]:
            settings = by_id[row.id]["settings"]
            run = f"{settings.get('batch_size', 1)} × {settings.get('seq_len', 'default')}"
            gpus = f" on {row.gpus} GPUs" if row.gpus > 1 else ""
            sizes = f"{row.truth / GIB:.2f} | {(row.predicted or 0) / GIB:.2f} | {row.error:+.1%}"
            figure = METRICS[row.metric]
            lines.append(f"| {name} | {row.id} | `{row.repo_id}` | {row.method} | {run}{gpus} | {figure} | {sizes} |")
    return "\n".join(lines)


def skipped(rows: Iterable[Row]) -> str:
    """Reasons for rows without a figure, the most frequent first."""
    reasons: dict[str, Counter[str]] = {}
    for row in rows:
        if row.predicted is None:
            reasons.setdefault(str(row.reason), Counter())[row.method] += 1
    ordered = sorted(reasons.items(), key=lambda item: (-item[1].total(), item[0]))
    out = []
    for reason, methods in ordered:
        count = methods.total()
        out.append(f"- {count} {'row' if count == 1 else 'rows'} ({', '.join(sorted(methods))}): {reason.rstrip('.')}.")
    return "\n".join(out) or "- none."


def untested(scored: Scored) -> str:
    """What the catalogues hold and no row tests."""
    from hubvram.architecture import families
    from hubvram.plan import methods

    done = [row for row in scored.rows if row.predicted is not None]
    cards = sorted({re.sub(r"^\d+x ", "", cell["gpu"]) for cell in scored.cells if cell["quality"] != "S"})
    known_types = [name for types in families.MODULES.values() for name in types]
    return UNTESTED.format(
        methods_text=_absent("method", methods.names(), {row.method for row in done}),
        types_text=_absent("model type", known_types, {scored.model_types[row.repo_id] for row in done}),
        cards=", ".join(cards),
    )


def _absent(what: str, known: Iterable[str], seen: set[str]) -> str:
    missing = [f"`{name}`" for name in known if name not in seen]
    return f"every {what} has a row." if not missing else f"{len(missing)} {what}s: {', '.join(missing)}."


def lines(rows: Sequence[Row]) -> str:
    """The README's three lines."""
    one = [row for row in rows if row.gpus == 1]
    simulated, a, rest = (
        [row for row in one if row.quality == "S"],
        [row for row in one if row.quality == "A"],
        [row for row in rows if row.quality == "B" or (row.gpus > 1 and row.quality != "S")],
    )
    return "".join(
        f"- {name}: {_summary(summarise(group))}\n"
        for name, group in (
            ("Simulated steps of the real libraries", simulated),
            ("Measured on one card, all settings known", a),
            ("Measured, something not stated or several cards", rest),
        )
    )


def _summary(s: Summary | None) -> str:
    if s is None:
        return "no row has an estimate."
    return (
        f"median error {s.median:.1%}, {s.within_5:.0%} within 5 %, {s.within_10:.0%} within 10 %"
        f" ({s.rows} rows, {s.skipped} more without an estimate)."
    )


def with_lines(readme: str, rows: Sequence[Row]) -> str:
    """The README with its lines as they are now.

    Raises:
        ValueError: the pair of markers is missing.
    """
    text, count = _LINES.subn(lambda _: lines(rows), readme)
    if count != 1:
        raise ValueError(f"README.md has {count} pairs of accuracy markers, it needs one")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write, or with ``--check`` say what is out of date and exit with 1."""
    parser = argparse.ArgumentParser(prog="python -m hubvram.accuracy.doc", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: the one this file lies in)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    asked = parser.parse_args(argv)
    if not (asked.root / "fixtures" / "accuracy").is_dir():
        parser.error(f"{asked.root} holds no fixtures/accuracy: run this in a checkout, or name one with --root")
    scored = Scored.of(asked.root)
    readme = asked.root / "README.md"
    pages: dict[Path, str] = {
        asked.root / "docs" / "accuracy.md": page(scored),
        readme: with_lines(readme.read_text(encoding="utf-8"), scored.rows),
    }
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if asked.check:
            sys.stderr.write(f"{path.name} is out of date: run `make docs`\n")
        else:
            path.write_text(pages[path], encoding="utf-8")
    return 1 if asked.check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
