"""docs/guide.md and README.zh.md: the seed guide's figures, and what hubvram computes beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hubvram
import hubvram.gpus
from hubvram.cli.main import cli
from hubvram.errors import NoSafetensorsError
from hubvram.guide import chinese, figures
from hubvram.guide import page as pages
from hubvram.guide.__main__ import main
from hubvram.guide.compare import (
    ADAPTERS,
    AMP,
    BASE,
    FULL,
    GB,
    LORA,
    LORA_INT8,
    PLAIN,
    QLORA,
    SHORT,
    Subject,
    deviation,
    main_branch,
)

if TYPE_CHECKING:
    from fakehub import FakeHub

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "fixtures" / "models"
PAGE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")

GUIDE = {
    "LLaMA 7B": ("80+", "16", "8"),
    "LLaMA 13B": ("160+", "24", "10-12"),
    "LLaMA 30B": ("350+", "40-48", "20-24"),
    "LLaMA 70B": ("800+", "80-100", "40"),
    "Mistral 7B": ("70", "16", "8"),
    "GPT-J 6B": ("60", "14", "8"),
}
"""The guide's main table as it prints it."""

PARAMETERS = {"huggyllama/llama-7b": 6_738_417_664, "mistralai/Mistral-7B-v0.1": 7_241_732_096}
"""Published counts (llama-7b with the rotary frequencies that its files hold)."""


@pytest.fixture(scope="module")
def subjects() -> dict[str, Subject]:
    return {subject.model.name: subject for subject in pages.subjects(MODELS)}


def rows(text: str, first: str) -> list[list[str]]:
    """Cells of the table rows that begin with a name."""
    found = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_the_page_is_what_the_command_writes(subjects: dict[str, Subject]) -> None:
    assert pages.page(list(subjects.values())) == PAGE, "run `make docs`"


def test_the_tables_of_the_chinese_readme_are_what_the_command_writes(subjects: dict[str, Subject]) -> None:
    assert chinese.filled(CHINESE, list(subjects.values())) == CHINESE, "run `make docs`"


def test_the_guides_figures_are_the_guides() -> None:
    assert {m.name: (str(m.full), str(m.lora), str(m.qlora)) for m in figures.MODELS} == GUIDE
    assert (figures.rule(7), figures.rule(70)) == (28, 280)
    assert {e.model: str(e.buffered) for e in figures.RULE_EXAMPLES} == {"LLaMA 7B": "40-80", "LLaMA 70B": "700"}
    assert figures.WEIGHTS_FP16 == {"LLaMA 7B": 14, "LLaMA 13B": 26, "LLaMA 70B": 140}


@pytest.mark.parametrize("name", GUIDE)
def test_every_figure_stands_beside_an_estimate(name: str, subjects: dict[str, Subject]) -> None:
    subject = subjects[name]
    main_rows = [row for row in rows(PAGE, name) if len(row) == 12]
    assert [row[2].removesuffix(" (several cards)") for row in main_rows] == list(GUIDE[name])
    for row, recipe in zip(main_rows, (PLAIN, LORA, QLORA), strict=True):
        assert row[4] == f"{subject.total(recipe) / GB:,.1f}"
        b = subject.breakdown(recipe)
        assert row[6] == f"{b.weights_bytes / GB:,.1f}"
        assert abs(sum(float(cell.replace(",", "")) for cell in row[6:11]) - b.total / GB) <= 0.25
    chinese_row = rows(CHINESE, name)[0]  # that of the main table, which comes first
    assert [chinese_row[1], chinese_row[4], chinese_row[6]] == list(GUIDE[name])
    for cell, recipe in ((2, PLAIN), (3, AMP), (5, LORA), (7, QLORA)):
        assert chinese_row[cell].startswith(f"**{subject.total(recipe) / GB:,.1f}**")


def test_the_repos_are_counted_in_their_headers(subjects: dict[str, Subject]) -> None:
    counted = {subject.model.repo_id: subject.parameters for subject in subjects.values()}
    for repo, parameters in PARAMETERS.items():
        assert counted[repo] == parameters
    for subject in subjects.values():
        assert 0.9 < subject.parameters / (subject.model.billions * 1e9) < 1.1


