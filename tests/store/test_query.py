"""`hubvram sql`: reads anything, writes nothing, and says in one line what is wrong."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubvram.errors import SettingError, StoreError
from hubvram.store import migrate
from hubvram.store.query import run_query
from hubvram.store.store import Store

ROOT = Path(migrate.__file__).parents[2]


@pytest.fixture
def filled(store: Store, db: Path, save: Callable[..., Any]) -> Path:
    """A cache at rest, with two repos."""
    save("org/one", methods=("full", "lora"))
    save("org/two", layers=5)
    store.close()
    return db


def test_a_query_gives_columns_and_rows(filled: Path) -> None:
    columns, rows = run_query(filled, "select repo_id, parameters as n from models order by n")
    assert columns == ("repo_id", "n")
    # 800 embedding elements; 128 + 8 per layer.
    assert list(rows) == [("org/one", 1208), ("org/two", 1480)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("with m as (select count(*) n from models) select n from m", [(2,)]),
        ("values (1, 'a'), (2, 'b')", [(1, "a"), (2, "b")]),
        ("select count(*) from estimates;", [(3,)]),
        ("select 1; -- done", [(1,)]),
        ("  -- first\n select 1 /* and */ ;\n", [(1,)]),
        ("select strftime('%H:%M', '2026-01-02T03:04:05Z'), ':name', '%s', '?'", [("03:04", ":name", "%s", "?")]),
        ("pragma user_version", [(int(migrate.HEAD),)]),
        ("select json_extract(config, '$.nested.list[1]') from models limit 1", [(2.5,)]),
        ("select total_gib, total_bytes from estimates limit 1", [(24.0, 24 * 1024**3)]),
        ("select count(*) from models m join estimates e using (repo_id, endpoint)", [(3,)]),
        ("select max(length(repo_id)) from parameters group by repo_id having sum(bytes) > 2500", [(7,)]),
    ],
)
def test_reading(filled: Path, sql: str, expected: list[tuple[Any, ...]]) -> None:
    assert list(run_query(filled, sql).rows) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "insert into _scans (started_at, status, hubvram_version) values ('x', 'running', 'x')",
        "insert into _scans (started_at, status, hubvram_version) values ('x', 'running', 'x') returning id",
        "update _models set repo_id = 'x'",
        "delete from _models",
        "drop table _models",
        "drop view models",
        "create table t (a)",
        "create temp table t as select * from models",
        "alter table _models add column x",
        "attach database '{other}' as other",
        "vacuum into '{other}'",
        "vacuum",
        "reindex",
        "analyze",
        "pragma journal_mode=delete",
        "pragma journal_mode(delete)",
        "pragma query_only=off",
        "pragma writable_schema=1",
        "pragma user_version=7",
        "pragma application_id=7",
        "pragma wal_checkpoint(truncate)",
        "begin immediate",
        "savepoint a",
        "select 1; drop table _models",
        "select 1; select 2",
        "select 1;-- x\n; delete from _models",
        ";--",
        "",
        "   ",
        "-- only a comment",
        "select load_extension('x.so')",
        "select * from models where repo_id = 'a'; --'; insert into _scans values (1)\n; drop table _models",
        "with x as (select 1) insert into _blobs select 'a', 1, x'00'",
        "explain query plan delete from _models",
    ],
)
def test_nothing_but_reading(filled: Path, tmp_path: Path, sql: str) -> None:
    other = tmp_path / "other.db"
    before = filled.read_bytes()
    with pytest.raises(SettingError) as caught:
        list(run_query(filled, sql.format(other=other)).rows)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert filled.read_bytes() == before
    assert not other.exists()
    # SQLite's own index and log of readers may lie beside it; the log must hold nothing.
    left = {p.name: p.stat().st_size for p in filled.parent.iterdir()}
    assert set(left) <= {filled.name, f"{filled.name}-shm", f"{filled.name}-wal"}
    assert left.get(f"{filled.name}-wal", 0) == 0


@pytest.mark.parametrize(
    ("sql", "message", "hint"),
    [
        ("select * from modles", "no table modles", "Did you mean models?"),
        ("select * from xyzzy", "no table xyzzy", "Views: errors, estimate_history, estimates, files"),
        ("select parametrs from models", "parametrs", "Did you mean parameters?"),
        ("select m.repoid from models m", "m.repoid", "Did you mean repo_id?"),
        ("select frobnicate from models", "frobnicate", "select * from models limit 1"),
        ("selec 1", 'near "selec": syntax error', "docs/schema.md"),
        ("select (1", "incomplete input", "docs/schema.md"),
        ("select nope(1)", "no such function: nope", "docs/schema.md"),
        ("select '\ud800'", "cannot be run", "SELECT"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(filled: Path, sql: str, message: str, hint: str) -> None:
    with pytest.raises(SettingError) as caught:
        run_query(filled, sql)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in (caught.value.hint or "")


def test_an_error_among_the_rows_is_one_line_too(filled: Path) -> None:
    sql = "select json(case when value = 2 then '{' else '1' end) from (select 1 value union all select 2)"
    with pytest.raises(SettingError, match="malformed JSON"):
        list(run_query(filled, sql).rows)


def test_without_a_cache(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no cache") as caught:
        run_query(tmp_path / "none.db", "select 1")
    assert "hubvram REPO" in (caught.value.hint or "")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(StoreError, match="in memory"):
        run_query("sqlite://", "select 1")


def test_what_is_no_cache(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as raw:
        raw.execute("create table t (a)")
    raw.close()
    with pytest.raises(StoreError, match="not a cache of hubvram"):
        run_query(other, "select 1")
    bad = tmp_path / "bad.db"
    bad.write_text("no database " * 200)
    with pytest.raises(StoreError, match="not a database"):
        run_query(bad, "select 1")


def test_a_cache_of_a_newer_hubvram_can_still_be_read(filled: Path) -> None:
    with sqlite3.connect(filled) as raw:
        raw.execute(f"update {migrate.VERSION_TABLE} set version_num = '0417'")
    raw.close()
    assert list(run_query(filled, "select count(*) from models").rows) == [(2,)]


def test_a_file_name_with_signs_of_a_url(tmp_path: Path, filled: Path) -> None:
    odd = tmp_path / "a?b#c%20d.db"
    odd.write_bytes(filled.read_bytes())
    assert list(run_query(odd, "select count(*) from models").rows) == [(2,)]


def test_rows_written_meanwhile_do_not_disturb(db: Path, store: Store, save: Callable[..., Any]) -> None:
    save("org/one", methods=("full", "lora"))
    rows = run_query(db, "select method from estimates order by method").rows
    assert next(rows) == ("full",)
    save("org/two")
    assert list(rows) == [("lora",)]


def test_ctrl_c_stops_a_long_query(filled: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from hubvram.store.query import run_query
try:
    print("ready", flush=True)
    run_query({str(filled)!r}, "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n")
except KeyboardInterrupt:
    print("stopped")
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(1)  # so that the query, which never ends, is under way
        assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        process.wait(timeout=30)
        assert process.stdout.read() == "stopped\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
