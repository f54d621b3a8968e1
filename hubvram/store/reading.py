"""What the store reads, and the statements that read it, on a connection that the caller owns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Select, and_, or_, select

from hubvram.report.record import Estimate, ParameterCounts, Report
from hubvram.snapshot.records import FileInfo, Snapshot
from hubvram.store import rows, writing
from hubvram.store import schema as s

if TYPE_CHECKING:
    from hubvram.estimator import Description


class ModelKey(NamedTuple):
    """What tells one stored model from another."""

    endpoint: str
    repo_id: str
    """Canonical, as the Hub spells it."""
    commit_sha: str


@dataclass(frozen=True, slots=True)
class CachedSnapshot:
    """A snapshot from the cache, with its age."""

    key: ModelKey
    snapshot: Snapshot
    """With ``source == "cache"``."""
    description: Description
    fetched_at: str
    """When the commit was read from the Hub (UTC, ISO 8601)."""
    checked_at: str
    """When the Hub last said that the revision means this commit."""


@dataclass(frozen=True, slots=True)
class CachedReport:
    """A finished report from the cache, with its age and its gaps."""

    key: ModelKey
    report: Report
    """With ``source == "cache"``; estimates in the order asked for. ``gpus`` are the cards asked about when saved."""
    missing: tuple[str, ...]
    """Methods asked for that are not stored."""
    fetched_at: str
    checked_at: str
    estimated_at: str | None
    """None where no estimate is stored."""


REPORT_COLUMNS = tuple(
    s.models.c[name]
    for name in (
        "id",
        "endpoint",
        "repo_id",
        "commit_sha",
        "model_type",
        "architecture",
        "parameters",
        "stored_bytes",
        "logical_parameters",
        "logical_note",
        "fetched_at",
    )
)
"""What a report needs of a model: not its config, not its metadata."""


def normal_endpoint(endpoint: str) -> str:
    """The Hub as the tables have it: without a trailing slash."""
    return endpoint.rstrip("/")


def key_of(model: Mapping[Any, Any]) -> ModelKey:
    """The key in a row of ``_models``."""
    return ModelKey(model["endpoint"], model["repo_id"], model["commit_sha"])


def load_counts(connection: Connection, model: Mapping[Any, Any]) -> ParameterCounts:
    """The exact counts of a model, by dtype."""
    p = s.parameters.c
    found = connection.execute(select(p.dtype, p.count).where(p.model_id == model["id"]))
    return rows.counts_from(model, ((dtype, count) for dtype, count in found))


def load_files(connection: Connection, model_id: int) -> tuple[FileInfo, ...]:
    """The files of a model, in the order of the Hub's listing."""
    found = connection.execute(select(s.files).where(s.files.c.model_id == model_id).order_by(s.files.c.position))
    return tuple(rows.file_from(row) for row in found.mappings())


def find_model(
    connection: Connection, endpoint: str, repo_id: str, revision: str | None, columns: Sequence[Any]
) -> Mapping[Any, Any] | None:
    """The model that a name and a revision mean: by ref, or by the commit itself."""
    asked = revision or writing.DEFAULT_REVISION
    hub = normal_endpoint(endpoint)
    ref = and_(
        s.refs.c.model_id == s.models.c.id,
        s.refs.c.endpoint == hub,
        s.refs.c.repo_id == repo_id,
        s.refs.c.revision == asked,
    )
    by_ref: Select[Any] = select(*columns, s.refs.c.checked_at).select_from(s.models.join(s.refs, ref))
    found = connection.execute(by_ref).mappings().first()
    if found is not None or not writing.is_commit(asked):
        return found
    alias = select(s.refs.c.model_id).where(s.refs.c.endpoint == hub, s.refs.c.repo_id == repo_id)
    canonical = select(s.models.c.repo_id).where(s.models.c.id.in_(alias))
    by_commit = (
        select(*columns, s.models.c.fetched_at.label("checked_at"))
        .where(s.models.c.endpoint == hub, s.models.c.commit_sha == asked)
        .where(or_(s.models.c.repo_id == repo_id, s.models.c.repo_id.in_(canonical)))
    )
    return connection.execute(by_commit).mappings().first()


def load_run(
    connection: Connection,
    model_id: int,
    settings_key: str,
    formula_version: int,
    methods: Sequence[str] | None,
    explain: bool,
) -> tuple[Mapping[Any, Any] | None, dict[str, Estimate]]:
    """The run and its estimates, by method and in stored order."""
    run, e, x = s.runs.c, s.estimates, s.explanations
    source = s.runs.join(e, e.c.run_id == run.id)
    columns: list[Any] = [run.applied_settings, run.warnings, run.estimated_at, *e.columns]
    if explain:
        source = source.outerjoin(x, and_(x.c.run_id == e.c.run_id, x.c.method == e.c.method))
        columns.append(x.c.data)
    query: Select[Any] = (
        select(*columns)
        .select_from(source)
        .where(
            run.model_id == model_id,
            run.settings_key == writing.digest(settings_key),
            run.formula_version == formula_version,
        )
        .order_by(e.c.position)
    )
    if methods is not None:
        query = query.where(e.c.method.in_(methods))
    found = connection.execute(query).mappings().all()
    estimates = {row["method"]: rows.estimate_from(row, row["data"] if explain else None) for row in found}
    return (found[0] if found else None), estimates
