"""What goes wrong before any repo is read: one line, at most one hint, the right exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hubvram import errors as tree
from hubvram.cli import errors, main
from hubvram.cli.commands.cache import VIEWS
from hubvram.cli.output import Output, encodable, print_error
from hubvram.errors import GatedRepoError, HubvramError, SettingError
from hubvram.report.page import Page


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, list[str]]:
    code = main.run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def test_every_error_class_has_a_documented_exit_code() -> None:
    found = [value for value in vars(tree).values() if isinstance(value, type) and issubclass(value, HubvramError)]
    assert len(found) > 15
    assert {kind.exit_code for kind in found} <= set(errors.EXIT_CODES)


def test_the_table_has_subclasses_before_their_bases() -> None:
    kinds = [kind for kind, _ in errors.TABLE]
    for index, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[index + 1 :])


@pytest.mark.parametrize(
    "arguments",
    [
        ("estimate",),
        ("gpt2", "--dtype", "float12"),
        ("gpt2", "--no-such-flag"),
        ("gpt2", "--batch-size", "many"),
        ("gpt2", "--batch-size", "0"),
        ("gpt2", "--max-grad-norm", "nan"),
        ("gpt2", "--gpu", "voodoo2"),
        ("gpt2", "--method", "lroa"),
        ("gpt2", "--stack", "transformers"),
        ("gpt2", "--stack", "transformer=4.48"),
        ("gpt2", "--peft-config", "/nowhere/adapter_config.json"),
        ("gpt2", "--endpoint", "not a url"),
        ("not//a repo",),
        ("scan", "/nowhere/list.txt"),
        ("sql", "select 1", "--db", "/nowhere/hubvram.db"),
        ("cache", "stats", "--db", "/nowhere/hubvram.db"),
        ("cache", "export", "secrets"),
        ("gpus", "--format", "yaml"),
    ],
    ids=" ".join,
)
def test_usage_and_settings_are_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err[0].startswith("Error: ")
    assert len(err) <= 2
    assert all(line.startswith("Hint: ") for line in err[1:])
    as_json = run(capsys, *arguments, "--json")
    assert as_json[0] == 2
    body = json.loads(as_json[1])
    assert set(body) == {"repo_id", "error"}
    assert set(body["error"]) == {"code", "message", "hint"}
    assert err[0].endswith(body["error"]["message"])


def test_the_nearest_name_is_in_the_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert "qlora" in run(capsys, "gpt2", "--method", "qlroa")[2][1]
    assert "transformers" in run(capsys, "gpt2", "--stack", "transformer=4.48")[2][1]


def test_no_arguments_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert code == 2
    assert "Usage: hubvram REPO..." in out + "\n".join(err)


def test_the_format_of_an_error_is_read_off_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors.asked_format(["x"]) == "table"
    assert errors.asked_format(["x", "--json"]) == "json"
    assert errors.asked_format(["-f", "ndjson"]) == "ndjson"
    assert errors.asked_format(["--format=csv"]) == "csv"
    assert errors.asked_format(["--format", "nonsense"]) == "table"
    assert errors.asked_format(["--", "--json"]) == "table"
    monkeypatch.setenv("HUBVRAM_FORMAT", "json")
    assert errors.asked_format(["x"]) == "json"


def test_what_fails_in_the_wake_of_an_interrupt_is_the_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    late = ValueError("Cannot operate on a closed database.")
    late.__context__ = RuntimeError("rolling back")
    late.__context__.__context__ = KeyboardInterrupt()
    assert errors.report(late, []) == 130
    assert capsys.readouterr().err == "Error: interrupted\n"


def test_interrupt_is_130_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (KeyboardInterrupt(), click.Abort()):
        assert errors.report(error, []) == 130
        assert capsys.readouterr().err == "Error: interrupted\n"


def test_the_unexpected_is_one_line_and_says_how_to_report_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert errors.report(ZeroDivisionError("a\nb"), []) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Error: unexpected ZeroDivisionError: a b"
    assert "HUBVRAM_DEBUG=1" in lines[1]
    monkeypatch.setenv("HUBVRAM_DEBUG", "1")
    errors.report(ZeroDivisionError("a"), [])
    assert "ZeroDivisionError: a" in capsys.readouterr().err


def test_a_message_without_the_repo_gets_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    errors.report(GatedRepoError("it is gated.", repo_id="org/x"), [])
    errors.report(GatedRepoError("org/x is gated.", repo_id="org/x"), [])
    assert capsys.readouterr().err.splitlines() == ["Error: org/x: it is gated.", "Error: org/x is gated."]


def test_escape_codes_in_a_message_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("bad \x1b[31mname", "see \x07")
    assert capsys.readouterr().err == "Error: bad \\x1b[31mname\nHint: see \\x07\n"


def test_colour_is_for_terminals_that_want_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_error("x")
    assert "\x1b[31m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    print_error("x")
    assert capsys.readouterr().err == "Error: x\n"


def test_text_that_the_stream_cannot_take() -> None:
    ascii_stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert encodable("a \u00d7 b \u2026 \u4e2d", ascii_stream) == "a x b ... \\u4e2d"
    assert encodable("\u4e2d", io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == "\u4e2d"


def test_quiet_silences_warnings_not_errors(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.warning("w")
    output.status("s")
    output.error(SettingError("e"))
    assert capsys.readouterr().err == "Error: e\n"
    assert output.failed == 1


def test_the_views_of_export_are_the_stores() -> None:
    from hubvram.store.views import VIEW_NAMES

    assert set(VIEWS) == set(VIEW_NAMES)


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "import sys; from hubvram.cli.main import main; main()"
    done = subprocess.run(
        f'{sys.executable} -c "{script}" gpus --format ndjson | head -n 1',
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["name"]
    assert done.stderr == ""


def test_a_closed_pipe_ends_with_0() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "hubvram", "gpus"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_stdout_in_ascii_does_not_crash() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hubvram", "gpus", "--format", "markdown"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"},
        timeout=60,
    )
    assert done.returncode == 0
    assert "| T4 16GB" in done.stdout


def test_pages_of_any_format_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Output("json").pages([Page(data={"a": "\u4e2d"})])
    assert json.loads(capsys.readouterr().out) == {"a": "\u4e2d"}


def test_cache_path_opens_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "cache", "path", "--db", str(tmp_path / "x.db"))
    assert (code, out, err) == (0, f"{tmp_path / 'x.db'}\n", [])
    assert not (tmp_path / "x.db").exists()
    assert "secret" not in run(capsys, "cache", "path", "--db", "postgresql://me:secret@host/db")[1]
