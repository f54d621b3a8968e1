"""What a repo looks like at one commit: its config, its tensors, its files.

A `Snapshot` is the only thing that the estimator sees of the outside world.
Sources make it, the store keeps it, the architecture reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

SourceKind = Literal["hub", "cache", "local"]
FileRole = Literal["weights", "index", "config", "ignored"]


class TensorInfo(NamedTuple):
    """One tensor of one safetensors header.

    A named tuple and not a dataclass: DeepSeek-V3 has 92,000 of them.
    """

    name: str
    dtype: str
    """The header's own word: ``BF16``, ``F32``, ``F8_E4M3``, ``U8``..."""
    shape: tuple[int, ...]
    file: str
    """Path of the file inside the repo."""

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar (shape ``()``)."""
        n = 1
        for side in self.shape:
            n *= side
        return n


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of the repo, and what hubvram made of it."""

    path: str
    size: int | None
    """Bytes, or None where the Hub does not say."""
    role: FileRole
    reason: str | None = None
    """For ``ignored`` files: why (duplicate layout, variant, original format...)."""
    header_bytes: int | None = None
    """Length of the safetensors header JSON, for weight files."""
    content_hash: str | None = None
    """Git blob or LFS sha256 from the Hub's listing, where known: key of content-addressed caching."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repo at one commit: everything hubvram knows about it.

    ``tensors`` holds the one layout that transformers would load, in file and
    header order: never a duplicate layout, never a variant.
    """

    repo_id: str
    """Canonical id as the Hub spells it (after renames), or the folder as given."""
    requested_revision: str
    commit_sha: str | None
    """None for a local folder."""
    endpoint: str | None
    """None for a local folder."""
    source: SourceKind
    config: Mapping[str, Any]
    """config.json as parsed; empty where the repo has none (a warning then says so)."""
    tensors: tuple[TensorInfo, ...]
    files: tuple[FileInfo, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the Hub says beside: gated, private, library_name, pipeline_tag, tags, base_model, safetensors totals."""
    warnings: tuple[str, ...] = ()
