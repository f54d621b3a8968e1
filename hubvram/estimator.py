"""The pure core behind one door: snapshot + settings -> estimates.

Imports no network, no database, no click. The same inputs give the same bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from hubvram.architecture.modules import Architecture
from hubvram.errors import UnsupportedError
from hubvram.plan.settings import DEFAULT_SEQ_LEN, Settings
from hubvram.report.record import Breakdown, Estimate, ParameterCounts
from hubvram.snapshot.records import Snapshot
from hubvram.snapshot.text import shown


@dataclass(frozen=True, slots=True)
class Description:
    """What the estimator makes of a snapshot before any method is chosen."""

    model_type: str | None
    architecture: str | None
    """The first entry of ``architectures`` in config.json."""
    family: str | None
    """Name in the catalogue of architectures, None where unknown."""
    parameters: ParameterCounts
    max_seq_len: int | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Built:
    """An architecture, or why there is none."""

    arch: Architecture | None
    reason: str | None
    family: str | None


def _build(snapshot: Snapshot) -> _Built:
    from hubvram.architecture import checked, families
    from hubvram.architecture.config import Config
    from hubvram.architecture.header import Header

    layout = snapshot.metadata.get("layout")
    if layout in ("gguf", "pipeline", "summary"):
        return _without_family(snapshot)
    model_type = _text(snapshot.config, "model_type")
    family = families.find(model_type)
    header = Header(snapshot.tensors)
    if family is not None:
        try:
            return _Built(checked.build(family, Config(snapshot.config), header), None, family.name)
        except UnsupportedError as error:
            return _Built(None, error.message, family.name)
    try:
        return _Built(checked.build(families.unknown(), Config(snapshot.config), header), None, None)
    except UnsupportedError as error:
        name = f"model type {shown(model_type)}" if model_type else "a model without model_type in config.json"
        return _Built(None, f"{name} is not in the catalogue (`hubvram architectures`): {error.message}", None)


def _without_family(snapshot: Snapshot) -> _Built:
    """GGUF, pipelines, and gated repos seen from outside: lower bounds, or the reason for none."""
    from hubvram.architecture.families import floor
    from hubvram.snapshot.kinds import gguf_sentence

    if snapshot.metadata.get("layout") == "gguf":
        return _Built(None, gguf_sentence(snapshot.metadata), None)
    try:
        return _Built(floor.build(snapshot), None, None)
    except UnsupportedError as error:
        return _Built(None, error.message, None)


def describe(snapshot: Snapshot) -> Description:
    """Counts, names and limits of a snapshot."""
    from hubvram.snapshot.counts import count_parameters

    built = _build(snapshot)
    architectures = snapshot.config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    # Repos without a config.json say in other places what they are.
    pipeline = _text(_mapping(snapshot.metadata, "model_index"), "_class_name")
    gguf = _text(_mapping(snapshot.metadata, "gguf"), "general.architecture")
    return Description(
        model_type=_text(snapshot.config, "model_type") or gguf,
        architecture=first if isinstance(first, str) else pipeline,
        family=built.family,
        parameters=count_parameters(snapshot),
        max_seq_len=built.arch.max_seq_len if built.arch else None,
        warnings=snapshot.warnings,
    )


def base_dtype(snapshot: Snapshot, asked: str) -> str:
    """dtype the base weights are loaded in: as asked, else the checkpoint's.

    ``auto`` follows transformers' ``dtype="auto"``: the config's ``dtype`` /
    ``torch_dtype``, else the float dtype that most stored elements have. A
    checkpoint whose weights are all packed computes in float16 unless it says.
    """
    if asked != "auto":
        return asked
    from hubvram.timeline.dtypes import SAFETENSORS

    for config in (snapshot.config, snapshot.config.get("text_config")):
        if isinstance(config, Mapping):
            for key in ("dtype", "torch_dtype"):
                value = config.get(key)
                if isinstance(value, str) and value.removeprefix("torch.") in ("float32", "bfloat16", "float16"):
                    return value.removeprefix("torch.")
    counts: dict[str, int] = {}
    for tensor in snapshot.tensors:
        dtype = SAFETENSORS.get(tensor.dtype)
        if dtype is not None and dtype.is_float and dtype.size in (2, 4):
            counts[dtype.name] = counts.get(dtype.name, 0) + tensor.numel
    return max(counts, key=lambda name: counts[name]) if counts else "float16"


def estimate(
    snapshot: Snapshot,
    settings: Settings,
    methods: Sequence[str] | None = None,
    explain: bool = False,
) -> tuple[dict[str, Any], list[Estimate]]:
    """Estimate each method; also the settings as applied (dtype, seq_len, stack resolved).

    Raises:
        SettingError: an unknown method or optimizer, or a config key a method does not have.
        UnsupportedError: a quantization_config that says nothing sensible.
    """
    from hubvram.architecture import checked
    from hubvram.plan import methods as catalogue
    from hubvram.plan import optimizers, quantized, stacks

    optimizer = optimizers.find(settings.optim)
    stack = stacks.Stack.parse(settings.stack)
    chosen = [catalogue.find(name) for name in (methods if methods is not None else catalogue.names())]
    built = _build(snapshot)
    limit = built.arch.max_seq_len if built.arch else None
    tokens = settings.seq_len or (min(DEFAULT_SEQ_LEN, limit) if limit else DEFAULT_SEQ_LEN)
    source_tokens = settings.source_len or tokens
    dtype = base_dtype(snapshot, settings.dtype)
    with checked.only_unsupported("quantization_config cannot be read"):
        stored = quantized.stored(snapshot.config, snapshot.tensors)
    quantized.check(settings.quantization)
    if stored is not None:
        settings = settings.with_(quantization=quantized.merged(stored, settings.quantization))
    applied = settings.to_dict()
    applied.update(
        dtype=dtype,
        seq_len=tokens,
        source_len=source_tokens,
        optim=settings.optim,
        stack=stacks.applied(settings.stack),
    )
    estimates = []
    alike: dict[str, Estimate] = {}
    for method in chosen:
        if built.arch is None:
            estimates.append(Estimate(method.name, "skipped", reason=built.reason))
            continue
        if method.name not in built.arch.facts.get("methods", (method.name,)):
            estimates.append(Estimate(method.name, "skipped", reason=built.arch.facts["why_only"]))
            continue
        with _uncollected():
            estimates.append(
                _one(
                    built.arch, method, settings, dtype, optimizer, stack, tokens, source_tokens, explain, stored, alike
                )
            )
    return applied, estimates


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's cycle collector, which would take a third of the time and find nearly nothing.

    A tensor's end is that of its last reference, as in PyTorch. What cycles
    there are go at the next collection.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _one(
    arch: Architecture,
    method: Any,
    settings: Settings,
    dtype: str,
    optimizer: Any,
    stack: Any,
    tokens: int,
    source_tokens: int,
    explain: bool,
    stored: Any,
    alike: dict[str, Estimate],
) -> Estimate:
    """One method's estimate; ``alike`` holds those whose timelines others share (`MethodPlan.alike`)."""
    from hubvram.architecture.checked import only_unsupported
    from hubvram.plan.plan import Plan, Skip
    from hubvram.plan.sharding import NCCL_BYTES
    from hubvram.timeline import explained, reserved
    from hubvram.timeline.dtypes import BY_NAME
    from hubvram.timeline.peak import categories, read
    from hubvram.timeline.phases import trace

    try:
        with only_unsupported(f"{method.name} does not work out on this config.json"):
            plan = Plan(
                arch,
                method,
                settings,
                base_dtype=BY_NAME[dtype],
                optimizer=optimizer,
                stack=stack,
                tokens=tokens,
                source_tokens=source_tokens,
                stored=stored,
            )
            missing = (*arch.not_counted, *plan.method.not_counted)
            notes = [*arch.assumptions, *plan.notes]
            status: Literal["ok", "partial"] = "partial" if missing else "ok"
            reason = "; ".join(notes) or None
            same = alike.get(plan.method.alike or "")
            if same is not None:
                return replace(same, method=method.name, status=status, reason=reason, not_counted=missing)
            tracer, _ = trace(plan, explain=explain)
    except UnsupportedError as error:
        return Estimate(method.name, "skipped", reason=error.message)
    except Skip as skip:
        return Estimate(method.name, "skipped", reason=str(skip))
    timeline = read(tracer)
    peak = timeline.peak
    held = reserved.peak_reserved(tracer, timeline)
    estimate = Estimate(
        method=method.name,
        status=status,
        reason=reason,
        not_counted=missing,
        trainable_parameters=plan.trainable_parameters(),
        peak_allocated_bytes=peak.bytes,
        peak_reserved_bytes=held,
        total_bytes=held + reserved.CUDA_CONTEXT_BYTES + (NCCL_BYTES if settings.num_gpus > 1 else 0),
        peak_phase=peak.phase,  # type: ignore[arg-type]  # phases.trace names them
        breakdown=Breakdown(*categories(tracer, peak)),
        loaded_bytes=timeline.ends[0],
        steady_bytes=timeline.steady,
        marks=explained.marks(timeline) if explain else (),
        alive=explained.alive(tracer, timeline) if explain else (),
    )
    if plan.method.alike:
        alike[plan.method.alike] = estimate
    return estimate


def _mapping(metadata: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = metadata.get(key)
    return value if isinstance(value, Mapping) else {}


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    return value if isinstance(value, str) else None
