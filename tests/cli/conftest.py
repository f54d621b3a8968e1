"""Shared by the tests of the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from hubvram.cli.main import run as run_command

if TYPE_CHECKING:
    from fakehub import FakeHub

sys.path.insert(0, str(Path(__file__).parent))  # sample_reports.py: test folders are no packages


class Result(NamedTuple):
    """One command line, run."""

    code: int
    out: str
    err: list[str]

    @property
    def data(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "hubvram.db"


@pytest.fixture
def run(
    fake_hub: FakeHub, db: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """A command line in this process, on the fake Hub and a cache of its own."""
    monkeypatch.setenv("HF_ENDPOINT", fake_hub.url)
    monkeypatch.setenv("HUBVRAM_DB", str(db))

    def command(*arguments: str) -> Result:
        code = run_command(list(arguments))
        out, err = capsys.readouterr()
        return Result(code, out, err.splitlines())

    return command
