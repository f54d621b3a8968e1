"""What is imported when: help and completion load nothing but click."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("huggingface_hub", "sqlalchemy", "alembic", "tabulate", "tqdm", "safetensors", "httpx", "httpx2", "requests")
PROBE = """
import json, sys
from hubvram.cli.main import run
code = run(sys.argv[1:])
sys.stdout.flush()
print("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def modules_after(*arguments: str, **environment: str) -> set[str]:
    """Top-level names in sys.modules after one command line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code in (0, 2), done.stderr
    return set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("estimate", "--help"),
        ("scan", "--help"),
        ("fit", "--help"),
        ("recommend", "--help"),
        ("cache", "--help"),
        ("cache", "stats", "--help"),
        ("--no-such-option",),
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    loaded = modules_after(*arguments)
    assert "click" in loaded
    assert not loaded.intersection(HEAVY)
    assert "hubvram.estimator" not in loaded
    assert "hubvram.client" not in loaded


def test_completion_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hubvram"],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "_HUBVRAM_COMPLETE": "bash_complete",
            "COMP_WORDS": "hubvram estimate --seq",
            "COMP_CWORD": "2",
        },
        timeout=60,
    )
    assert "--seq-len" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded.intersection(HEAVY)


def test_import_hubvram_costs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, hubvram; hubvram.__version__; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("hubvram")} == {"hubvram", "hubvram.version"}
    assert not loaded.intersection((*HEAVY, "click"))


def test_the_public_names_are_all_there() -> None:
    import hubvram

    for name in hubvram.__all__:
        assert getattr(hubvram, name) is not None
    assert set(dir(hubvram)) == set(hubvram.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        hubvram.no_such_name  # noqa: B018 - the access is the test
