"""What alembic runs: migrations on the connection that `hubvram.store.migrate` hands over.

The caller owns the transaction and its lock, so nothing is committed here. From
alembic's own command line (``alembic revision --autogenerate``, for developers)
there is no such connection, and the cache of `hubvram.store.location` is used.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from hubvram.store.migrate import VERSION_TABLE
from hubvram.store.schema import metadata


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        include_schemas=False,
    )
    with context.begin_transaction():
        context.run_migrations()


def _run_alone() -> None:
    from hubvram.store import sqlite
    from hubvram.store.location import location
    from hubvram.store.opening import parse_url

    with sqlite.migration_lock(sqlite.make_engine(parse_url(location()))) as connection:
        _run(connection)


given = context.config.attributes.get("connection")
if given is None:
    _run_alone()
else:
    _run(given)
