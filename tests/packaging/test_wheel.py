"""The wheel: what is in it, and that it runs from an empty venv, in another folder, with an empty cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hubvram.sources.loopback import LoopbackHub, serving

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """A command's stdout; its stderr where it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def packages_in_the_tree() -> set[str]:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "hubvram").rglob("__init__.py")}
    mapped = {
        ".".join(("hubvram", *path.parent.relative_to(ROOT).parts))
        for path in (ROOT / "migrations").rglob("__init__.py")
    }
    return found | mapped


@pytest.mark.skipif(tomllib is None, reason="tomllib came with Python 3.11; one leg is enough")
def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == packages_in_the_tree()
    assert listed == sorted(listed)


def test_every_folder_with_modules_is_a_package() -> None:
    for path in (ROOT / "hubvram").rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves nothing in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("hubvram", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source, cwd=folder)
    (found,) = folder.glob("hubvram-*.whl")
    return found


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """`bin` of a venv that holds the wheel and what it asks for, nothing else."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    binaries = tmp_path / "venv" / "bin"
    run(binaries / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    return binaries


MIGRATE = """
import sys
from hubvram.store import migrate, open_store, sqlite
from hubvram.store.opening import parse_url
engine = sqlite.make_engine(parse_url(sys.argv[1]))
with sqlite.migration_lock(engine) as connection:
    migrate.run_alembic(connection)
    sqlite.mark_ours(connection, int(migrate.HEAD))
engine.dispose()
print(open_store(sys.argv[1]).check())
"""


@pytest.mark.packaging
def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top.split("-")[0] for top in tops} == {"hubvram"}
    assert "hubvram/py.typed" in names
    assert "hubvram/migrations/env.py" in names
    assert any(name.startswith("hubvram/migrations/versions/0001") for name in names)
    for package in packages_in_the_tree():
        assert f"{package.replace('.', '/')}/__init__.py" in names
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.packaging
def test_the_wheel_runs_elsewhere_without_dev_packages(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    listed = {item["name"] for item in json.loads(run(installed / "pip", "list", "--format", "json", cwd=folder))}
    assert not listed.intersection({"pytest", "ruff", "mypy", "hypothesis", "responses"})
    hub = LoopbackHub(ROOT / "fixtures" / "models")
    cache = str(folder / "cache" / "hubvram.db")
    with serving(hub.answer) as endpoint:
        command = (installed / "hubvram", "mistralai/Mistral-7B-v0.1", "--json")
        first = json.loads(run(*command, cwd=folder, HF_ENDPOINT=endpoint, HUBVRAM_DB=cache))
        second = json.loads(run(*command, cwd=folder, HF_ENDPOINT=endpoint, HUBVRAM_DB=cache))
        table = run(
            installed / "python", "-m", "hubvram", "mistralai/Mistral-7B-v0.1", cwd=folder, HF_ENDPOINT=endpoint
        )
    assert first["parameters"]["total"] == 7_241_732_096
    assert first["parameters"]["by_dtype"] == {"BF16": 7_241_732_096}
    assert (first["source"], second["source"]) == ("hub", "cache")
    assert first["estimates"] == second["estimates"]
    assert "7,241,732,096 parameters, all BF16" in table
    views = run(installed / "hubvram", "sql", "select repo_id from models", "--json", cwd=folder, HUBVRAM_DB=cache)
    assert json.loads(views) == [{"repo_id": "mistralai/Mistral-7B-v0.1"}]
    # A new cache is made without alembic: the migrations that the wheel carries are run by hand.
    assert run(installed / "python", "-c", MIGRATE, folder / "old.db", cwd=folder) == "[]\n"
