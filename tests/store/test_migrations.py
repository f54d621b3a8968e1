"""Migrations: one truth, applied once, whole or not at all."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from hubvram.store import migrate, sqlite
from hubvram.store.opening import parse_url
from hubvram.store.schema import metadata
from hubvram.store.store import Store, open_store
from hubvram.store.views import VIEWS

SNAPSHOT = Path(__file__).with_name("schema.sql")
ROOT = Path(migrate.__file__).parents[2]


def dump(path: Path) -> str:
    """The schema as the file has it, in a fixed order."""
    with sqlite3.connect(path) as raw:
        rows = raw.execute("select sql from sqlite_master where sql is not null order by type, name").fetchall()
    raw.close()
    return "".join("\n".join(line.rstrip() for line in sql.splitlines()) + ";\n\n" for (sql,) in rows)


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    """A file that went through every migration, from nothing."""
    path = tmp_path / "migrated.db"
    engine = sqlite.make_engine(parse_url(str(path)))
    with sqlite.migration_lock(engine) as connection:
        migrate.run_alembic(connection)
        sqlite.mark_ours(connection, int(migrate.HEAD))
    engine.dispose()
    return path


def test_the_constant_is_alembics_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.migrations_folder()))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.HEAD]


def test_migrations_make_what_the_code_describes(migrated: Path) -> None:
    with open_store(migrated) as store, store.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrate.VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_the_schema_is_the_one_in_the_snapshot(migrated: Path) -> None:
    """After a change: a new migration, and this file anew (the assertion's left side)."""
    assert dump(migrated) == SNAPSHOT.read_text(encoding="utf-8")


def test_a_new_cache_has_what_all_migrations_make(migrated: Path, store: Store, db: Path) -> None:
    """A new file is made without alembic: all that is in it is compared, but for the order of clauses."""
    made, grown = _schema(db), _schema(migrated)
    assert made == grown
    assert len(made) > 20


def _schema(path: Path) -> dict[str, Any]:
    with sqlite3.connect(path) as raw:
        found: dict[str, Any] = {
            f"{kind} {name}": sorted(_lines(sql))
            for kind, name, sql in raw.execute("select type, name, sql from sqlite_master where sql is not null")
        }
        found["version"] = raw.execute(f"select * from {migrate.VERSION_TABLE}").fetchall()
        for mark in ("user_version", "application_id"):
            found[mark] = raw.execute(f"PRAGMA {mark}").fetchall()
        columns = f"PRAGMA table_info({migrate.VERSION_TABLE})"
        found[f"table {migrate.VERSION_TABLE}"] = raw.execute(columns).fetchall()
    raw.close()
    return found


def _lines(sql: str) -> list[str]:
    return [line.strip().rstrip(",") for line in sql.splitlines()]


def test_a_warm_open_imports_nothing_heavy(tmp_path: Path, save: Callable[..., Any], db: Path) -> None:
    save()
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from hubvram.store.store import open_store
with open_store({str(db)!r}) as store:
    found = store.load_report("https://huggingface.co", "org/name", None, "{{}}", 1)
    assert found.report.parameters.total == 1208
heavy = {{"alembic", "huggingface_hub", "hubvram.estimator", "hubvram.store.views", "sqlalchemy.orm.session", "mako"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_processes_that_open_a_new_cache_at_once(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import alembic.command, hubvram.store.views
from hubvram.store.store import open_store
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
with open_store(sys.argv[1]) as store:
    store.start_scan()
"""
    for attempt in range(3):
        path = tmp_path / f"race{attempt}.db"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, "")
        with open_store(path) as store, store.read() as connection:
            assert connection.execute(text("select count(*) from scans")).scalar() == 4
            assert connection.execute(text(f"select version_num from {migrate.VERSION_TABLE}")).all() == [
                (migrate.HEAD,)
            ]


def test_tables_and_views_can_be_said_in_postgresql() -> None:
    """The seam for a second database: types, checks and views name nothing that only SQLite has."""
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateTable

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    tables = [str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables]
    views = [view.create(dialect) for view in VIEWS]
    assert "id BIGSERIAL NOT NULL" in "".join(tables)
    assert "typeof" not in "".join(tables)
    assert all(" IS 1" not in view for view in views)


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pretend that this hubvram has one more migration, with the given body."""

    def add(body: str) -> None:
        folder = tmp_path / "migrations %s"
        shutil.copytree(migrate.migrations_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
        number = f"{int(migrate.HEAD) + 1:04d}"
        (folder / "versions" / f"{number}_next.py").write_text(
            f"from alembic import op\nimport sqlalchemy as sa\nrevision = {number!r}\n"
            f"down_revision = {migrate.HEAD!r}\ndef upgrade():\n    {body}\n",
            encoding="utf-8",
        )
        monkeypatch.setattr(migrate, "HEAD", number)
        monkeypatch.setattr(migrate, "migrations_folder", lambda: folder)

    return add


def test_an_older_cache_is_migrated_and_keeps_its_rows(
    db: Path, store: Store, save: Callable[..., Any], next_version: Callable[[str], None]
) -> None:
    save()
    store.close()
    next_version("op.add_column('_models', sa.Column('extra', sa.Text(), server_default='x'))")
    with open_store(db) as newer, newer.read() as connection:
        assert connection.execute(text("select extra from _models")).scalar() == "x"
        assert connection.execute(text("select repo_id from models")).scalar() == "org/name"
        assert connection.execute(text("select method from estimates")).scalar() == "lora"
        assert connection.execute(text("PRAGMA user_version")).scalar() == int(migrate.HEAD)
    with open_store(db) as again:
        assert again.check() == []


def test_a_table_may_be_rebuilt_below_the_views(
    db: Path, store: Store, save: Callable[..., Any], next_version: Callable[[str], None]
) -> None:
    """SQLite changes a column by copying the table: rows that refer to it must survive that."""
    save()
    store.close()
    next_version(
        "with op.batch_alter_table('_models', recreate='always') as b: b.alter_column('author', type_=sa.String())"
    )
    with open_store(db) as newer:
        assert newer.check() == []
        assert newer.stats().estimates == 1
        with newer.read() as connection:
            assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_migration_that_fails_changes_nothing(
    db: Path, store: Store, save: Callable[..., Any], next_version: Callable[[str], None]
) -> None:
    save()
    store.close()
    before = dump(db)
    next_version("op.add_column('_models', sa.Column('extra', sa.Text())); op.execute('select * from nowhere')")
    with pytest.raises(Exception, match="nowhere"):
        open_store(db)
    assert dump(db) == before
