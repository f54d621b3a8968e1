"""Records to store, and stores to keep them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hubvram.estimator import Description
from hubvram.plan.settings import Settings
from hubvram.report.record import AliveGroup, Breakdown, Estimate, GpuFit, Mark, ParameterCounts, Report
from hubvram.snapshot.records import FileInfo, Snapshot, TensorInfo
from hubvram.store.store import Store, open_store

HUB = "https://huggingface.co"
SHA = "a" * 40
GIB = 1024**3


def _tensors(layers: int) -> tuple[TensorInfo, ...]:
    weights = [TensorInfo("model.embed_tokens.weight", "BF16", (100, 8), "model.safetensors")]
    for i in range(layers):
        weights.append(TensorInfo(f"model.layers.{i}.mlp.up_proj.weight", "BF16", (16, 8), "model.safetensors"))
        weights.append(TensorInfo(f"model.layers.{i}.norm.weight", "F32", (8,), "model.safetensors"))
    return tuple(weights)


def _snapshot(repo_id: str = "org/name", sha: str = SHA, revision: str = "main", layers: int = 3) -> Snapshot:
    return Snapshot(
        repo_id=repo_id,
        requested_revision=revision,
        commit_sha=sha,
        endpoint=HUB,
        source="hub",
        config={"model_type": "mistral", "hidden_size": 8, "nested": {"list": [1, 2.5, None, "ü"]}},
        tensors=_tensors(layers),
        files=(
            FileInfo("model.safetensors", 9_000, "weights", None, 500, "beef"),
            FileInfo("consolidated.safetensors", None, "ignored", "duplicate layout"),
        ),
        metadata={"gated": False, "library_name": "transformers", "tags": ["a", "b"]},
        warnings=("odd file",),
    )


def _description(snapshot: Snapshot) -> Description:
    by_dtype: dict[str, int] = {}
    for tensor in snapshot.tensors:
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.numel
    stored = by_dtype.get("BF16", 0) * 2 + by_dtype.get("F32", 0) * 4
    total = sum(by_dtype.values())
    counts = ParameterCounts(total, by_dtype, stored, total)
    return Description("mistral", "MistralForCausalLM", "llama", counts, 32768, ("a guess",))


def _estimate(method: str = "lora", total: int = 24 * GIB) -> Estimate:
    return Estimate(
        method=method,
        status="ok",
        trainable_parameters=1000,
        peak_allocated_bytes=150,
        peak_reserved_bytes=200,
        total_bytes=total,
        peak_phase="backward",
        breakdown=Breakdown(10, 20, 30, 40, 50),
        loaded_bytes=10,
        steady_bytes=60,
        gpus=(GpuFit("H100-80GB", 1, 80 * GIB, fits=True, headroom_bytes=56 * GIB),),
        marks=(Mark("forward", "layer 0", 100), Mark("backward", "layer 3", 150)),
        alive=(AliveGroup("weights", "model.layers.mlp.up_proj", "linear", 3, (16, 8), "BF16", 1536, "base"),),
    )


def _report(snapshot: Snapshot, estimates: tuple[Estimate, ...], settings: Settings | None = None) -> Report:
    description = _description(snapshot)
    return Report(
        repo_id=snapshot.repo_id,
        requested_revision=snapshot.requested_revision,
        commit_sha=snapshot.commit_sha,
        endpoint=snapshot.endpoint,
        source="hub",
        model_type=description.model_type,
        architecture=description.architecture,
        parameters=description.parameters,
        settings={**(settings or Settings()).to_dict(), "seq_len": 2048, "dtype": "bfloat16"},
        estimates=estimates,
        warnings=("odd file", "a guess"),
    )


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.time

    def step(self, **delta: int) -> None:
        self.time += timedelta(**delta)


@pytest.fixture
def made() -> SimpleNamespace:
    """Makers of records: ``made.snapshot()``, ``made.description(s)``, ``made.estimate()``, ``made.report(s, e)``."""
    return SimpleNamespace(
        snapshot=_snapshot, description=_description, estimate=_estimate, report=_report, hub=HUB, sha=SHA
    )


@pytest.fixture
def clock() -> Clock:
    """The clock of ``store``."""
    return Clock()


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Where ``store`` is."""
    return tmp_path / "cache" / "hubvram.db"


@pytest.fixture
def store(db: Path, clock: Clock) -> Iterator[Store]:
    """An open, empty cache."""
    with open_store(db, now=clock) as opened:
        yield opened


@pytest.fixture
def save(store: Store) -> Callable[..., Any]:
    """Keep a repo with estimates of some methods; returns its key."""

    def keep(
        repo_id: str = "org/name",
        methods: tuple[str, ...] = ("lora",),
        *,
        settings: Settings | None = None,
        formula_version: int = 1,
        asked: str | None = None,
        **snapshot: Any,
    ) -> Any:
        seen = _snapshot(repo_id, **snapshot)
        report = _report(seen, tuple(_estimate(m) for m in methods), settings)
        return store.save_report(
            replace(seen, repo_id=repo_id),
            _description(seen),
            report,
            settings_key=(settings or Settings()).key(),
            formula_version=formula_version,
            asked_repo_id=asked,
        )

    return keep
