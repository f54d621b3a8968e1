"""The cache: snapshots and estimates in, finished reports out.

::

    with open_store() as store:
        found = store.load_report(endpoint, "org/name", "main", settings.key(), FORMULA_VERSION, methods)
        if found is None or found.missing:
            ...fetch and estimate...
            store.save_report(snapshot, description, report, settings_key=settings.key(), ...)

A finished report is read without touching the tensor list, and without alembic
or the estimator being imported. Each write is one transaction: after a crash
or Ctrl-C a repo is there in full or not at all. A `Store` may be shared by
threads. Folders on disk have no commit and are not kept.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, select

from hubvram.errors import StoreError
from hubvram.report.record import Estimate, Report
from hubvram.snapshot.records import Snapshot
from hubvram.store import opening, reading, sqlite, writing
from hubvram.store import schema as s
from hubvram.store.location import location
from hubvram.store.reading import CachedReport, CachedSnapshot, ModelKey

if TYPE_CHECKING:
    from typing_extensions import Self

    from hubvram.estimator import Description
    from hubvram.sources.records import KnownFile
    from hubvram.store.maintenance import Pruned, StoreStats

__all__ = ["CachedReport", "CachedSnapshot", "ModelKey", "Store", "open_store", "utc_now"]


def utc_now() -> datetime:
    """The clock of the store."""
    return datetime.now(timezone.utc)


def open_store(
    db: str | os.PathLike[str] | None = None, *, create: bool = True, now: Callable[[], datetime] = utc_now
) -> Store:
    """Open the cache, making and migrating it as needed.

    Args:
        db: path or SQLAlchemy URL; default ``HUBVRAM_DB``, else the user's cache folder.
        create: whether to make a cache that is not there.
        now: the clock, for tests.

    Raises:
        StoreError: if it cannot be opened; the message says why in one line.
            A caller may go on without a cache.
        SchemaTooNewError: if a newer hubvram wrote it.
    """
    url = opening.parse_url(location(db))
    return Store(opening.open_engine(url, create=create), opening.display(url), now)


class Store:
    """An open cache. Made by `open_store`; closed by ``close`` or ``with``.

    Every method raises StoreError, in one line, when the database fails.
    """

    def __init__(self, engine: Engine, where: str, now: Callable[[], datetime] = utc_now) -> None:
        self.where = where
        """The cache as messages name it: a path, or a URL without secrets."""
        self.engine = engine
        self._now = now
        # SQLite has one writer at a time; threads queue here and not in its busy loop.
        self._writer = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back. The store cannot be used afterwards."""
        self.engine.dispose()

    def timestamp(self) -> str:
        """The time now, as the tables have it: UTC, ISO 8601, whole seconds."""
        return self.timestamp_before(timedelta())

    def timestamp_before(self, age: timedelta) -> str:
        """The time that was ``age`` ago, as the tables have it."""
        return (self._now() - age).astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in one read transaction."""
        with opening.store_errors(self.where), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection in one write transaction, committed at the end and rolled back on any exception."""
        with (
            self._writer,
            opening.store_errors(self.where),
            self.engine.connect() as connection,
            connection.execution_options(**{sqlite.WRITE_OPTION: True}).begin(),
        ):
            yield connection

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other thread writes; for what cannot run inside a transaction."""
        with self._writer, opening.store_errors(self.where):
            yield

    # --- reading -----------------------------------------------------------------------------

    def load_report(
        self,
        endpoint: str,
        repo_id: str,
        revision: str | None,
        settings_key: str,
        formula_version: int,
        methods: Sequence[str] | None = None,
        *,
        explain: bool = False,
    ) -> CachedReport | None:
        """The finished report of a repo under some settings; three small queries, no blob.

        Args:
            endpoint: the Hub.
            repo_id: as asked for; a name that redirected when it was saved is found again.
            revision: branch, tag or commit as asked for; None = ``main``.
            settings_key: `Settings.key()`.
            formula_version: of the estimator.
            methods: which, and in which order; None = all that are stored.
            explain: whether to load marks and tensors too.

        Returns:
            None if the commit is not known. If it is, but some methods are not
            stored, they are named in ``missing``.
        """
        with self.read() as connection:
            model = reading.find_model(connection, endpoint, repo_id, revision, reading.REPORT_COLUMNS)
            if model is None:
                return None
            counts = reading.load_counts(connection, model)
            run, found = reading.load_run(connection, model["id"], settings_key, formula_version, methods, explain)
        wanted = list(found) if methods is None else list(methods)
        report = Report(
            repo_id=model["repo_id"],
            requested_revision=revision or writing.DEFAULT_REVISION,
            commit_sha=model["commit_sha"],
            endpoint=model["endpoint"],
            source="cache",
            model_type=model["model_type"],
            architecture=model["architecture"],
            parameters=counts,
            settings=json.loads(run["applied_settings"]) if run else {},
            estimates=tuple(found[m] for m in wanted if m in found),
            warnings=tuple(json.loads(run["warnings"])) if run else (),
        )
        return CachedReport(
            key=reading.key_of(model),
            report=report,
            missing=tuple(m for m in wanted if m not in found),
            fetched_at=model["fetched_at"],
            checked_at=model["checked_at"] or model["fetched_at"],
            estimated_at=run["estimated_at"] if run else None,
        )

    def load_snapshot(self, endpoint: str, repo_id: str, revision: str | None = None) -> CachedSnapshot | None:
        """A repo as it was read, every tensor of it; None if the commit is not known.

        Arguments as in `load_report`.
        """
        with self.read() as connection:
            model = reading.find_model(connection, endpoint, repo_id, revision, (*s.models.columns,))
            if model is None:
                return None
            data = connection.execute(select(s.blobs.c.data).where(s.blobs.c.hash == model["blob_hash"])).scalar_one()
            counts = reading.load_counts(connection, model)
            files = reading.load_files(connection, model["id"])
        from hubvram.estimator import Description

        snapshot = writing.unpack_snapshot(
            data,
            repo_id=model["repo_id"],
            requested_revision=revision or writing.DEFAULT_REVISION,
            commit_sha=model["commit_sha"],
            endpoint=model["endpoint"],
            source="cache",
            files=files,
            metadata=json.loads(model["metadata"]),
            warnings=tuple(json.loads(model["warnings"])),
        )
        description = Description(
            model_type=model["model_type"],
            architecture=model["architecture"],
            family=model["family"],
            parameters=counts,
            max_seq_len=model["max_seq_len"],
            warnings=tuple(json.loads(model["description_warnings"])),
        )
        return CachedSnapshot(
            reading.key_of(model),
            snapshot,
            description,
            model["fetched_at"],
            model["checked_at"] or model["fetched_at"],
        )

    def load_estimates(
        self,
        key: ModelKey,
        settings_key: str,
        formula_version: int,
        methods: Sequence[str] | None = None,
        *,
        explain: bool = False,
    ) -> dict[str, Estimate]:
        """The stored estimates of one model by method; arguments as in `load_report`."""
        with self.read() as connection:
            model = reading.find_model(connection, key.endpoint, key.repo_id, key.commit_sha, (s.models.c.id,))
            if model is None:
                return {}
            return reading.load_run(connection, model["id"], settings_key, formula_version, methods, explain)[1]

    def known_files(self, endpoint: str, hashes: Collection[str]) -> dict[str, KnownFile]:
        """What is known of files with these content hashes; see `hubvram.store.contents`."""
        from hubvram.store.contents import known_files

        with self.read() as connection:
            return known_files(connection, reading.normal_endpoint(endpoint), hashes)

    # --- writing -----------------------------------------------------------------------------

    def save_report(
        self,
        snapshot: Snapshot,
        description: Description,
        report: Report,
        *,
        settings_key: str,
        formula_version: int,
        asked_repo_id: str | None = None,
        explain: bool = True,
    ) -> ModelKey:
        """Keep a repo and its estimates, in one transaction; earlier estimates of other methods stay.

        Args:
            snapshot: as read from the Hub.
            description: of the snapshot.
            report: its settings (as applied), estimates and warnings are kept.
            settings_key: `Settings.key()`.
            formula_version: of the estimator.
            asked_repo_id: the name the user gave, where the Hub redirected it.
            explain: whether to keep marks and tensors for ``--explain``; they are most of the bytes.

        Raises:
            StoreError: for a folder, which has no commit, and if writing fails.
        """
        key = _key_for(snapshot)
        prepared = writing.prepare_model(snapshot, description, key, asked_repo_id)
        with self.write() as connection:
            model_id = writing.put_model(connection, prepared, self.timestamp())
            writing.put_estimates(
                connection,
                model_id,
                settings_key,
                formula_version,
                report.estimates,
                applied=report.settings,
                warnings=report.warnings,
                now=self.timestamp(),
                explain=explain,
            )
        return key

    def save_snapshot(
        self, snapshot: Snapshot, description: Description, *, asked_repo_id: str | None = None
    ) -> ModelKey:
        """Keep a repo without estimates; arguments as in `save_report`."""
        key = _key_for(snapshot)
        prepared = writing.prepare_model(snapshot, description, key, asked_repo_id)
        with self.write() as connection:
            writing.put_model(connection, prepared, self.timestamp())
        return key

    def save_estimates(
        self,
        key: ModelKey,
        settings_key: str,
        formula_version: int,
        estimates: Sequence[Estimate],
        *,
        applied: Mapping[str, Any],
        warnings: Sequence[str] = (),
        explain: bool = True,
    ) -> None:
        """Keep estimates of a model that is stored already; ``applied`` is the settings as applied.

        Raises:
            StoreError: if the model is not stored.
        """
        with self.write() as connection:
            model = reading.find_model(connection, key.endpoint, key.repo_id, key.commit_sha, (s.models.c.id,))
            if model is None:
                raise StoreError(f"{key.repo_id} at {key.commit_sha} is not in the cache {self.where}.")
            writing.put_estimates(
                connection,
                model["id"],
                settings_key,
                formula_version,
                estimates,
                applied=applied,
                warnings=warnings,
                now=self.timestamp(),
                explain=explain,
            )

    def touch_ref(self, endpoint: str, repo_id: str, revision: str | None, commit_sha: str) -> bool:
        """Note that the Hub says just now that a revision means this commit.

        Returns:
            Whether the commit is stored; if not, nothing is noted and the repo must be fetched.
        """
        with self.write() as connection:
            return writing.touch_ref(
                connection,
                reading.normal_endpoint(endpoint),
                repo_id,
                revision or writing.DEFAULT_REVISION,
                commit_sha,
                self.timestamp(),
            )

    def save_error(
        self,
        repo_id: str,
        revision: str | None,
        code: str,
        message: str,
        hint: str | None = None,
        *,
        endpoint: str | None = None,
        scan_id: int | None = None,
    ) -> None:
        """Keep why a repo could not be read; a later `save_report` or `save_snapshot` of it removes the row."""
        with self.write() as connection:
            writing.put_error(
                connection,
                endpoint=reading.normal_endpoint(endpoint or ""),
                repo_id=repo_id,
                revision=revision or writing.DEFAULT_REVISION,
                code=code,
                message=message,
                hint=hint,
                scan_id=scan_id,
                now=self.timestamp(),
            )

    def start_scan(self, *, total: int | None = None, settings_key: str | None = None) -> int:
        """Begin a row of ``scans`` and return its number."""
        with self.write() as connection:
            return writing.start_scan(connection, total, settings_key, self.timestamp())

    def finish_scan(self, scan_id: int, *, ok: int, failed: int, interrupted: bool = False) -> None:
        """Complete a row of ``scans``."""
        with self.write() as connection:
            writing.finish_scan(connection, scan_id, ok, failed, interrupted, self.timestamp())

    # --- maintenance -------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """What the cache holds."""
        from hubvram.store import maintenance

        return maintenance.stats(self)

    def check(self) -> list[str]:
        """What is wrong with the cache, a line each; empty when it is sound."""
        from hubvram.store import maintenance

        return maintenance.check(self)

    def prune(self, *, unchecked_days: int | None = None) -> Pruned:
        """Remove what nothing leads to any more: see `hubvram.store.maintenance.prune`."""
        from hubvram.store import maintenance

        return maintenance.prune(self, unchecked_days=unchecked_days)


def _key_for(snapshot: Snapshot) -> ModelKey:
    if snapshot.commit_sha is None or snapshot.endpoint is None:
        raise StoreError(f"{snapshot.repo_id} is a folder: the cache keeps only what has a commit on a Hub.")
    return ModelKey(reading.normal_endpoint(snapshot.endpoint), snapshot.repo_id, snapshot.commit_sha)