def test_bytes_per_parameter_are_those_of_the_recipes(subjects: dict[str, Subject]) -> None:
    """Weights, gradients and states of each recipe by hand, 7B; the peak may hold a little less of gradients."""
    subject = subjects["LLaMA 7B"]
    trained = 6_738_415_616
    by_hand = {"all FP16, SGD": (2, 2, 0), "all FP16, fused AdamW": (2, 2, 4), AMP.name: (4, 4, 8)}
    for recipe in FULL:
        if recipe.name in by_hand:
            b = subject.breakdown(recipe)
            found = (b.weights_bytes / trained, b.gradients_bytes / trained, b.optimizer_bytes / trained)
            assert found == pytest.approx(by_hand[recipe.name], rel=0.01)


def test_deviation_against_a_figure() -> None:
    assert deviation(12 * GB, figures.exactly(10)) == "+20 %"
    assert deviation(9 * GB, figures.exactly(10)) == "-10 %"
    assert deviation(int(10.04 * GB), figures.exactly(10)) == "equal"
    assert deviation(11 * GB, figures.Figure(10, 12)) == "within"
    assert deviation(15 * GB, figures.Figure(10, 12)) == "+25 %"
    assert deviation(8 * GB, figures.Figure(10, 12)) == "-20 %"
    assert deviation(500 * GB, figures.at_least(80)) == "within"
    assert deviation(40 * GB, figures.at_least(80)) == "-50 %"


def test_the_largest_batch_is_the_largest(subjects: dict[str, Subject]) -> None:
    subject = subjects["LLaMA 7B"]
    for limit in (8 * GB, 12 * GB, 16 * GB):
        batch = subject.largest_batch(QLORA, limit, seq_len=SHORT)
        fitting = [b for b in range(1, 64) if subject.total(QLORA, batch_size=b, seq_len=SHORT) <= limit]
        assert batch == (max(fitting) if fitting else 0)
    assert subject.largest_batch(QLORA, 1 * GB, seq_len=SHORT) == 0


def test_reached_recipes_stay_under_the_figure_and_the_next_does_not(subjects: dict[str, Subject]) -> None:
    for subject in subjects.values():
        for method in ("full", "lora", "qlora"):
            limit = subject.model.figure(method).high * GB
            reached = subject.reached(method)
            if reached.recipe is None:
                recipes = FULL if method == "full" else ADAPTERS[method]
                assert min(subject.total(recipe, seq_len=SHORT) for recipe in recipes) == reached.total_bytes > limit
                continue
            assert subject.total(reached.recipe, seq_len=SHORT) == reached.total_bytes <= limit
            assert subject.total(reached.recipe, seq_len=SHORT, batch_size=reached.batch) <= limit
            if reached.above is not None:
                assert subject.total(reached.above, seq_len=SHORT) == reached.above_bytes > limit


def test_every_figure_has_its_verdict(subjects: dict[str, Subject]) -> None:
    for method, title in (("full", "full"), ("lora", "LoRA"), ("qlora", "QLoRA")):
        for subject in subjects.values():
            verdict = pages.verdict_of(subject, method, subject.reached(method))
            [line] = [line for line in PAGE.splitlines() if line.endswith(f", {verdict}")]
            assert subject.model.name in line
            assert verdict.startswith(f"{title}:")


def test_the_card_is_the_smallest_that_takes_it(subjects: dict[str, Subject]) -> None:
    for subject in subjects.values():
        seats = subject.seats(LORA)
        assert seats is not None
        cards = {card.name: card.usable_bytes for card in hubvram_cards()}
        need = seats.per_card_bytes or subject.total(LORA)
        assert need <= cards[seats.card]
        smaller = list(cards)[: list(cards).index(seats.card)]
        assert all(need > cards[name] for name in smaller)
        if seats.count > 1:
            assert subject.total(LORA) > max(cards.values())


def hubvram_cards() -> tuple[hubvram.gpus.Card, ...]:
    return hubvram.gpus.guide_cards()


