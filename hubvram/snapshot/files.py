"""The files of a repo: the records of its layout, and what each file is, with the reason it takes no part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hubvram.snapshot.records import FileInfo, FileRole

LayoutKind = Literal["model", "adapter", "pipeline"]
Format = Literal["safetensors", "pickle", "gguf"]

PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
OTHER_FORMATS = {
    ".h5": "weights in TensorFlow's format",
    ".msgpack": "weights in Flax's format",
    ".onnx": "an ONNX export",
    ".onnx_data": "an ONNX export",
    ".tflite": "a TensorFlow Lite export",
    ".mlmodel": "a Core ML export",
    ".ot": "weights in the Rust port's format",
    ".gguf": "a GGUF export",
}
COMPONENT_STEMS = ("diffusion_pytorch_model", "model")
PICKLED_STEMS = ("diffusion_pytorch_model", "pytorch_model")
ORIGINAL_FOLDERS = ("original", "metal")
NO_WEIGHTS = re.compile(r"training_args|optimizer|scheduler|rng_state|trainer_state|random_states|scaler")
"""Pickles that a training run leaves beside the weights."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One line of a repo's listing."""

    path: str
    size: int | None = None
    content_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """One set of weights: a single file, an index and its shards, or shards without an index."""

    single: str | None
    """The one weights file, or None when sharded."""
    index: str | None
    """The index file, or None when single or without one."""
    family: tuple[str, ...] = ()
    """Shards by their numbered names, if the listing holds a whole series of them; else empty."""
    format: Format = "safetensors"

    @property
    def folder(self) -> str:
        """Where it lies in the repo; empty for the root."""
        return (self.single or self.index or self.family[0]).rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Layout:
    """What to read of a repo."""

    kind: LayoutKind
    components: tuple[Component, ...]
    config: str | None
    """``config.json`` (``adapter_config.json``, ``model_index.json``), None where there is none."""
    notes: tuple[str, ...] = ()
    """What is unusual about the choice, in sentences."""

    @property
    def format(self) -> Format:
        """Format of the weights (of the first component)."""
        return self.components[0].format if self.components else "safetensors"


def describe_files(
    files: Iterable[ListedFile], layout: Layout, weights: Mapping[str, tuple[int | None, int | None]]
) -> tuple[FileInfo, ...]:
    """Every file of the listing with its role.

    Args:
        files: the listing.
        layout: as chosen.
        weights: per file read: header length and file size, as found.
    """
    indexes = {c.index for c in layout.components if c.index}
    out = []
    for f in files:
        role: FileRole = "ignored"
        reason: str | None = None
        header_bytes, size = None, f.size
        if f.path in weights:
            role = "weights"
            header_bytes, found = weights[f.path]
            size = found if size is None else size
        elif f.path in indexes:
            role = "index"
        elif f.path == layout.config:
            role = "config"
        else:
            reason = why_ignored(f.path, layout)
        out.append(FileInfo(f.path, size, role, reason, header_bytes, f.content_hash))
    return tuple(out)


def why_ignored(path: str, layout: Layout) -> str:
    """Why a file takes no part, in a few words."""
    folder, _, name = path.rpartition("/")
    lower = name.lower()
    top = folder.split("/", 1)[0]
    if lower.endswith((".safetensors", ".safetensors.index.json")):
        return _why_safetensors(lower, folder, layout)
    if top in ORIGINAL_FOLDERS and lower.endswith(PICKLES):
        return "a duplicate of the weights in the authors' original format"
    if NO_WEIGHTS.search(lower) and lower.endswith(PICKLES):
        return "left over from a training run; holds no weights of the model"
    if lower.endswith(PICKLES) or lower.endswith(".bin.index.json"):
        if layout.format == "safetensors":
            return "weights as a PyTorch pickle; the safetensors files are read instead"
        return "not part of the layout that transformers would load"
    if layout.format == "gguf" and lower.endswith(".gguf"):
        return "another quantisation or part of the model; --file reads it"
    for ending, reason in OTHER_FORMATS.items():
        if lower.endswith(ending):
            return reason
    return "holds no weights"


def _why_safetensors(lower: str, folder: str, layout: Layout) -> str:
    if lower.startswith("consolidated") or folder.split("/", 1)[0] in ORIGINAL_FOLDERS:
        return "a duplicate of the weights in the authors' original format"
    stem = re.sub(r"(-\d{5,6}-of-\d{5,6})?\.safetensors(\.index(\.\w+)?\.json)?$", "", lower)
    base, _, variant = stem.partition(".")
    if variant and base in {"model", "adapter_model", *COMPONENT_STEMS}:
        return f"the variant {variant}: transformers loads it only when asked to"
    if re.fullmatch(r"\d+_\w+", folder) and layout.kind == "model":
        return f"the sentence-transformers module {folder}: not part of the transformer"
    if layout.kind == "pipeline" and not folder:
        return "weights in one file for other programs; the pipeline's folders are read instead"
    if stem in {"model", *COMPONENT_STEMS}:
        for component in layout.components:
            if component.single and (component.folder == folder or layout.kind != "pipeline"):
                return f"{component.single} comes first"
    return "not part of the layout that transformers would load"
