"""From what a source has read to a `Snapshot`: shared by the Hub and folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hubvram.errors import BadConfigError
from hubvram.snapshot import gguf
from hubvram.snapshot.header import LENGTH_BYTES, Header, merge_tensors
from hubvram.snapshot.kinds import components, kind_notes
from hubvram.snapshot.layout import Layout, ListedFile, ShardIndex, describe_files, total_size_warning
from hubvram.snapshot.limits import is_bulky
from hubvram.snapshot.records import Snapshot, SourceKind
from hubvram.snapshot.text import shown, storable

MAX_CONFIG_BYTES = 5_000_000
"""A config that names 21,000 classes twice has some 1.5 MB."""
_MAX_CONTAINERS = 100_000
_MAX_VALUES = 500_000


def check_config_size(size: int | None, path: str, repo_id: str) -> None:
    """Refuse a config that is too large to be one, before it is read.

    Raises:
        BadConfigError: if ``size`` is over `MAX_CONFIG_BYTES`.
    """
    if size is not None and size > MAX_CONFIG_BYTES:
        raise BadConfigError(
            f"{repo_id}: {shown(path)} has {size:,} bytes; no config is as large",
            hint="look at the file: it is not what its name says",
            repo_id=repo_id,
        )


def parse_config(raw: bytes, path: str, repo_id: str) -> dict[str, Any]:
    """A JSON object from a config file.

    NaN and Infinity pass, as they do in transformers (Mamba's
    ``time_step_limit`` holds one).

    Raises:
        BadConfigError: if it is no JSON or no object, or holds too much to be one.
    """
    hint = "the file is broken: try another revision, or tell the repo's authors"
    if is_bulky(raw, _MAX_CONTAINERS, _MAX_VALUES):
        raise BadConfigError(
            f"{repo_id}: {shown(path)} holds far more values than any config", hint=hint, repo_id=repo_id
        )
    try:
        content = storable(json.loads(raw.decode("utf-8-sig")), raw)
    except RecursionError:
        raise BadConfigError(f"{repo_id}: {shown(path)} is nested too deeply", hint=hint, repo_id=repo_id) from None
    except ValueError as error:
        raise BadConfigError(
            f"{repo_id}: {shown(path)} is not JSON ({shown(error)})", hint=hint, repo_id=repo_id
        ) from None
    if not isinstance(content, dict):
        raise BadConfigError(f"{repo_id}: {shown(path)} is not a JSON object", hint=hint, repo_id=repo_id)
    return content


def build_snapshot(
    *,
    repo_id: str,
    requested_revision: str,
    commit_sha: str | None,
    endpoint: str | None,
    source: SourceKind,
    layout: Layout,
    config: Mapping[str, Any],
    headers: Mapping[str, Header],
    indexes: Mapping[str, ShardIndex],
    listed: Iterable[ListedFile],
    metadata: Mapping[str, Any],
    pairs: Mapping[str, Any] | None = None,
    warnings: Iterable[str] = (),
) -> Snapshot:
    """Put a snapshot together.

    ``config`` is what ``layout.config`` holds: only a model's goes into
    ``Snapshot.config``, an adapter's or a pipeline's into the metadata.
    ``pairs`` are those of a GGUF header.
    """
    notes = [*warnings, *layout.notes]
    extra: dict[str, Any] = {"layout": "gguf" if layout.format == "gguf" else layout.kind, "format": layout.format}
    model_config = config if layout.kind == "model" else {}
    if layout.format == "gguf":
        extra["gguf"] = gguf.summary(pairs or {})
        extra["base_model"] = metadata.get("base_model") or gguf.base_model(pairs or {})
    elif layout.kind == "adapter":
        extra["adapter_config"] = config
    elif layout.kind == "pipeline":
        extra["model_index"] = config
        extra["components"] = components(layout, config, headers)
    notes += kind_notes(layout, config, {**metadata, **extra})
    for path, index in indexes.items():
        shards = set(index.shards)
        data = sum(h.data_bytes for f, h in headers.items() if f in shards)
        note = total_size_warning(index.total_size, data, path)
        if note:
            notes.append(note)
        notes += _index_notes(index, headers, path)
    for header in headers.values():
        notes += header.warnings
    sizes = {
        f: (h.header_bytes, None if h.header_bytes is None else LENGTH_BYTES + h.header_bytes + h.data_bytes)
        for f, h in headers.items()
    }
    return Snapshot(
        repo_id=repo_id,
        requested_revision=requested_revision,
        commit_sha=commit_sha,
        endpoint=endpoint,
        source=source,
        config=model_config,
        tensors=merge_tensors(headers),
        files=describe_files(listed, layout, sizes),
        metadata={**metadata, **extra},
        warnings=tuple(dict.fromkeys(notes)),
    )


def _index_notes(index: ShardIndex, headers: Mapping[str, Header], path: str) -> list[str]:
    """Sentences about tensors that index and headers place differently."""
    if not index.weight_map:
        return []
    held = {t.name: f for f in index.shards if f in headers for t in headers[f].tensors}
    missing = [t for t, f in index.weight_map.items() if held.get(t) != f]
    surplus = sum(1 for t in held if t not in index.weight_map)
    notes = []
    if missing:
        notes.append(
            f"{shown(path)} names {len(missing)} tensors that its shards do not hold, e.g. {shown(missing[0])}"
        )
    if surplus:
        notes.append(f"the shards hold {surplus} tensors that {shown(path)} does not name; they are counted")
    return notes
