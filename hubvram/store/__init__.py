"""The cache: SQLite through SQLAlchemy, migrated on open, with views that people query.

`hubvram.store.location` says where it is (light), `hubvram.store.store` opens,
reads and writes it, `hubvram.store.query` runs people's SQL on it. The names
below are imported when first used: SQLAlchemy is not loaded before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubvram.store.query import QueryResult, run_query
    from hubvram.store.store import CachedReport, CachedSnapshot, ModelKey, Store, open_store

__all__ = [
    "CachedReport",
    "CachedSnapshot",
    "ModelKey",
    "QueryResult",
    "Store",
    "open_store",
    "run_query",
]

_HOMES = {
    "CachedReport": "store",
    "CachedSnapshot": "store",
    "ModelKey": "store",
    "QueryResult": "query",
    "Store": "store",
    "open_store": "store",
    "run_query": "query",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
