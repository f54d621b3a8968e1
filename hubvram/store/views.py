"""The public face of the cache: the views that people query.

Tables may change by migration, the views stay. They are rebuilt from here
whenever a migration runs. A byte column gets a twin in GiB next to it
(``total_bytes`` -> ``total_gib``), rounded to 3 decimals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Dialect, Double, FromClause, Numeric, Select, Table, cast, func, select, true

from hubvram.store import schema as s

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """One column of a view: its name, what it is made of, and its text."""

    name: str
    element: Any
    doc: str


@dataclass(frozen=True, slots=True)
class View:
    """One view: name, text, columns and where the rows come from."""

    name: str
    doc: str
    columns: tuple[ViewColumn, ...]
    build: Callable[[], tuple[FromClause, Any]]
    """Gives the FROM clause and the WHERE condition (None for all rows)."""

    def select(self) -> Select[Any]:
        """The query behind the view."""
        source, where = self.build()
        query = select(*(c.element.label(c.name) for c in self.columns)).select_from(source)
        return query if where is None else query.where(where)

    def create(self, dialect: Dialect) -> str:
        """The CREATE VIEW statement."""
        # By hand: SQLAlchemy has a construct for it only from 2.1, which needs Python 3.11.
        query = self.select().compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        return f"CREATE VIEW {self.name} AS {query}"

    def drop(self) -> str:
        """The DROP VIEW statement, for a view that may not be there."""
        return f"DROP VIEW IF EXISTS {self.name}"


def _gib(column: Any) -> Any:
    # CAST ... NUMERIC is a no-op for SQLite and what PostgreSQL's round() wants.
    return func.round(cast(column / float(GIB), Numeric), 3, type_=Double)


def _columns(table: Table, *names: str) -> tuple[ViewColumn, ...]:
    """Columns of a table with their texts, each ``*_bytes`` followed by its GiB twin."""
    made: list[ViewColumn] = []
    for name in names:
        column = table.columns[name]
        made.append(ViewColumn(name, column, column.comment or ""))
        if name == "bytes" or name.endswith("_bytes"):
            made.append(ViewColumn(name[: -len("bytes")] + "gib", _gib(column), f"`{name}` in GiB."))
    return tuple(made)


def _rest(table: Table, *without: str) -> tuple[str, ...]:
    return tuple(c.name for c in table.columns if c.name not in without)


_IDENTITY = _columns(s.models, "repo_id", "commit_sha", "endpoint")
_MODEL = _columns(
    s.models,
    "repo_id",
    "commit_sha",
    "author",
    "model_type",
    "architecture",
    "family",
    "parameters",
    "dtype",
    "stored_bytes",
    "logical_parameters",
    "logical_note",
    "tensor_count",
    "max_seq_len",
    "gated",
    "library_name",
    "pipeline_tag",
    "fetched_at",
    "hub_version",
    "hubvram_version",
    "endpoint",
    "metadata",
    "warnings",
    "config",
)
_RUN = _columns(
    s.runs,
    *s.SETTING_COLUMNS,
    *s.SETTING_JSON_COLUMNS,
    "applied_settings",
    "settings_key",
    "formula_version",
    "hubvram_version",
    "estimated_at",
)
_ESTIMATE = (
    *_columns(s.models, "repo_id", "commit_sha"),
    *_columns(s.estimates, *_rest(s.estimates, "run_id", "position", "header_bytes")),
    *_RUN,
    *_columns(s.models, "endpoint"),
)
_NEWEST_MODEL = s.models.c.is_newest.is_(true())


def _below_models(table: Table) -> Callable[[], tuple[FromClause, Any]]:
    return lambda: (table.join(s.models, s.models.c.id == table.c.model_id), _NEWEST_MODEL)


def _estimates_from() -> FromClause:
    return s.estimates.join(s.runs, s.runs.c.id == s.estimates.c.run_id).join(
        s.models, s.models.c.id == s.runs.c.model_id
    )


VIEWS: tuple[View, ...] = (
    View(
        "models",
        "A row per repo, at its newest known commit.",
        _MODEL,
        lambda: (s.models, _NEWEST_MODEL),
    ),
    View(
        "parameters",
        "Exact parameter counts: a row per repo and dtype, at the newest known commit.",
        (*_IDENTITY[:1], *_columns(s.parameters, "dtype", "count", "bytes"), *_IDENTITY[1:]),
        _below_models(s.parameters),
    ),
    View(
        "tensors",
        "Groups of tensors that differ only by the numbers in their names, at the newest known commit.",
        (
            *_IDENTITY[:1],
            *_columns(s.tensors, "name", "dtype", "shape", "count", "parameters", "bytes"),
            *_IDENTITY[1:],
        ),
        _below_models(s.tensors),
    ),
    View(
        "files",
        "Files of each repo and what was made of them, at the newest known commit.",
        (
            *_IDENTITY[:1],
            *_columns(s.files, "path", "role", "reason", "size"),
            ViewColumn("size_gib", _gib(s.files.c.size), "`size` in GiB."),
            ViewColumn("header_bytes", s.files.c.header_bytes, s.files.c.header_bytes.comment or ""),
            *_columns(s.files, "content_hash"),
            *_IDENTITY[1:],
        ),
        _below_models(s.files),
    ),
    View(
        "estimates",
        "A row per repo, method and set of settings, at the newest known commit and by the newest formulas.",
        _ESTIMATE,
        lambda: (_estimates_from(), _NEWEST_MODEL & s.runs.c.is_newest.is_(true())),
    ),
    View(
        "errors",
        "Repos that could not be read when last tried.",
        _columns(
            s.errors,
            "repo_id",
            "revision",
            "code",
            "message",
            "hint",
            "times",
            "first_seen_at",
            "last_seen_at",
            "scan_id",
            "hubvram_version",
            "endpoint",
        ),
        lambda: (s.errors, None),
    ),
    View("scans", "Runs of `hubvram scan`.", _columns(s.scans, *_rest(s.scans)), lambda: (s.scans, None)),
    View(
        "model_history",
        "Like `models`, with every commit that is stored.",
        (*_MODEL, *_columns(s.models, "is_newest")),
        lambda: (s.models, None),
    ),
    View(
        "estimate_history",
        "Like `estimates`, with every commit and every version of the formulas that is stored.",
        _ESTIMATE,
        lambda: (_estimates_from(), None),
    ),
)

VIEW_NAMES: tuple[str, ...] = tuple(v.name for v in VIEWS)
