"""Files by their content: what any stored model has read of a file with the same hash.

A commit that touches only the README, a fork, a mirror of the repo under
another name: their weights have the same hashes in the Hub's listing, and what
was read of one holds for all. Only within one Hub: another one may claim any hash.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, select

from hubvram.snapshot.dtypes import size_in_bytes
from hubvram.snapshot.header import LENGTH_BYTES, Header
from hubvram.snapshot.records import FileInfo, Snapshot
from hubvram.snapshot.text import shown
from hubvram.sources.records import KnownFile
from hubvram.store import reading, writing
from hubvram.store import schema as s

_AT_ONCE = 500
"""Hashes in one statement."""
_CONFIG_KEYS = {"adapter": "adapter_config", "pipeline": "model_index"}


def known_files(connection: Connection, endpoint: str, hashes: Collection[str]) -> dict[str, KnownFile]:
    """What is known of files with these content hashes, from as few stored models as will do."""
    places = _places(connection, endpoint, hashes)
    found: dict[str, KnownFile] = {}
    open_hashes = {h for held in places.values() for h in held}
    while open_hashes:
        model_id = max(places, key=lambda m: (len(open_hashes & places[m].keys()), m))
        held = open_hashes & places[model_id].keys()
        if not held:
            break
        snapshot = _snapshot(connection, model_id)
        by_path = {f.path: f for f in snapshot.files}
        for content_hash in held:
            found[content_hash] = _known(snapshot, by_path[places[model_id][content_hash]])
        open_hashes -= held
    return found


def _places(connection: Connection, endpoint: str, hashes: Collection[str]) -> dict[int, dict[str, str]]:
    """Per model: which of the hashes it has, and at which path."""
    f, m = s.files.c, s.models.c
    places: dict[int, dict[str, str]] = {}
    rest = iter(sorted(hashes))
    while batch := list(islice(rest, _AT_ONCE)):
        rows = connection.execute(
            select(f.model_id, f.content_hash, f.path)
            .select_from(s.files.join(s.models, m.id == f.model_id))
            .where(m.endpoint == endpoint, f.content_hash.in_(batch), f.role != "ignored")
        )
        for model_id, content_hash, path in rows:
            places.setdefault(model_id, {})[content_hash] = path
    return places


def _snapshot(connection: Connection, model_id: int) -> Snapshot:
    m = s.models.c
    row = connection.execute(select(m.blob_hash, m.metadata, m.warnings).where(m.id == model_id)).one()
    data = connection.execute(select(s.blobs.c.data).where(s.blobs.c.hash == row.blob_hash)).scalar_one()
    return writing.unpack_snapshot(
        data,
        files=reading.load_files(connection, model_id),
        metadata=json.loads(row.metadata),
        warnings=tuple(json.loads(row.warnings)),
    )


def _known(snapshot: Snapshot, file: FileInfo) -> KnownFile:
    if file.role == "config":
        key = _CONFIG_KEYS.get(str(snapshot.metadata.get("layout")))
        config: Any = snapshot.metadata.get(key) if key else snapshot.config
        return KnownFile(config=config if isinstance(config, Mapping) else {})
    if file.role == "index":
        folder = file.path.rpartition("/")[0]
        weights = [f.path for f in snapshot.files if f.role == "weights" and f.path.rpartition("/")[0] == folder]
        cut = len(folder) + 1 if folder else 0
        notes = tuple(w for w in snapshot.warnings if shown(file.path) in w)
        return KnownFile(shards=tuple(p[cut:] for p in weights), notes=notes)
    tensors = tuple(t for t in snapshot.tensors if t.file == file.path)
    if file.header_bytes is not None and file.size is not None:
        data_bytes = file.size - LENGTH_BYTES - file.header_bytes
    else:
        data_bytes = sum(size_in_bytes(t.dtype, t.numel) or 0 for t in tensors)
    warnings = tuple(w for w in snapshot.warnings if w.startswith(f"{shown(file.path)}: "))
    pairs = snapshot.metadata.get("gguf")
    return KnownFile(
        header=Header(tensors, {}, file.header_bytes, data_bytes, warnings),
        pairs=pairs if isinstance(pairs, Mapping) else None,
    )
