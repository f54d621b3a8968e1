"""What a source finds out about a repo before it reads any header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hubvram.snapshot.layout import ListedFile
from hubvram.snapshot.records import Snapshot
from hubvram.sources.refs import RepoRef


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


class Source(Protocol):
    """Where snapshots come from."""

    def resolve(self, ref: RepoRef) -> RepoInfo:
        """Find the commit and the file listing: at most one request (two after a rename)."""
        ...

    def snapshot(self, ref: RepoRef, info: RepoInfo) -> Snapshot:
        """Read config and headers at that commit."""
        ...

    def close(self) -> None:
        """Let go of what the source holds."""
        ...
