"""Everything that is special to SQLite: files, pragmas, locks, the wording of its errors.

No other module of the store may know which database it talks to; another
database gets a module with the same functions.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, StaticPool, Table, create_engine, event
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.dialects.sqlite.dml import Insert
from sqlalchemy.exc import DBAPIError

from hubvram.errors import StoreError

MINIMUM_VERSION = (3, 26, 0)
"""Upserts (3.24) and the table rebuilds that migrations do (3.26)."""

APPLICATION_ID = 0x68565241
"""``hVRA``: tells a cache of hubvram from any other SQLite file."""

BUSY_SECONDS = 30.0
"""How long to wait for another process's lock."""

DriverWarning = sqlite3.Warning
"""What Python 3.10 raises for several statements in one text, past SQLAlchemy; later ones raise a ProgrammingError."""

ELSEWHERE = "Choose another place with --db PATH or HUBVRAM_DB."

WRITE_OPTION = "hubvram_write"
"""Execution option of a connection whose transactions take the write lock at once."""


def check_version() -> None:
    """Refuse a SQLite library that is too old.

    Raises:
        StoreError: naming the version found and the version needed.
    """
    if sqlite3.sqlite_version_info < MINIMUM_VERSION:
        needed = ".".join(map(str, MINIMUM_VERSION))
        raise StoreError(
            f"This Python is linked with SQLite {sqlite3.sqlite_version}; the cache needs {needed} or newer.",
            hint="Use a Python from python.org, conda or uv, which bring their own SQLite.",
        )


def database_path(url: URL) -> Path | None:
    """The file behind a URL, or None for a database in memory."""
    name = url.database
    return None if not name or name == ":memory:" else Path(name).absolute()


def prepare_file(path: Path) -> None:
    """Make the folder and an empty file that only its owner can read; leave an existing file alone.

    Raises:
        StoreError: if the folder or the file cannot be made or written.
    """
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            # Made by hand and not by SQLite, which would follow the umask. SQLite gives the -wal
            # and -shm files the same mode as this one.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        folder_in_the_way = path.is_dir()
    except OSError as error:
        raise StoreError(
            f"Cannot create the cache {path}: {error.strerror or error}.",
            hint=ELSEWHERE,
        ) from error
    if folder_in_the_way:
        raise StoreError(f"Cannot open the cache {path}: it is a folder.", hint="Give the path of a file to --db.")
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK):
        raise StoreError(
            f"Cannot write the cache {path}: permission denied.",
            hint=ELSEWHERE,
        )


def make_engine(url: URL) -> Engine:
    """An engine that reads and writes; `prepare_file` has been called before."""
    if database_path(url) is None:
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    _own_transactions(engine)
    return engine


def make_read_only_engine(path: Path) -> Engine:
    """An engine that cannot write, whatever statement it is given."""
    # In a folder that cannot be written, the -shm of a WAL file cannot be made. Where there is no
    # -wal either, nobody has unfinished writes there, and reading it as immutable is right.
    log = Path(f"{path}-wal")
    frozen = not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
    uri = f"file:{quote(str(path))}?mode=ro" + ("&immutable=1" if frozen else "")

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
    _own_transactions(engine)

    @event.listens_for(engine, "connect")
    def _shut(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA query_only=ON")
        connection.set_authorizer(_authorize)
        # Gives Python a turn during long queries, so that Ctrl-C works.
        connection.set_progress_handler(lambda: 0, 100_000)

    return engine


_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_READING_PRAGMAS = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list"}
)
_VALUE_PRAGMAS = frozenset({"application_id", "user_version", "schema_version", "journal_mode", "encoding"})
"""Reading without a value, writing with one."""


def _authorize(action: int, first: str | None, second: str | None, *_rest: str | None) -> int:
    if action in _READING or action == sqlite3.SQLITE_TRANSACTION:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA:
        name = (first or "").lower()
        if name in _READING_PRAGMAS or (name in _VALUE_PRAGMAS and second is None):
            return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _own_transactions(engine: Engine) -> None:
    """Begin transactions ourselves: the driver begins them late, and never for DDL."""

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(WRITE_OPTION, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def use_wal(engine: Engine) -> str:
    """Switch the file to write-ahead logging and return the journal mode in force.

    Network drives cannot do it: the file then keeps its rollback journal.
    """
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                row = cursor.execute("PRAGMA journal_mode=WAL").fetchone()
                return str(row[0])
            except sqlite3.OperationalError as error:
                # SQLite does not wait for this lock, so two processes that create the file do it here.
                if "locked" in str(error) and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                return str(cursor.execute("PRAGMA journal_mode").fetchone()[0])
    finally:
        raw.close()


def journal_mode(connection: Connection) -> str:
    """The journal mode in force: ``wal``, ``delete``, ``memory``..."""
    return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())


