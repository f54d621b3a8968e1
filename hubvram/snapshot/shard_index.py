"""Index files: which tensor lies in which shard, and what of that may be believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubvram.errors import CorruptHeaderError, EntryNotFoundError
from hubvram.snapshot.limits import MAX_TENSORS, is_bulky, too_large
from hubvram.snapshot.text import shown


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """A parsed ``*.safetensors.index.json`` (or ``pytorch_model.bin.index.json``)."""

    weight_map: Mapping[str, str]
    """Tensor name to the shard's path inside the repo."""
    total_size: int | None
    """``metadata.total_size``: bytes of all tensors, as the index claims."""

    @property
    def shards(self) -> tuple[str, ...]:
        """The shards, each once, sorted."""
        return tuple(sorted(set(self.weight_map.values())))


def parse_index(raw: bytes, path: str, repo_id: str, listed: set[str] | None = None) -> ShardIndex:
    """Parse and check an index file.

    Args:
        raw: the file.
        path: its place in the repo; shards are named relative to it.
        repo_id: for the messages.
        listed: the repo's files; every shard must be one of them.

    Raises:
        CorruptHeaderError: if it is not an index, or names a shard by an
            absolute path, a URL or a way out of the repo.
        EntryNotFoundError: if it names a shard that the repo does not hold.
        UnsupportedError: if it is far larger than any model's.
    """
    where = f"{repo_id}: {shown(path)}"
    hint = "the index is broken: try another revision, or tell the repo's authors"
    if is_bulky(raw, 10_000, len(raw)):
        raise CorruptHeaderError(f"{where} holds more objects than a map of names", hint=hint, repo_id=repo_id)
    if is_bulky(raw, len(raw), MAX_TENSORS + 10_000):
        raise too_large(where, f"names more than {MAX_TENSORS:,} tensors", repo_id)
    try:
        content: Any = json.loads(raw.decode("utf-8"))
    except RecursionError:
        raise CorruptHeaderError(f"{where} is nested too deeply", hint=hint, repo_id=repo_id) from None
    except ValueError as error:
        raise CorruptHeaderError(f"{where} is not JSON ({shown(error)})", hint=hint, repo_id=repo_id) from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptHeaderError(f"{where} has no weight_map", hint=hint, repo_id=repo_id)
    folder = path.rpartition("/")[0]
    ending = ".bin" if path.endswith(".bin.index.json") else ".safetensors"
    checked: dict[str, str] = {}
    resolved: dict[str, str] = {}
    for tensor, shard in weight_map.items():
        if type(shard) is not str or not _is_shard(shard, ending):
            raise CorruptHeaderError(
                f"{where} keeps tensor {shown(tensor)} in {shown(shard)}, which is not a {ending[1:]} file of the repo",
                hint=hint,
                repo_id=repo_id,
            )
        if shard not in resolved:
            resolved[shard] = f"{folder}/{shard}" if folder else shard
            if listed is not None and resolved[shard] not in listed:
                raise EntryNotFoundError(
                    f"{where} names the shard {shown(shard)}, which the repo does not hold", hint=hint, repo_id=repo_id
                )
        checked[tensor] = resolved[shard]
    return ShardIndex(checked, stated_size(content.get("metadata")))


def stated_size(metadata: Any) -> int | None:
    """``total_size`` of an index's metadata: a whole number (some writers make it a float), else None."""
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, float) and total.is_integer():
        total = int(total)
    return total if type(total) is int else None


def is_plain_path(path: str) -> bool:
    """Whether a path from outside stays inside the repo and can go into a URL: relative, no dots, no tricks."""
    return (
        0 < len(path) <= 1024
        and path.isprintable()
        and "\\" not in path
        and all(part not in ("", ".", "..") for part in path.split("/"))
    )


def _is_shard(shard: str, ending: str) -> bool:
    """A plain path to a weights file, without the characters that mean something in a URL."""
    return is_plain_path(shard) and shard.endswith(ending) and not any(c in shard for c in ":?#%")


def total_size_warning(stated: int | None, data_bytes: int, path: str) -> str | None:
    """The sentence for an index whose ``total_size`` is not what the headers add up to."""
    if stated is None or stated == data_bytes:
        return None
    return (
        f"{shown(path)} claims a total_size of {stated:,} bytes, the headers add up to {data_bytes:,};"
        " the headers are right"
    )