def test_the_page_says_what_the_api_says(fake_hub: FakeHub, tmp_path: Path, subjects: dict[str, Subject]) -> None:
    for recipe in (AMP, LORA, LORA_INT8, QLORA):
        report = hubvram.estimate(
            "huggyllama/llama-7b",
            methods=[recipe.method],
            endpoint=fake_hub.url,
            db=tmp_path / "cache.db",
            **BASE,
            **recipe.settings,
        )
        assert report.estimates[0].total_bytes == subjects["LLaMA 7B"].total(recipe)


def test_the_commands_on_the_page_are_commands() -> None:
    """Each parses, with the options of `hubvram estimate`."""
    commands = re.findall(r"^    hubvram (.+)$", PAGE + CHINESE, re.MULTILINE)
    assert len(commands) > 12
    for command in commands:
        words = command.split()
        name = words.pop(0) if words[0] == "inspect" else "estimate"
        parser = cli.get_command(cli.make_context("hubvram", [name, "--help"], resilient_parsing=True), name)
        assert parser is not None
        parser.make_context(name, words, resilient_parsing=True)


def test_gpt_j_without_and_with_its_conversion(
    fake_hub: FakeHub, tmp_path: Path, subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page says of the main branch is what users get, and so are the figures of the conversion."""
    from click.testing import CliRunner

    told = main_branch(MODELS, "EleutherAI/gpt-j-6b")
    monkeypatch.setenv("HF_ENDPOINT", fake_hub.url)
    monkeypatch.setenv("HUBVRAM_DB", str(tmp_path / "cache.db"))
    if isinstance(told, str):
        assert f"a PyTorch pickle, `{told}`" in PAGE
    else:
        assert f"    Error: {told.message}\n    Hint: {told.hint}" in PAGE
        with pytest.raises(NoSafetensorsError, match=re.escape(told.message)):
            hubvram.estimate("EleutherAI/gpt-j-6b")
    words = ["EleutherAI/gpt-j-6b", "-m", "lora", "--dtype", "float16", "--format", "json"]
    allowed = CliRunner().invoke(cli, [*words, "--allow-conversion-pr", "-q"])
    assert allowed.exit_code == 0, allowed.output
    assert f'"total_bytes": {subjects["GPT-J 6B"].total(LORA)}' in allowed.output


def test_a_repo_with_safetensors_has_no_place_in_that_section() -> None:
    with pytest.raises(ValueError, match="has safetensors"):
        main_branch(MODELS, "mistralai/Mistral-7B-v0.1")


def test_check_finds_a_changed_digit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    (tmp_path / "README.zh.md").write_text(CHINESE, encoding="utf-8")
    assert main(["--root", str(tmp_path)]) == 0
    assert (tmp_path / "docs" / "guide.md").read_text(encoding="utf-8") == PAGE
    total = re.search(r"\*\*(\d+\.\d)\*\*", CHINESE)
    assert total is not None
    (tmp_path / "README.zh.md").write_text(CHINESE.replace(total[1], "1.0", 1), encoding="utf-8")
    capsys.readouterr()
    assert main(["--root", str(tmp_path), "--check"]) == 1
    assert "README.zh.md is out of date" in capsys.readouterr().err


def test_outside_a_checkout_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--root", str(tmp_path)])
    assert stop.value.code == 2
    assert "in a checkout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- guide:nothing -->\n| a |\n|---|\n<!-- /guide -->", "no table is called 'nothing'"),
        ("<!-- guide:main -->\n<!-- /guide -->", "needs its head"),
        ("no blocks", "have no place"),
    ],
)
def test_broken_blocks_are_refused(text: str, message: str, subjects: dict[str, Subject]) -> None:
    with pytest.raises(ValueError, match=message):
        chinese.filled(text, list(subjects.values()))


def test_the_guides_title_and_links_are_on_both_pages() -> None:
    assert figures.TITLE in PAGE
    assert figures.TITLE in CHINESE
    for link in ("docs/guide.md", "README.md", "docs/accuracy.md"):
        assert f"]({link})" in CHINESE
