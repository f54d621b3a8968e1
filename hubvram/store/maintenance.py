"""Looking after the cache: what it holds, whether it is sound, what can go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, case, delete, func, select

from hubvram.store import migrate, sqlite, writing
from hubvram.store import schema as s

if TYPE_CHECKING:
    from hubvram.store.store import Store


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a cache holds."""

    location: str
    """Path, or URL without secrets."""
    schema_version: str
    journal_mode: str
    """``wal``, or ``delete`` on drives that cannot do it."""
    size_bytes: int
    repos: int
    commits: int
    estimates: int
    errors: int
    scans: int
    blob_bytes: int
    """Encoded snapshots, part of size_bytes."""
    oldest_fetched_at: str | None
    newest_fetched_at: str | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune` removed."""

    commits: int
    runs: int
    errors: int
    blobs: int
    freed_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def stats(store: Store) -> StoreStats:
    """Count everything."""
    m = s.models.c
    with store.read() as connection:

        def count(table: Any, *where: Any) -> int:
            return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())

        oldest, newest = connection.execute(select(func.min(m.fetched_at), func.max(m.fetched_at))).one()
        return StoreStats(
            location=store.where,
            schema_version=migrate.HEAD,
            journal_mode=sqlite.journal_mode(connection),
            size_bytes=sqlite.size_bytes(store.engine.url),
            repos=count(s.models, m.is_newest),
            commits=count(s.models),
            estimates=count(s.estimates),
            errors=count(s.errors),
            scans=count(s.scans),
            blob_bytes=int(connection.execute(select(func.coalesce(func.sum(s.blobs.c.size), 0))).scalar_one()),
            oldest_fetched_at=oldest,
            newest_fetched_at=newest,
        )


def check(store: Store) -> list[str]:
    """What is wrong, a line each: the file, its references, and facts that are stored twice against each other."""
    with store.read() as connection:
        problems = sqlite.integrity_problems(connection)
        if problems:
            # Sums over a damaged file would only add noise.
            return problems
        problems += sqlite.foreign_key_problems(connection)
        problems += _newest_problems(connection)
        problems += _sum_problems(connection)
        problems += _peak_problems(connection)
        problems += _blob_problems(connection)
    return problems


def _newest_problems(connection: Connection) -> Iterator[str]:
    m = s.models.c
    marked = func.sum(case((m.is_newest, 1), else_=0))
    query = select(m.repo_id, m.endpoint, marked).group_by(m.endpoint, m.repo_id).having(marked != 1)
    for repo_id, endpoint, found in connection.execute(query):
        yield f"{repo_id} at {endpoint} has {found} newest commits instead of one"


def _sum_problems(connection: Connection) -> Iterator[str]:
    """Parameters and bytes of a model against the sums of the rows below it."""
    m = s.models.c
    for table, column, total in (
        (s.parameters, s.parameters.c.count, m.parameters),
        (s.parameters, s.parameters.c.bytes, m.stored_bytes),
        (s.tensors, s.tensors.c.parameters, m.parameters),
        (s.tensors, s.tensors.c.bytes, m.stored_bytes),
        (s.tensors, s.tensors.c.count, m.tensor_count),
    ):
        found = func.coalesce(func.sum(column), 0)
        query = (
            select(m.repo_id, m.commit_sha, total, found)
            .select_from(s.models.outerjoin(table, table.c.model_id == m.id))
            .group_by(m.id)
            # A dtype of unknown width has no bytes to compare.
            .having(total != found, func.count(column) == func.count(table.c.model_id))
        )
        for repo_id, commit_sha, expected, got in connection.execute(query):
            yield (
                f"{repo_id} at {commit_sha[:12]}: {total.name} is {expected:,}, "
                f"but {column.name} in {table.name} sums to {got:,}"
            )


def _peak_problems(connection: Connection) -> Iterator[str]:
    """The parts of the breakdown against the peak."""
    e, r, m = s.estimates.c, s.runs.c, s.models.c
    parts = e.weights_bytes + e.gradients_bytes + e.optimizer_bytes + e.activations_bytes + e.temporary_bytes
    query = (
        select(m.repo_id, e.method, e.peak_allocated_bytes, parts)
        .select_from(s.estimates.join(s.runs, r.id == e.run_id).join(s.models, m.id == r.model_id))
        .where(parts != e.peak_allocated_bytes)
    )
    for repo_id, method, expected, got in connection.execute(query):
        yield f"{repo_id}, {method}: the peak is {expected:,} bytes, but its parts sum to {got:,}"


def _blob_problems(connection: Connection) -> Iterator[str]:
    for found, size, data in connection.execute(select(s.blobs.c.hash, s.blobs.c.size, s.blobs.c.data)):
        if len(data) != size or hashlib.sha256(data).hexdigest() != found:
            yield f"the encoded snapshot {found[:12]} is not what was written"


def prune(store: Store, *, unchecked_days: int | None = None) -> Pruned:
    """Remove what nothing leads to any more, and give the space back.

    That is: commits that no ref points at, runs whose formulas have been
    superseded, blobs without a model.

    Args:
        store: the cache.
        unchecked_days: also remove refs that the Hub has not confirmed for so
            many days, with the commits that only they point at, and errors as old.
    """
    before = sqlite.size_bytes(store.engine.url)
    m = s.models.c
    with store.write() as connection:

        def drop(table: Any, *where: Any) -> int:
            return max(0, connection.execute(delete(table).where(*where)).rowcount)

        errors = 0
        if unchecked_days is not None:
            limit = store.timestamp_before(timedelta(days=unchecked_days))
            drop(s.refs, s.refs.c.checked_at < limit)
            errors = drop(s.errors, s.errors.c.last_seen_at < limit)
        led_to = select(s.refs.c.model_id)
        repos = connection.execute(
            select(m.endpoint, m.repo_id).where(m.id.not_in(led_to), m.is_newest).distinct()
        ).all()
        commits = drop(s.models, m.id.not_in(led_to))
        for endpoint, repo_id in repos:
            writing.choose_newest(connection, endpoint, repo_id)
        runs = drop(s.runs, ~s.runs.c.is_newest)
        blobs = drop(s.blobs, s.blobs.c.hash.not_in(select(m.blob_hash)))
    with store.exclusive():
        sqlite.compact(store.engine)
    freed = max(0, before - sqlite.size_bytes(store.engine.url))
    return Pruned(commits=commits, runs=runs, errors=errors, blobs=blobs, freed_bytes=freed)
