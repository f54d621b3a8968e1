"""The report: what `hubvram.estimate` returns and every output format prints.

Bytes are integers. ``to_dict`` gives exactly the JSON object of the interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hubvram.report.band import band

SCHEMA_VERSION = 1

Status = Literal["ok", "partial", "skipped"]
Phase = Literal["load", "forward", "backward", "optimizer"]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What is alive at the peak, in bytes. The five parts sum to the peak."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    """Made in the forward pass (or kept by autograd) and still alive at the peak."""
    temporary_bytes: int
    """Everything else: gradients of activations, workspaces, foreach temporaries."""

    @property
    def total(self) -> int:
        """Sum of the parts: the peak."""
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.temporary_bytes
        )

    def to_dict(self) -> dict[str, int]:
        """The JSON object of the interface."""
        return {
            "weights_bytes": self.weights_bytes,
            "gradients_bytes": self.gradients_bytes,
            "optimizer_bytes": self.optimizer_bytes,
            "activations_bytes": self.activations_bytes,
            "temporary_bytes": self.temporary_bytes,
        }


@dataclass(frozen=True, slots=True)
class GpuFit:
    """One kind of card against one estimate."""

    name: str
    count: int
    usable_bytes: int
    """Per card, as the driver reports it."""
    fits: bool
    headroom_bytes: int
    """usable - needed, per card; negative when it does not fit."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the interface."""
        return {
            "name": self.name,
            "count": self.count,
            "usable_bytes": self.usable_bytes,
            "fits": self.fits,
            "headroom_bytes": self.headroom_bytes,
        }


@dataclass(frozen=True, slots=True)
class AliveGroup:
    """Tensors of one kind that are alive at the peak (for ``--explain``)."""

    category: str
    """weights, gradients, optimizer, activations or temporary."""
    name: str
    """What it is, e.g. ``layers.mlp.gate_proj output``."""
    op: str
    """The op that made or keeps it."""
    count: int
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    """Of the whole group, after the allocator's rounding to 512 bytes."""
    why: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "category": self.category,
            "name": self.name,
            "op": self.op,
            "count": self.count,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "bytes": self.bytes,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Mark:
    """A high-water mark of the timeline (for ``--explain``)."""

    phase: Phase
    name: str
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {"phase": self.phase, "name": self.name, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Estimate:
    """One method on one model under one set of settings.

    With ``status == "skipped"`` every figure is None and ``reason`` says why.
    With ``"partial"`` the figures are a lower bound or rest on an assumption,
    and ``not_counted`` lists what is missing. With figures, ``reason`` says
    what was assumed where the config or the settings are silent, else None.
    """

    method: str
    status: Status
    reason: str | None = None
    not_counted: tuple[str, ...] = ()
    trainable_parameters: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    total_bytes: int | None = None
    peak_phase: Phase | None = None
    breakdown: Breakdown | None = None
    loaded_bytes: int | None = None
    steady_bytes: int | None = None
    gpus: tuple[GpuFit, ...] = ()
    marks: tuple[Mark, ...] = ()
    alive: tuple[AliveGroup, ...] = ()

    def to_dict(self, *, explain: bool = False) -> dict[str, Any]:
        """The JSON object of the interface; ``explain`` adds marks and tensors."""
        low, high = band(self.total_bytes) if self.total_bytes is not None else (None, None)
        data: dict[str, Any] = {
            "method": self.method,
            "status": self.status,
            "reason": self.reason,
            "not_counted": list(self.not_counted),
            "trainable_parameters": self.trainable_parameters,
            "peak_allocated_bytes": self.peak_allocated_bytes,
            "peak_reserved_bytes": self.peak_reserved_bytes,
            "total_bytes": self.total_bytes,
            "total_low_bytes": low,
            "total_high_bytes": high,
            "peak_phase": self.peak_phase,
            "breakdown": self.breakdown.to_dict() if self.breakdown else None,
            "loaded_bytes": self.loaded_bytes,
            "steady_bytes": self.steady_bytes,
            "gpus": [g.to_dict() for g in self.gpus],
        }
        if explain:
            data["marks"] = [m.to_dict() for m in self.marks]
            data["alive"] = [a.to_dict() for a in self.alive]
        return data


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Exact counts from the headers."""

    total: int
    """Elements in the headers of the one layout that transformers would load."""
    by_dtype: Mapping[str, int]
    """Elements per safetensors dtype, largest first."""
    stored_bytes: int
    logical_total: int
    """Parameters as the config means them, where packing makes the two differ; else equal to total."""
    logical_note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the interface."""
        return {
            "total": self.total,
            "by_dtype": dict(self.by_dtype),
            "stored_bytes": self.stored_bytes,
            "logical_total": self.logical_total,
            "logical_note": self.logical_note,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Everything hubvram says about one repo under one set of settings."""

    repo_id: str
    requested_revision: str
    commit_sha: str | None
    endpoint: str | None
    source: str
    model_type: str | None
    architecture: str | None
    parameters: ParameterCounts
    settings: Mapping[str, Any]
    estimates: tuple[Estimate, ...]
    warnings: tuple[str, ...] = field(default=())
    error: Mapping[str, Any] | None = None
    """Why this is all there is (code, message, hint), where the repo itself could not be read: gated."""

    def to_dict(self, *, explain: bool = False) -> dict[str, Any]:
        """The JSON object of the interface; ``error`` only where there is one."""
        data = self._to_dict(explain)
        return data if self.error is None else {**data, "error": dict(self.error)}

    def _to_dict(self, explain: bool) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "repo_id": self.repo_id,
            "requested_revision": self.requested_revision,
            "commit_sha": self.commit_sha,
            "endpoint": self.endpoint,
            "source": self.source,
            "model_type": self.model_type,
            "architecture": self.architecture,
            "parameters": self.parameters.to_dict(),
            "settings": dict(self.settings),
            "estimates": [e.to_dict(explain=explain) for e in self.estimates],
            "warnings": list(self.warnings),
        }
