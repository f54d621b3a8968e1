"""Repos whose layers are not described: what their weights alone take, as a lower bound.

For a gated repo only the number of elements per dtype is public; for a pipeline
(diffusers) the tensors are known and the order in which they run is not.
Weights, gradients and optimizer state follow from the tensors and are exact;
activations are not counted, and every estimate says so.

Source: the repo itself. What is trained of a pipeline, and the layers that LoRA
sits on, are those of diffusers' training scripts (`train_text_to_image_lora.py`
and its like: the unet or transformer; to_q, to_k, to_v, to_out.0).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hubvram.architecture.modules import Architecture, Linear, Module, Weight
from hubvram.errors import UnsupportedError
from hubvram.snapshot.records import Snapshot, TensorInfo
from hubvram.timeline.dtypes import SAFETENSORS

TRAINED = ("unet", "transformer", "prior")
"""Folders of a pipeline that training scripts train; the rest is frozen."""
_ATTENTION = re.compile(r"\.(?:to_q|to_k|to_v|to_out\.0)\.weight$")
_SUMMARY_METHODS: tuple[str, ...] = ("full", "inference")
_PIPELINE_METHODS: tuple[str, ...] = ("full", "lora", "rslora", "inference")


def build(snapshot: Snapshot) -> Architecture:
    """An architecture without layers, for a ``summary`` or a ``pipeline``.

    Raises:
        UnsupportedError: if no part of a pipeline is one that is trained, or
            its weights are packed.
    """
    pipeline = snapshot.metadata.get("layout") == "pipeline"
    trained = _trained_folder(snapshot) if pipeline else ""
    modules: dict[str, Module] = {}
    for index, tensor in enumerate(snapshot.tensors):
        modules[f"w{index}"] = _module(tensor, trained)
    if pipeline:
        methods, why = _PIPELINE_METHODS, f"only lower bounds are known for the {trained} of this pipeline"
        missing = (f"activations: how the {trained} runs is not described",)
        assumed: tuple[str, ...] = (f"the {trained} is trained, the rest of the pipeline is loaded and frozen",)
    else:
        methods, why = _SUMMARY_METHODS, "the repo is gated: the shapes that the method depends on are not public"
        missing, assumed = ("activations: the shapes are not public",), ()
    return Architecture(
        family="floor",
        model_type=_model_type(snapshot.config),
        class_name=None,
        task="features",
        modules=modules,
        stacks={},
        forward=forward,
        hidden_size=1,
        vocab_size=1,
        num_layers=0,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=1,
        max_seq_len=None,
        assumptions=assumed,
        not_counted=missing,
        facts={"methods": methods, "why_only": why},
    )


def _model_type(config: Mapping[str, Any]) -> str:
    value = config.get("model_type")
    return value if isinstance(value, str) else "unknown"


def _trained_folder(snapshot: Snapshot) -> str:
    folders = {t.file.split("/", 1)[0] for t in snapshot.tensors}
    for name in TRAINED:
        if name in folders:
            return name
    raise UnsupportedError(
        f"a pipeline of {', '.join(sorted(folders))}, none of which is known as the part that is trained"
    )


def _module(tensor: TensorInfo, trained: str) -> Module:
    dtype = SAFETENSORS.get(tensor.dtype)
    if dtype is None or not dtype.is_float:
        fixed = dtype.name if dtype is not None else "uint8"
        return Weight(tensor.name, tensor.shape, buffer=True, dtype=fixed)
    frozen = bool(trained) and not tensor.file.startswith(f"{trained}/")
    if trained and not frozen and len(tensor.shape) == 2 and _ATTENTION.search(tensor.name):
        out_features, in_features = tensor.shape
        return Linear(tensor.name.removesuffix(".weight"), in_features, out_features)
    path = f"{tensor.file.split('/', 1)[0]}.{tensor.name}" if trained else tensor.name
    return Weight(path, tensor.shape, buffer=frozen)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """Every weight once, on one number: gradients where they are due, and next to no activations."""
    used = []
    for name, spec in net.arch.modules.items():
        module = getattr(net, name)
        if isinstance(spec, Linear):
            used.append(module(g, g.ones((1, 1, spec.in_features), net.plan.base_dtype, "input")))
        elif not spec.buffer:
            used.append(module)
    return g.mix(g.ones((1,), net.plan.base_dtype, "loss"), used)
