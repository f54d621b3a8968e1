"""Opening the cache: where it is, who may read it, what happens to files that are no cache."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubvram.errors import SchemaTooNewError, StoreError
from hubvram.store import migrate, sqlite
from hubvram.store.location import default_path, location, masked
from hubvram.store.store import open_store

SECRET = "hunter2"


def test_location_argument_before_variable_before_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = {"XDG_CACHE_HOME": "/xdg", "HUBVRAM_DB": "/elsewhere/a.db"}
    assert location("b.db", env) == str(tmp_path / "b.db")
    assert location(None, env) == "/elsewhere/a.db"
    assert location(None, {"XDG_CACHE_HOME": "/xdg"}) == "/xdg/hubvram/hubvram.db"
    assert location("sqlite:////x/y.db", env) == "sqlite:////x/y.db"


def test_location_ignores_a_relative_xdg_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    found = default_path({"XDG_CACHE_HOME": "relative"})
    assert found.is_absolute()
    assert found.parts[-2:] == ("hubvram", "hubvram.db")


def test_location_expands_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert location("~/c.db", {}) == "/home/someone/c.db"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@host/db",
        f"postgresql+psycopg://user:{SECRET}@host:5432/db?sslmode=require",
        f"postgresql://host/db?user=u&password={SECRET}",
        f"mysql://host/db?ssl_key_password={SECRET}&a=b",
    ],
)
def test_passwords_are_never_shown(url: str) -> None:
    assert SECRET not in masked(url)
    assert "***" in masked(url)
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_a_url_that_is_none_is_not_repeated() -> None:
    with pytest.raises(StoreError) as caught:
        open_store(f"post gres://u:{SECRET}@@/:x")
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def test_a_new_cache_is_private_and_marked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "hubvram.db"
    old = os.umask(0)
    try:
        with open_store(path) as store:
            assert store.stats().journal_mode == "wal"
            with store.write():
                for file in path.parent.iterdir():
                    assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["hubvram.db"], "no -wal is left behind"
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA application_id").fetchone()[0].to_bytes(4, "big") == b"hVRA"
        assert raw.execute("PRAGMA user_version").fetchone()[0] == int(migrate.HEAD)
    raw.close()


def test_an_existing_mode_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    path.touch()
    path.chmod(0o640)
    open_store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_without_create_a_missing_cache_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no cache") as caught:
        open_store(tmp_path / "none.db", create=False)
    assert caught.value.hint is not None
    assert "hubvram REPO" in caught.value.hint
    assert not (tmp_path / "none.db").exists()


def test_urls_and_memory_work_too(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/u.db") as store:
        assert store.where == str(tmp_path / "u.db")
    with open_store("sqlite://") as store:
        assert store.stats().repos == 0


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be taken for one" * 20, b"x\n"])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged or not a database") as caught:
        open_store(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert path.read_bytes() == content, "it is left as it was"


def test_a_damaged_cache(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    open_store(path).close()
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    # Page 1 holds the schema: its b-tree begins behind the file's header of 100 bytes.
    data[100:page] = os.urandom(page - 100)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged") as caught:
        open_store(path)
    assert caught.value.hint is not None
    assert "Move" in caught.value.hint


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as raw:
        raw.execute("create table models (a)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        open_store(path)
    assert path.read_bytes() == before


def test_a_folder_and_a_file_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="it is a folder"):
        open_store(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot create the cache"):
        open_store(tmp_path / "file" / "hubvram.db")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach: those of pytest are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for path in [Path(name), *Path(name).rglob("*")]:
            path.chmod(0o700)


@pytest.mark.skipif(os.getuid() != 0, reason="gives up root's rights to feel a folder that cannot be written")
@pytest.mark.parametrize(
    ("folder", "file", "reads"),
    [(0o555, 0o666, True), (0o777, 0o444, True), (0o555, None, False), (0o700, 0o666, False)],
)
def test_no_right_to_write(open_folder: Path, folder: int, file: int | None, reads: bool) -> None:
    home = open_folder / "cache"
    home.mkdir()
    path = home / "c.db"
    if file is not None:
        open_store(path).close()
        path.chmod(file)
    home.chmod(folder)
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(migrate.__file__).parents[2])!r})
import hubvram.store.query, hubvram.store.store as s
from hubvram.errors import StoreError
os.setuid(65534)
for attempt in (
    lambda: s.open_store({str(path)!r}),
    lambda: print(list(hubvram.store.query.run_query({str(path)!r}, "select count(*) from models").rows)),
):
    try:
        attempt()
    except StoreError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.startswith("Cannot ")
    assert "ermission denied" in first
    assert str(path) in first
    if reads:
        assert second == "[(0,)]"
    else:
        assert second.startswith(f"There is no cache at {path}" if file is None else f"Cannot open the cache {path}")


def test_a_newer_schema_is_refused_with_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    open_store(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"update {migrate.VERSION_TABLE} set version_num = '0417'")
    raw.close()
    with pytest.raises(SchemaTooNewError, match="0417") as caught:
        open_store(path)
    assert migrate.HEAD in caught.value.message
    assert caught.value.code == "schema_too_new"


def test_an_old_sqlite_is_refused_with_both_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 8, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.8.0")
    with pytest.raises(StoreError, match=r"3\.8\.0.*3\.26\.0"):
        open_store(tmp_path / "x.db")


def test_a_lock_held_by_another_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.db"
    open_store(path).close()
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with sqlite3.connect(path, isolation_level=None) as raw:
        raw.execute("BEGIN IMMEDIATE")
        with open_store(path) as store, pytest.raises(StoreError, match="locked by another process"):
            store.start_scan()
    raw.close()
