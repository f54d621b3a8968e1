"""The docs say what the program does: every command, option, variable and exit code, and every example runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from hubvram.cli import reference
from hubvram.cli.errors import EXIT_CODES
from hubvram.cli.main import COMMANDS
from hubvram.report.formats import NAMES
from hubvram.report.text import UNITS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
PUBLIC = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cli_page_is_what_the_commands_say() -> None:
    assert reference.markdown() == PAGE, "run `make docs`"


def test_the_page_can_be_written_to_a_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hubvram.cli.reference", str(tmp_path / "cli.md")], capture_output=True, timeout=60
    )
    assert done.returncode == 0
    assert (tmp_path / "cli.md").read_text(encoding="utf-8") == PAGE


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"hubvram {name}" in README or name == "estimate"


@pytest.mark.parametrize(("name", "command"), list(reference.commands()))
def test_every_command_and_option_has_help(name: str, command: click.Command) -> None:
    assert command.help, name
    for param in command.params:
        if isinstance(param, click.Option) and param.name not in ("lora_alpha", "lora_dropout"):
            assert param.help, f"{name} {param.name}"


def test_every_option_has_its_variable_on_the_page() -> None:
    found = reference.option_variables()
    assert found["--batch-size"] == "HUBVRAM_BATCH_SIZE"
    assert found["--db"] == "HUBVRAM_DB"
    for flag, variable in found.items():
        assert f"| `{flag}` | `{variable}` |" in PAGE


def test_the_variables_are_in_readme_and_page() -> None:
    for name in reference.ENVIRONMENT:
        assert f"`{name}`" in PAGE
        assert f"`{name}`" in README


def test_every_variable_that_the_code_reads_is_documented() -> None:
    read = set()
    for path in (ROOT / "hubvram").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        read |= set(re.findall(r"""(?:environ\.get\(|environ\[|env\.get\()\s*["']([A-Z_]+)["']""", text))
    documented = PAGE + README
    assert {name for name in read if name not in documented} == set()


def test_exit_codes_are_the_readmes() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", README, re.MULTILINE))
    assert rows == {str(code): meaning for code, meaning in EXIT_CODES.items()}


def test_formats_and_units_are_in_the_readme() -> None:
    for name in (*NAMES, *UNITS):
        assert f"`{name}`" in README


def test_the_readmes_examples_run_and_print_what_it_says() -> None:
    assert load_tool("readme").rewritten(README) == README, "run `make docs`"


def test_links_lead_somewhere() -> None:
    for page in PUBLIC:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_contributing_names_rooms_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:hubvram|tests|tools|docs|migrations)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_make_targets_of_the_docs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PUBLIC:
        for target in re.findall(r"(?:`|^    )make ([a-z]+)\b", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
