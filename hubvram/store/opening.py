"""From a location to an engine on a database of the right schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from hubvram.errors import StoreError
from hubvram.store import migrate, sqlite
from hubvram.store.location import masked


def parse_url(where: str) -> URL:
    """A location (URL or path) as a URL.

    Raises:
        StoreError: if it is no URL, or names a database that is not supported.
    """
    if "://" not in where:
        return URL.create("sqlite", database=str(Path(where).absolute()))
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):
        # The text may hold a password in a place that masking does not know: it is not repeated.
        raise StoreError(
            "The cache's URL cannot be parsed.",
            hint="A URL looks like sqlite:////folder/file.db; a plain path will do.",
        ) from None
    if url.get_backend_name() != "sqlite":
        raise StoreError(
            f"{masked(where)}: this version of hubvram keeps its cache in SQLite only.",
            hint="Give --db a path or a sqlite:/// URL.",
        )
    if url.get_driver_name() != "pysqlite":
        raise StoreError(f"{masked(where)}: the driver is not supported.", hint="Write sqlite:/// without a driver.")
    if url.query:
        raise StoreError(
            f"{masked(where)}: options behind ? are not supported.", hint="Give --db the plain path of the file."
        )
    return url


def display(url: URL) -> str:
    """The cache as messages name it: its path, or the URL without secrets."""
    path = sqlite.database_path(url)
    return str(path) if path is not None else masked(url.render_as_string(hide_password=True))


@contextmanager
def store_errors(where: str) -> Iterator[None]:
    """Turn what the database raises into a StoreError that names the cache."""
    try:
        yield
    except DBAPIError as error:
        raise sqlite.explain_error(error, where) from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise StoreError(f"The cache {where} cannot hold a value: {error}.") from error


def open_engine(url: URL, *, create: bool = True) -> Engine:
    """An engine on a database whose schema is at the head, migrated on the way if need be.

    Raises:
        StoreError: if the file is missing (with ``create=False``), cannot be
            made or written, is damaged, or belongs to another program.
        SchemaTooNewError: if a newer hubvram wrote it.
    """
    sqlite.check_version()
    where = display(url)
    path = sqlite.database_path(url)
    if path is not None:
        require_file(path) if not create else sqlite.prepare_file(path)
    engine = sqlite.make_engine(url)
    try:
        with store_errors(where):
            with engine.connect() as connection:
                due = migrate.needs_migration(connection, where)
            if due:
                if path is not None:
                    sqlite.use_wal(engine)
                migrate.upgrade(engine, where)
    except BaseException:
        engine.dispose()
        raise
    return engine


def require_file(path: Path) -> None:
    """Refuse a cache that is not there.

    Raises:
        StoreError: with the hint to fill one, or if it may not even be looked at.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"There is no cache at {path}.", hint="Run `hubvram REPO` first: it makes and fills one."
        ) from None
    except OSError as error:
        raise StoreError(f"Cannot open the cache {path}: {error.strerror or error}.", hint=sqlite.ELSEWHERE) from error
