"""What a source finds out about a repo before it reads any header, and what the cache may know of its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hubvram.snapshot.header import Header
from hubvram.snapshot.layout import ListedFile, ShardIndex
from hubvram.snapshot.records import Snapshot
from hubvram.sources.refs import RepoRef, Selection


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """One answer of the Hub's model API (or one look at a folder)."""

    repo_id: str
    """The canonical id, after renames."""
    commit_sha: str | None
    """None for a folder."""
    requested_revision: str
    files: tuple[ListedFile, ...]
    is_main_head: bool = False
    """Whether the commit was asked for as the head of the default branch."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As in `Snapshot.metadata`."""
    config_summary: Mapping[str, Any] = field(default_factory=dict)
    """What the description repeats of config.json: model_type, architectures, quantization_config."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file whose content the cache knows, from another commit or another repo. One of the fields is set."""

    header: Header | None = None
    config: Mapping[str, Any] | None = None
    shards: tuple[str, ...] | None = None
    """Of an index: its shards, relative to it."""
    pairs: Mapping[str, Any] | None = None
    """Of a GGUF header, beside ``header``."""
    notes: tuple[str, ...] = ()


class Known(Protocol):
    """The cache, asked by content."""

    def __call__(self, hashes: Collection[str]) -> Mapping[str, KnownFile]:
        """What is known of files with these content hashes."""
        ...


class Source(Protocol):
    """Where snapshots come from."""

    def resolve(self, ref: RepoRef) -> RepoInfo:
        """Find the commit and the file listing: at most one request (two after a rename)."""
        ...

    def snapshot(self, ref: RepoRef, info: RepoInfo, selection: Selection | None = None) -> Snapshot:
        """Read config and headers at that commit."""
        ...

    def close(self) -> None:
        """Let go of what the source holds."""
        ...


@dataclass(slots=True)
class Contents:
    """What was read of a repo, before it becomes a `Snapshot`."""

    config: Mapping[str, Any] = field(default_factory=dict)
    headers: dict[str, Header] = field(default_factory=dict)
    """By path, in the layout's order."""
    indexes: dict[str, ShardIndex] = field(default_factory=dict)
    pairs: Mapping[str, Any] = field(default_factory=dict)
    """Of a GGUF file."""
    notes: list[str] = field(default_factory=list)