def is_foreign(connection: Connection) -> bool:
    """Whether the file belongs to another program: it has content, and not our mark."""
    if connection.exec_driver_sql("PRAGMA application_id").scalar() == APPLICATION_ID:
        return False
    return connection.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1").scalar() is not None


def is_empty(connection: Connection) -> bool:
    """Whether there is no table at all."""
    return connection.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1").scalar() is None


def mark_ours(connection: Connection, schema_number: int) -> None:
    """Write our mark into the file's header (part of the transaction)."""
    connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
    connection.exec_driver_sql(f"PRAGMA user_version={schema_number:d}")


@contextmanager
def migration_lock(engine: Engine) -> Iterator[Connection]:
    """A connection inside one exclusive transaction, foreign keys unchecked until its end."""
    with engine.connect().execution_options(**{WRITE_OPTION: True}) as connection:
        # Inside a transaction this pragma does nothing, so it is sent to the driver before BEGIN.
        raw = cast("sqlite3.Connection", connection.connection.driver_connection)
        raw.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                yield connection
                broken = foreign_key_problems(connection)
                if broken:
                    raise StoreError(f"The migration of the cache would break {len(broken)} references: {broken[0]}")
        finally:
            raw.execute("PRAGMA foreign_keys=ON")


def insert(table: Table) -> Insert:
    """An INSERT that knows ON CONFLICT."""
    return sqlite_insert(table)


def foreign_key_problems(connection: Connection) -> list[str]:
    """References that point nowhere, a line each."""
    rows = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return [f"{r[0]} row {r[1]} refers to a missing row of {r[2]}" for r in rows]


def integrity_problems(connection: Connection) -> list[str]:
    """What SQLite's own check finds, a line each; empty when the file is sound."""
    rows = connection.exec_driver_sql("PRAGMA integrity_check").all()
    return [str(r[0]) for r in rows if r[0] != "ok"]


def view_names(connection: Connection) -> list[str]:
    """All views of the database, in order of name."""
    rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name")
    return [str(r[0]) for r in rows]


def view_columns(connection: Connection) -> list[str]:
    """The column names of all views, each once."""
    found: dict[str, None] = {}
    for name in view_names(connection):
        quoted = name.replace('"', '""')
        for row in connection.exec_driver_sql(f'PRAGMA table_info("{quoted}")'):
            found[str(row[1])] = None
    return list(found)


def size_bytes(url: URL) -> int:
    """Size of the database on disk, with its write-ahead log."""
    path = database_path(url)
    if path is None:
        return 0
    return sum(p.stat().st_size for p in (path, Path(f"{path}-wal")) if p.exists())


def compact(engine: Engine) -> None:
    """Give the space of deleted rows back to the file system."""
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("VACUUM")
    finally:
        raw.close()


def explain_error(error: DBAPIError, where: str) -> StoreError:
    """One clear line for what SQLite complains about."""
    text = str(error.orig).strip() or type(error.orig).__name__
    lower = text.lower()
    move = f"Move {where} away: hubvram makes a new one and fills it again."
    if "not a database" in lower or "image is malformed" in lower or "malformed database" in lower:
        return StoreError(f"The cache {where} is damaged or not a database ({text}).", hint=move)
    if "unable to open" in lower:
        return StoreError(f"Cannot open the cache {where} ({text}).", hint=ELSEWHERE)
    if "readonly" in lower:
        return StoreError(f"Cannot write the cache {where} ({text}).", hint=ELSEWHERE)
    if "full" in lower:
        return StoreError(f"Cannot write the cache {where}: the disk is full.", hint=ELSEWHERE)
    if "locked" in lower or "busy" in lower:
        return StoreError(
            f"The cache {where} is locked by another process for more than {BUSY_SECONDS:.0f} s.",
            hint="Wait for it to end, or choose another place with --db PATH.",
        )
    return StoreError(f"The cache {where} fails: {text}.", hint=f"`hubvram cache check` looks into it. {move}")
