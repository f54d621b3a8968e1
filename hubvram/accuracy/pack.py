"""``python -m hubvram.accuracy.pack CELLS... --models DIR``: the fixture that docs/accuracy.md is made from.

Keeps of each cell what the scorecard reads, and of each model that a cell
names its config and the dtype and shape of every tensor, the shards merged
into one header.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hubvram.accuracy import library
from hubvram.accuracy.score import read_cells

KEYS = (
    "id", "origin", "quality", "source", "gpu", "repo_id", "measured_on", "method", "settings", "peft", "quantization",
    "stack", "metric", "bytes", "trainable_parameters",
)  # fmt: skip
"""What is kept of a cell, where it has it."""


def pack(cells: Iterable[Mapping[str, Any]], models_dir: Path, out: Path) -> None:
    """Write ``out/cells.jsonl.gz`` and ``out/models/<org>/<name>/``; what was there goes."""
    kept = [{key: cell[key] for key in KEYS if cell.get(key)} for cell in cells]
    lines = "".join(json.dumps(cell, separators=(",", ":")) + "\n" for cell in kept)
    shutil.rmtree(out / "models", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "cells.jsonl.gz").write_bytes(_gzipped(lines))
    for repo_id in sorted({cell["repo_id"] for cell in kept}):
        snapshot = library.load(models_dir, repo_id)
        folder = out / "models" / repo_id
        (folder / "headers").mkdir(parents=True)
        header = {tensor.name: {"dtype": tensor.dtype, "shape": list(tensor.shape)} for tensor in snapshot.tensors}
        (folder / "headers" / "model.safetensors.json.gz").write_bytes(
            _gzipped(json.dumps(header, separators=(",", ":")))
        )
        (folder / "config.json").write_text(json.dumps(snapshot.config, indent=1) + "\n", encoding="utf-8")


def _gzipped(text: str) -> bytes:
    """The same text gives the same bytes."""
    return gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the packer."""
    parser = argparse.ArgumentParser(prog="python -m hubvram.accuracy.pack", description=__doc__)
    parser.add_argument("cells", nargs="+", type=Path, help="JSON-lines files of cells")
    parser.add_argument("--models", type=Path, required=True, help="folder of configs and headers")
    parser.add_argument("--out", type=Path, default=Path("fixtures/accuracy"), help="folder to write")
    asked = parser.parse_args(argv)
    pack(read_cells(asked.cells), asked.models, asked.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
