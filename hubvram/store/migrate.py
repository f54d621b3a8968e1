"""Bring a cache to the schema of this version of hubvram.

A warm open only compares the version in the file with `HEAD`; alembic is
imported when an older file is there. A new file gets the schema of `HEAD` at
once: a test holds it against what all migrations make. All pending migrations run in one
transaction that holds the write lock, and the version is read again inside it:
a second process waits, finds the work done and goes on.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from hubvram.errors import SchemaTooNewError, StoreError
from hubvram.store import sqlite

HEAD = "0002"
"""Newest migration in ``migrations/versions`` (a test compares the two)."""

VERSION_TABLE = "_schema_version"


def current_version(connection: Connection) -> str | None:
    """Schema version of the database, None where it has no schema yet.

    Raises:
        StoreError: if the database belongs to another program.
    """
    try:
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    except DBAPIError:
        if sqlite.is_empty(connection):
            return None
        raise
    return None if found is None else str(found)


def needs_migration(connection: Connection, where: str) -> bool:
    """Whether migrations are due.

    Raises:
        SchemaTooNewError: if the schema is newer than this hubvram knows.
        StoreError: if the database belongs to another program.
    """
    if sqlite.is_foreign(connection):
        raise StoreError(
            f"{where} is a SQLite database of another program.",
            hint="Give --db a path of its own; hubvram makes the file.",
        )
    version = current_version(connection)
    if version == HEAD:
        return False
    if version is not None and _number(version) > _number(HEAD):
        raise SchemaTooNewError(
            f"The cache {where} has schema version {version}; this hubvram knows versions up to {HEAD}.",
            hint="Upgrade with `pip install -U hubvram`, or use another cache with --db PATH.",
        )
    return True


def is_older(version: str) -> bool:
    """Whether a schema version is one that migrations would raise."""
    return _number(version) < _number(HEAD)


def upgrade(engine: Engine, where: str) -> None:
    """Run all pending migrations in one transaction, unless another process has done so meanwhile."""
    with sqlite.migration_lock(engine) as connection:
        if needs_migration(connection, where):
            if current_version(connection) is None:
                create(connection)
            else:
                run_alembic(connection)
            sqlite.mark_ours(connection, _number(HEAD))


def migrations_folder() -> Path:
    """The folder with env.py and versions/, inside the installed package or in a checkout.

    Raises:
        StoreError: if this installation lacks it.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StoreError(
        "This installation of hubvram lacks its migrations.",
        hint="Reinstall with `pip install --force-reinstall hubvram`.",
    )


def create(connection: Connection) -> None:
    """The whole schema in an empty database, as all migrations together leave it.

    Importing alembic takes as long as all the rest that a first run does with the cache.
    """
    from hubvram.store.schema import metadata
    from hubvram.store.views import VIEWS

    metadata.create_all(connection)
    # As alembic makes it.
    key = f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num)"
    connection.exec_driver_sql(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, {key})")
    connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:head)"), {"head": HEAD})  # noqa: S608
    for view in VIEWS:
        connection.exec_driver_sql(view.create(connection.dialect))


def run_alembic(connection: Connection) -> None:
    """Every migration that the database has not had, from none on; the views anew."""
    from alembic import command
    from alembic.config import Config

    from hubvram.store.views import VIEWS

    # Views stand on the tables, and some ALTERs refuse to touch a table with a view on it.
    for view in reversed(VIEWS):
        connection.exec_driver_sql(view.drop())
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    command.upgrade(config, "head")
    for view in VIEWS:
        connection.exec_driver_sql(view.create(connection.dialect))


def _number(version: str) -> int:
    """``0012`` -> 12; a version that is no number is from a future we know nothing of."""
    return int(version) if version.isdecimal() else 10**9
