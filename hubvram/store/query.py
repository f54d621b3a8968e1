"""People's own SQL on the cache: one statement, reading only.

That nothing is written does not rest on looking at the text: the file is
opened read-only, and SQLite asks an authorizer about each thing a statement
wants to do before it runs.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from hubvram.errors import HubvramError, SettingError, StoreError
from hubvram.store import migrate, opening, sqlite
from hubvram.store.location import location

READ_ONLY_HINT = "Only one SELECT (or WITH, VALUES, EXPLAIN) is run; `hubvram cache` looks after the file."

_SEVERAL = "The SQL holds more than one statement."


class QueryResult(NamedTuple):
    """Columns and rows of a query; the rows come as they are read."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]
    """Read once. The file is closed at its end, or when the iterator is closed."""


def run_query(db: str | os.PathLike[str] | None, sql: str) -> QueryResult:
    """Run one reading statement on the cache.

    Args:
        db: path or URL of the cache; None = ``HUBVRAM_DB`` or the default place.
        sql: the statement; a semicolon and comments may follow it.

    Raises:
        SettingError: if the statement writes, is none, is several, or is wrong
            (also while rows are read).
        StoreError: if the cache is not there, is damaged, or is not ours.
    """
    url = opening.parse_url(location(db))
    path = sqlite.database_path(url)
    if path is None:
        raise StoreError("A cache in memory is empty.", hint="Give --db the path of a file.")
    sqlite.check_version()
    opening.require_file(path)
    where = opening.display(url)
    engine = sqlite.make_read_only_engine(path)
    try:
        _require_current(engine, url, where)
        rows = _rows(engine, sql, where)
        columns = next(rows)
    except BaseException:
        engine.dispose()
        raise
    return QueryResult(tuple(str(c) for c in columns), rows)


def _require_current(engine: Engine, url: URL, where: str) -> None:
    """Bring an older cache to this version first, so that the views are as documented; a newer one is read as it is."""
    with opening.store_errors(where), engine.connect() as connection:
        if sqlite.is_foreign(connection):
            raise StoreError(
                f"{where} is not a cache of hubvram.",
                hint="Give --db the cache: `hubvram cache path` says where it is.",
            )
        version = migrate.current_version(connection)
    if version is None or migrate.is_older(version):
        opening.open_engine(url, create=False).dispose()


def _rows(engine: Engine, sql: str, where: str) -> Iterator[tuple[Any, ...]]:
    """The column names first, then the rows; disposes of the engine at the end."""
    try:
        with engine.connect() as connection:
            try:
                # Not text(): a colon in the statement would be taken for a parameter.
                result = connection.exec_driver_sql(sql)
                if not result.returns_rows:
                    raise SettingError("The SQL has no statement that returns rows.", hint=READ_ONLY_HINT)
                yield tuple(result.keys())
                for row in result:
                    yield tuple(row)
            except DBAPIError as error:
                raise _query_error(connection, error, where) from error
            except (ValueError, sqlite.DriverWarning) as error:
                if "one statement" in str(error):
                    raise SettingError(_SEVERAL, hint=READ_ONLY_HINT) from error
                raise SettingError(f"The SQL cannot be run: {error}.", hint=READ_ONLY_HINT) from error
    finally:
        engine.dispose()


def _query_error(connection: Connection, error: DBAPIError, where: str) -> HubvramError:
    """What is wrong with the statement, in one line, with the nearest name there is."""
    text = " ".join(str(error.orig).split())
    lower = text.lower()
    if "interrupted" in lower:
        # SQLite hands Ctrl-C on in this form.
        raise KeyboardInterrupt
    if "one statement" in lower:
        return SettingError(_SEVERAL, hint=READ_ONLY_HINT)
    if "not authorized" in lower or "prohibited" in lower or "readonly" in lower:
        return SettingError(f"The SQL does more than read ({text}).", hint=READ_ONLY_HINT)
    if (found := re.match(r"no such table: (.+)", text)) is not None:
        names = sqlite.view_names(connection)
        return SettingError(f"The cache has no table {found[1]}.", hint=_nearest(found[1], names) or _list(names))
    if (found := re.match(r"no such column: (.+)", text)) is not None:
        bare = found[1].rpartition(".")[2]
        columns = sqlite.view_columns(connection)
        hint = _nearest(bare, columns) or '`hubvram sql "select * from models limit 1"` shows the columns of a view.'
        return SettingError(f"The SQL names a column that is not there: {found[1]}.", hint=hint)
    if "image is malformed" in lower or "not a database" in lower or "unable to open" in lower or "locked" in lower:
        return sqlite.explain_error(error, where)
    return SettingError(f"The SQL is wrong: {text}.", hint="docs/schema.md lists the views and their columns.")


def _nearest(name: str, known: list[str]) -> str | None:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else None


def _list(names: list[str]) -> str:
    return f"Views: {', '.join(names)}."
