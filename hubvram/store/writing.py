"""The statements that write to the cache, each inside a transaction that the caller owns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table, case, delete, select, update

from hubvram.report.record import Estimate
from hubvram.snapshot.records import Snapshot
from hubvram.store import rows, sqlite
from hubvram.store import schema as s
from hubvram.version import __version__

if TYPE_CHECKING:
    from hubvram.estimator import Description

DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit hash, which never changes its meaning."""
    return _COMMIT.fullmatch(revision) is not None


def digest(settings_key: str) -> str:
    """The settings key as the table keeps it: 64 characters however long the settings."""
    return hashlib.sha256(settings_key.encode("utf-8")).hexdigest()


@lru_cache(maxsize=1)
def hub_version() -> str | None:
    """Version of the installed huggingface_hub, None where there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("huggingface_hub")
    except PackageNotFoundError:
        return None


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """Config and tensors alone, encoded: equal for all commits and mirrors that share them."""
    from hubvram.snapshot.codec import encode

    return encode(
        replace(
            snapshot,
            repo_id="",
            requested_revision="",
            commit_sha=None,
            endpoint=None,
            source="cache",
            files=(),
            metadata={},
            warnings=(),
        )
    )


def unpack_snapshot(data: bytes, **identity: Any) -> Snapshot:
    """The reverse of `pack_snapshot`; ``identity`` is every field that is kept in columns."""
    from hubvram.snapshot.codec import decode

    return replace(decode(data), **identity)


def upsert(connection: Connection, table: Table, keys: Sequence[str], *items: Mapping[str, Any]) -> None:
    """Insert rows (all with the same columns), or update those with the same ``keys``."""
    if not items:
        return
    statement = sqlite.insert(table)
    rest = {name: statement.excluded[name] for name in items[0] if name not in keys}
    connection.execute(
        statement.on_conflict_do_update(index_elements=list(keys), set_=rest), [dict(item) for item in items]
    )


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """Everything that is written for a repo at a commit, worked out before the write lock is taken."""

    identity: Mapping[str, str]
    """endpoint, repo_id, commit_sha."""
    row: Mapping[str, Any]
    blob: Mapping[str, Any]
    children: tuple[tuple[Table, list[rows.Row]], ...]
    """Tables below the model, with their rows."""
    asked: tuple[str, ...]
    """Every name of the repo that is known to lead to this commit."""
    revision: str


def prepare_model(
    snapshot: Snapshot, description: Description, key: tuple[str, str, str], asked_repo_id: str | None
) -> PreparedModel:
    """Encode and group a snapshot: the slow part of writing, for models of many tensors."""
    endpoint, repo_id, commit_sha = key
    data = pack_snapshot(snapshot)
    blob_hash = hashlib.sha256(data).hexdigest()
    return PreparedModel(
        identity={"endpoint": endpoint, "repo_id": repo_id, "commit_sha": commit_sha},
        row=rows.model_row(snapshot, description)
        | {
            "is_newest": False,
            "hub_version": hub_version(),
            "hubvram_version": __version__,
            "blob_hash": blob_hash,
        },
        blob={"hash": blob_hash, "size": len(data), "data": data},
        children=(
            (s.parameters, rows.parameter_rows(description.parameters)),
            (s.tensors, rows.tensor_rows(snapshot.tensors)),
            (s.files, rows.file_rows(snapshot.files)),
        ),
        asked=tuple(sorted({repo_id, asked_repo_id or repo_id})),
        revision=snapshot.requested_revision,
    )


def put_model(connection: Connection, model: PreparedModel, now: str) -> int:
    """Write a repo at a commit with all that hangs below it, and return its row number."""
    endpoint, repo_id, commit_sha = (model.identity[k] for k in ("endpoint", "repo_id", "commit_sha"))
    upsert(connection, s.blobs, ("hash",), model.blob)
    upsert(connection, s.models, tuple(model.identity), {**model.identity, **model.row, "fetched_at": now})
    m = s.models.c
    model_id = int(
        connection.execute(
            select(m.id).where(m.endpoint == endpoint, m.repo_id == repo_id, m.commit_sha == commit_sha)
        ).scalar_one()
    )
    for table, items in model.children:
        connection.execute(delete(table).where(table.c.model_id == model_id))
        if items:
            connection.execute(table.insert(), [{"model_id": model_id, **item} for item in items])
    for name in model.asked:
        _put_ref(connection, endpoint, name, model.revision, model_id, now)
    choose_newest(connection, endpoint, repo_id, model_id if model.revision == DEFAULT_REVISION else None)
    e = s.errors.c
    connection.execute(
        delete(s.errors).where(e.endpoint.in_((endpoint, "")), e.repo_id.in_(model.asked), e.revision == model.revision)
    )
    return model_id


def _model_id(connection: Connection, endpoint: str, repo_id: str, commit_sha: str) -> int | None:
    m = s.models.c
    return connection.execute(
        select(m.id).where(m.endpoint == endpoint, m.repo_id == repo_id, m.commit_sha == commit_sha)
    ).scalar()


def _put_ref(connection: Connection, endpoint: str, repo_id: str, revision: str, model_id: int, now: str) -> None:
    row = {"endpoint": endpoint, "repo_id": repo_id, "revision": revision, "model_id": model_id, "checked_at": now}
    upsert(connection, s.refs, ("endpoint", "repo_id", "revision"), row)


def choose_newest(connection: Connection, endpoint: str, repo_id: str, newest: int | None = None) -> None:
    """Mark one commit of a repo as the newest: the one given, else what `main` meant last, else the last fetched."""
    m, r = s.models.c, s.refs.c
    mine = (m.endpoint == endpoint) & (m.repo_id == repo_id)
    if newest is None:
        newest = connection.execute(
            select(r.model_id)
            .select_from(s.refs.join(s.models, m.id == r.model_id))
            .where(mine, r.revision == DEFAULT_REVISION)
            .order_by(r.checked_at.desc(), r.model_id.desc())
            .limit(1)
        ).scalar()
    if newest is None:
        newest = connection.execute(
            select(m.id).where(mine).order_by(m.fetched_at.desc(), m.id.desc()).limit(1)
        ).scalar()
    connection.execute(update(s.models).where(mine).values(is_newest=case((m.id == newest, True), else_=False)))


def touch_ref(connection: Connection, endpoint: str, repo_id: str, revision: str, commit_sha: str, now: str) -> bool:
    """Point a ref at a commit that is stored, and say whether it is."""
    m, r = s.models.c, s.refs.c
    canonical = connection.execute(
        select(m.repo_id)
        .select_from(s.refs.join(s.models, m.id == r.model_id))
        .where(r.endpoint == endpoint, r.repo_id == repo_id)
        .order_by(r.checked_at.desc())
        .limit(1)
    ).scalar()
    name = canonical or repo_id
    model_id = _model_id(connection, endpoint, name, commit_sha)
    if model_id is None:
        return False
    for asked in sorted({repo_id, name}):
        _put_ref(connection, endpoint, asked, revision, model_id, now)
    if revision == DEFAULT_REVISION:
        choose_newest(connection, endpoint, name, model_id)
    return True


def put_estimates(
    connection: Connection,
    model_id: int,
    settings_key: str,
    formula_version: int,
    estimates: Sequence[Estimate],
    *,
    applied: Mapping[str, Any],
    warnings: Sequence[str],
    now: str,
    explain: bool,
) -> None:
    """Write estimates below the run of their settings, which is made where it is not there."""
    r = s.runs.c
    identity = {"model_id": model_id, "settings_key": digest(settings_key), "formula_version": formula_version}
    row = rows.run_row(settings_key, applied, warnings) | {
        "is_newest": False,
        "estimated_at": now,
        "hubvram_version": __version__,
    }
    upsert(connection, s.runs, tuple(identity), identity | row)
    same = (r.model_id == model_id) & (r.settings_key == identity["settings_key"])
    versions = connection.execute(select(r.formula_version, r.id).where(same)).all()
    newest = max(version for version, _ in versions)
    connection.execute(
        update(s.runs).where(same).values(is_newest=case((r.formula_version == newest, True), else_=False))
    )
    run_id = next(run for version, run in versions if version == formula_version)
    items = [{"run_id": run_id, **rows.estimate_row(e, position)} for position, e in enumerate(estimates)]
    upsert(connection, s.estimates, ("run_id", "method"), *items)
    x = s.explanations.c
    # An explanation of an earlier estimate must not stand beside new figures.
    connection.execute(delete(s.explanations).where(x.run_id == run_id, x.method.in_([e.method for e in estimates])))
    packed = [(e.method, rows.pack_explanation(e)) for e in estimates] if explain else []
    kept = [{"run_id": run_id, "method": method, "data": data} for method, data in packed if data is not None]
    if kept:
        connection.execute(s.explanations.insert(), kept)


def put_error(
    connection: Connection,
    *,
    endpoint: str,
    repo_id: str,
    revision: str,
    code: str,
    message: str,
    hint: str | None,
    scan_id: int | None,
    now: str,
) -> None:
    """Write a failure; a repeated one counts up."""
    keys = {"endpoint": endpoint, "repo_id": repo_id, "revision": revision}
    row = {
        "code": code,
        "message": message,
        "hint": hint,
        "times": 1,
        "first_seen_at": now,
        "last_seen_at": now,
        "scan_id": scan_id,
        "hubvram_version": __version__,
    }
    statement = sqlite.insert(s.errors).values(keys | row)
    again = {name: statement.excluded[name] for name in row if name not in ("times", "first_seen_at")}
    connection.execute(
        statement.on_conflict_do_update(index_elements=list(keys), set_={**again, "times": s.errors.c.times + 1})
    )


def start_scan(connection: Connection, total: int | None, settings_key: str | None, now: str) -> int:
    """Begin a row of ``_scans`` and return its number."""
    made = connection.execute(
        s.scans.insert().values(
            started_at=now, status="running", total=total, settings=settings_key, hubvram_version=__version__
        )
    )
    (number,) = made.inserted_primary_key or (0,)
    return int(number)


def finish_scan(connection: Connection, scan_id: int, ok: int, failed: int, interrupted: bool, now: str) -> None:
    """Complete a row of ``_scans``."""
    connection.execute(
        update(s.scans)
        .where(s.scans.c.id == scan_id)
        .values(finished_at=now, status="interrupted" if interrupted else "finished", ok=ok, failed=failed)
    )
