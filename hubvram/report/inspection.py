"""What `hubvram inspect` says about a repo: counts, dtypes, architecture, files. No estimate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hubvram.report.record import SCHEMA_VERSION, ParameterCounts
from hubvram.snapshot.records import FileInfo, TensorInfo

_INDEX = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors alike but for the numbers in their names: the same weight of every layer."""

    name: str
    """With ``*`` for each number: ``model.layers.*.mlp.up_proj.weight``."""
    dtype: str
    shape: tuple[int, ...]
    count: int

    @property
    def parameters(self) -> int:
        """Elements of the whole group."""
        return self.count * TensorInfo(self.name, self.dtype, self.shape, "").numel

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "count": self.count,
            "parameters": self.parameters,
        }


def group_tensors(tensors: tuple[TensorInfo, ...]) -> tuple[TensorGroup, ...]:
    """Groups in the order of their first tensor."""
    counts: dict[tuple[str, str, tuple[int, ...]], int] = {}
    for tensor in tensors:
        key = (_INDEX.sub("*", tensor.name), tensor.dtype, tensor.shape)
        counts[key] = counts.get(key, 0) + 1
    return tuple(TensorGroup(name, dtype, shape, count) for (name, dtype, shape), count in counts.items())


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that is known of a repo before a method is chosen."""

    repo_id: str
    requested_revision: str
    commit_sha: str | None
    endpoint: str | None
    source: str
    model_type: str | None
    architecture: str | None
    family: str | None
    """Name in `hubvram architectures`; None where the estimator does not know the architecture."""
    max_seq_len: int | None
    parameters: ParameterCounts
    tensor_count: int
    groups: tuple[TensorGroup, ...]
    files: tuple[FileInfo, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; the first keys are those of an estimate's report."""
        return {
            "schema_version": SCHEMA_VERSION,
            "repo_id": self.repo_id,
            "requested_revision": self.requested_revision,
            "commit_sha": self.commit_sha,
            "endpoint": self.endpoint,
            "source": self.source,
            "model_type": self.model_type,
            "architecture": self.architecture,
            "family": self.family,
            "max_seq_len": self.max_seq_len,
            "parameters": self.parameters.to_dict(),
            "tensor_count": self.tensor_count,
            "tensor_groups": [group.to_dict() for group in self.groups],
            "files": [
                {
                    "path": file.path,
                    "size": file.size,
                    "role": file.role,
                    "reason": file.reason,
                    "header_bytes": file.header_bytes,
                }
                for file in self.files
            ],
            "metadata": dict(self.metadata),
            "warnings": list(self.warnings),
        }
