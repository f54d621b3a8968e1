"""docs/accuracy.md and the README's lines say what the scorecard finds."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from locations import SHARED_MODELS

from hubvram.accuracy import doc, library
from hubvram.accuracy.__main__ import report, table
from hubvram.accuracy.pack import KEYS, pack
from hubvram.accuracy.score import Row, read_cells, summarise
from hubvram.errors import RepoNotFoundError

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "fixtures" / "accuracy"
PAGE = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scored() -> doc.Scored:
    return doc.Scored.of(ROOT)


def row(name: str, predicted: int | None, *, quality: str = "A", gpus: int = 1, method: str = "lora") -> Row:
    reason = "no such thing." if predicted is None else None
    return Row(name, "fms", quality, method, "llama", "org/name", "peak_allocated_bytes", gpus, 1000, predicted, reason)


def test_the_page_is_what_the_scorecard_finds(scored: doc.Scored) -> None:
    assert doc.page(scored) == PAGE, "run `make docs`"


def test_the_readmes_lines_are_what_the_scorecard_finds(scored: doc.Scored) -> None:
    assert doc.with_lines(README, scored.rows) == README, "run `make docs`"
    assert README.count("median error") == 3


def test_every_cell_is_scored_once(scored: doc.Scored) -> None:
    cells = read_cells([FIXTURE / "cells.jsonl.gz"])
    assert [r.id for r in scored.rows] == [cell["id"] for cell in cells]
    assert len({r.id for r in scored.rows}) == len(cells)
    # every skipped row is on the page with its reason
    listed = sum(int(line.split()[1]) for line in PAGE.splitlines() if line.startswith("- ") and " row" in line[:12])
    assert listed == sum(r.predicted is None for r in scored.rows)


def test_every_origin_has_its_words(scored: doc.Scored) -> None:
    assert {cell["origin"] for cell in scored.cells} == set(doc.ORIGINS)


def test_a_changed_estimate_changes_page_and_lines(scored: doc.Scored) -> None:
    index = next(i for i, r in enumerate(scored.rows) if r.predicted is not None)
    rows = list(scored.rows)
    old = rows[index]
    rows[index] = Row(
        old.id, old.origin, old.quality, old.method, old.family, old.repo_id, old.metric, old.gpus, old.truth, None, "x"
    )  # fmt: skip
    assert doc.page(doc.Scored(scored.cells, rows, scored.model_types)) != PAGE
    assert doc.with_lines(README, rows) != README


def test_figures_of_a_group_worked_out_by_hand() -> None:
    # errors: +4 %, -6 %, +11 %, -20 %; sorted by size 4, 6, 11, 20
    rows = [row("a", 1040), row("b", 940), row("c", 1110), row("d", 800), row("e", None)]
    found = summarise(rows)
    assert found is not None
    assert (found.rows, found.skipped) == (4, 1)
    assert found.median == pytest.approx((0.06 + 0.11) / 2)
    assert found.bias == pytest.approx((0.04 - 0.06) / 2)
    assert found.p90 == pytest.approx(0.20)
    assert (found.within_5, found.within_10, found.under_5) == (0.25, 0.5, 0.5)
    expected = "| mine | 4 | 1 | 8.50% | 20.00% | -1.00% | 25% | 50% | 50.0% | 20.0% |"
    assert table([("mine", rows)], "truth").splitlines()[-1] == expected


def test_the_lines_worked_out_by_hand() -> None:
    rows = [
        row("a", 1000, quality="S"), row("b", 1020, quality="S"),
        row("c", 900), row("d", None),
        row("e", 1070, gpus=2), row("f", 960, quality="B"), row("g", 1300, quality="B", gpus=4),
    ]  # fmt: skip
    first, second, third = doc.lines(rows).splitlines()
    assert first.endswith("median error 1.0%, 100% within 5 %, 100% within 10 % (2 rows, 0 more without an estimate).")
    assert second.endswith("median error 10.0%, 0% within 5 %, 100% within 10 % (1 rows, 1 more without an estimate).")
    assert third.endswith("median error 7.0%, 33% within 5 %, 67% within 10 % (3 rows, 0 more without an estimate).")


def test_nothing_estimated_is_said_so() -> None:
    assert "no row has an estimate" in doc.lines([row("a", None)])
    assert doc.skipped([row("a", None), row("b", None, method="oft"), row("c", 1)]) == (
        "- 2 rows (lora, oft): no such thing."
    )
    assert "Coverage: 0 of 1 rows" in report([row("a", None)])


def test_a_bias_of_nothing_has_no_sign() -> None:
    assert "| 0.00% |" in table([("mine", [row("a", 1000), row("b", 1000)])], "truth")
    assert "-0.00%" not in PAGE


def test_the_readme_needs_one_pair_of_markers() -> None:
    with pytest.raises(ValueError, match="0 pairs"):
        doc.with_lines("# nothing\n", [])


def test_check_finds_a_stale_page_and_writing_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    few = read_cells([FIXTURE / "cells.jsonl.gz"])[:3]
    pack(few, FIXTURE / "models", tmp_path / "fixtures" / "accuracy")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert doc.main(["--root", str(tmp_path), "--check"]) == 1
    assert "accuracy.md is out of date" in capsys.readouterr().err
    assert doc.main(["--root", str(tmp_path)]) == 0
    assert doc.main(["--root", str(tmp_path), "--check"]) == 0
    page = tmp_path / "docs" / "accuracy.md"
    page.write_text(page.read_text(encoding="utf-8").replace("3 readings", "4 readings"), encoding="utf-8")
    assert doc.main(["--root", str(tmp_path), "--check"]) == 1


def test_outside_a_checkout_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        doc.main(["--root", str(tmp_path)])
    assert stop.value.code == 2
    assert "fixtures/accuracy" in capsys.readouterr().err


def test_the_fixture_is_small_and_has_only_what_is_read() -> None:
    files = [path for path in FIXTURE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 500_000
    cells = read_cells([FIXTURE / "cells.jsonl.gz"])
    assert {key for cell in cells for key in cell} <= set(KEYS)
    repos = {str(path.relative_to(FIXTURE / "models").parent) for path in FIXTURE.rglob("config.json")}
    assert repos == {cell["repo_id"] for cell in cells}


def test_packing_the_fixture_again_changes_nothing(tmp_path: Path) -> None:
    few = [c for c in read_cells([FIXTURE / "cells.jsonl.gz"]) if c["repo_id"] == "Qwen/Qwen2.5-0.5B"][:2]
    pack(few, FIXTURE / "models", tmp_path)
    repo = Path("models", "Qwen", "Qwen2.5-0.5B")
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("config.json")] == [repo / "config.json"]
    assert (tmp_path / repo / "config.json").read_bytes() == (FIXTURE / repo / "config.json").read_bytes()
    header = repo / "headers" / "model.safetensors.json.gz"
    assert gzip.decompress((tmp_path / header).read_bytes()) == gzip.decompress((FIXTURE / header).read_bytes())
    # what is there no more goes
    pack(read_cells([FIXTURE / "cells.jsonl.gz"])[:1], FIXTURE / "models", tmp_path)
    assert not (tmp_path / repo).exists()


def test_a_repo_without_headers_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepoNotFoundError, match="org/none"):
        library.load(tmp_path, "org/none")


def test_the_fixture_is_the_truth_it_was_packed_from(tmp_path: Path) -> None:
    cells = SHARED_MODELS.parent / "truth" / "cells.jsonl" if SHARED_MODELS else None
    if cells is None or not cells.is_file():
        pytest.skip("no file of cells beside the library of headers")
    pack(read_cells([cells]), SHARED_MODELS or tmp_path, tmp_path / "packed")
    kept = {p.relative_to(tmp_path / "packed") for p in (tmp_path / "packed").rglob("*") if p.is_file()}
    assert kept == {p.relative_to(FIXTURE) for p in FIXTURE.rglob("*") if p.is_file()}
    for path in kept:
        ours, theirs = (FIXTURE / path).read_bytes(), (tmp_path / "packed" / path).read_bytes()
        if path.suffix == ".gz":
            assert gzip.decompress(ours) == gzip.decompress(theirs), path
        else:
            assert json.loads(ours) == json.loads(theirs), path
