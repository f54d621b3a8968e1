"""Which of a repo's files hold the model: the one layout that transformers would load.

Repos carry the same weights several times over: Mistral's `consolidated`
files, Llama's `original/`, `fp16` and `ema` variants, pickles, GGUF. Counting
them all would double the model, so one layout is chosen from the file listing
and every other file is named with the reason it is left out.

Order as in transformers' `from_pretrained`: `model.safetensors`, else
`model.safetensors.index.json` and the shards it names. A repo without either
may be a PEFT adapter (`adapter_model.safetensors`) or a pipeline of folders
(`model_index.json`, diffusers), whose components are chosen the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hubvram.errors import CorruptHeaderError, EntryNotFoundError, NoSafetensorsError
from hubvram.snapshot.records import FileInfo, FileRole
from hubvram.snapshot.text import shown

LayoutKind = Literal["model", "adapter", "pipeline"]

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<of>\d{5,6})\.safetensors")
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_OTHER_FORMATS = {
    ".h5": "weights in TensorFlow's format",
    ".msgpack": "weights in Flax's format",
    ".onnx": "an ONNX export",
    ".onnx_data": "an ONNX export",
    ".tflite": "a TensorFlow Lite export",
    ".mlmodel": "a Core ML export",
    ".ot": "weights in the Rust port's format",
    ".gguf": "a GGUF export",
}
_COMPONENT_STEMS = ("diffusion_pytorch_model", "model")
_ORIGINAL_FOLDERS = ("original", "metal")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One line of a repo's listing."""

    path: str
    size: int | None = None
    content_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """One set of weights: a single file, or an index and its shards."""

    single: str | None
    """The one weights file, or None when sharded."""
    index: str | None
    """The index file, or None when single."""
    family: tuple[str, ...] = ()
    """Shards by their numbered names, if the listing holds a whole series of them; else empty."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What to read of a repo."""

    kind: LayoutKind
    components: tuple[Component, ...]
    config: str | None
    """``config.json`` (``adapter_config.json``, ``model_index.json``), None where there is none."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """A parsed ``*.safetensors.index.json``."""

    weight_map: Mapping[str, str]
    """Tensor name to the shard's path inside the repo."""
    total_size: int | None
    """``metadata.total_size``: bytes of all tensors, as the index claims."""

    @property
    def shards(self) -> tuple[str, ...]:
        """The shards, each once, sorted."""
        return tuple(sorted(set(self.weight_map.values())))


def choose(files: Iterable[ListedFile], repo_id: str) -> Layout:
    """Choose the layout from a listing.

    Raises:
        NoSafetensorsError: if there is none; the message says what there is
            instead, the hint what to do about it.
    """
    paths = {f.path for f in files}
    root = _component(paths, "", ("model",))
    if root is not None:
        return Layout("model", (root,), "config.json" if "config.json" in paths else None)
    if "adapter_model.safetensors" in paths:
        config = "adapter_config.json" if "adapter_config.json" in paths else None
        return Layout("adapter", (Component("adapter_model.safetensors", None),), config)
    if "model_index.json" in paths:
        folders = sorted({p.split("/", 1)[0] for p in paths if "/" in p} - set(_ORIGINAL_FOLDERS))
        found = (_component(paths, f"{folder}/", _COMPONENT_STEMS) for folder in folders)
        components = tuple(c for c in found if c is not None)
        if components:
            return Layout("pipeline", components, "model_index.json")
    raise _nothing(paths, repo_id)


def _component(paths: set[str], prefix: str, stems: Sequence[str]) -> Component | None:
    for stem in stems:
        single = f"{prefix}{stem}.safetensors"
        if single in paths:
            return Component(single, None)
        index = f"{single}.index.json"
        if index in paths:
            return Component(None, index, _family(paths, f"{prefix}{stem}"))
    return None


def _family(paths: set[str], stem: str) -> tuple[str, ...]:
    """The shards ``stem-i-of-n``, if they are one whole series; else nothing."""
    numbers: dict[int, str] = {}
    totals: set[str] = set()
    for path in paths:
        match = _SHARD.fullmatch(path)
        if match and match["stem"] == stem:
            if int(match["number"]) in numbers:
                return ()
            numbers[int(match["number"])] = path
            totals.add(match["of"])
    if len(totals) != 1:
        return ()
    # gpt-oss counts from 0 to n, everybody else from 1 to n.
    last = int(totals.pop())
    if sorted(numbers) not in (list(range(1, last + 1)), list(range(last + 1))):
        return ()
    return tuple(numbers[i] for i in sorted(numbers))


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
    """
    where = f"{repo_id}: {shown(path)}"
    hint = "the index is broken: try another revision, or tell the repo's authors"
    try:
        content: Any = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptHeaderError(f"{where} is not JSON ({shown(error)})", hint=hint, repo_id=repo_id) from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptHeaderError(f"{where} has no weight_map", hint=hint, repo_id=repo_id)
    folder = path.rpartition("/")[0]
    checked: dict[str, str] = {}
    resolved: dict[str, str] = {}
    for tensor, shard in weight_map.items():
        if type(shard) is not str or not _is_shard(shard):
            raise CorruptHeaderError(
                f"{where} keeps tensor {shown(tensor)} in {shown(shard)}, which is not a safetensors file of the repo",
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


def _is_shard(shard: str) -> bool:
    """A plain path to a safetensors file, without the characters that mean something in a URL."""
    return is_plain_path(shard) and shard.endswith(".safetensors") and not any(c in shard for c in ":?#%")


def total_size_warning(stated: int | None, data_bytes: int, path: str) -> str | None:
    """The sentence for an index whose ``total_size`` is not what the headers add up to."""
    if stated is None or stated == data_bytes:
        return None
    return (
        f"{shown(path)} claims a total_size of {stated:,} bytes, the headers add up to {data_bytes:,};"
        " the headers are right"
    )


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
        return _why_safetensors(lower, top, layout)
    if top in _ORIGINAL_FOLDERS and lower.endswith(_PICKLES):
        return "a duplicate of the weights in the authors' original format"
    if lower.endswith(_PICKLES) or lower.endswith(".bin.index.json"):
        return "weights as a PyTorch pickle; the safetensors files are read instead"
    for ending, reason in _OTHER_FORMATS.items():
        if lower.endswith(ending):
            return reason
    return "holds no weights"


def _why_safetensors(lower: str, top: str, layout: Layout) -> str:
    if lower.startswith("consolidated") or top in _ORIGINAL_FOLDERS:
        return "a duplicate of the weights in the authors' original format"
    stem = re.sub(r"(-\d{5,6}-of-\d{5,6})?\.safetensors(\.index\.json)?$", "", lower)
    base, _, variant = stem.partition(".")
    if variant and base in {"model", "adapter_model", *_COMPONENT_STEMS}:
        return f"the variant {variant}: transformers loads it only when asked to"
    if layout.components and layout.components[0].single and stem in {"model", *_COMPONENT_STEMS}:
        return f"{layout.components[0].single} comes first"
    return "not part of the layout that transformers would load"


def pickled_weights(paths: Iterable[str]) -> list[str]:
    """The PyTorch pickles among the files that may hold weights."""
    return [p for p in paths if p.endswith(_PICKLES) and "training_args" not in p]


def _nothing(paths: set[str], repo_id: str) -> NoSafetensorsError:
    """The error for a repo without a layout: what it holds instead, and what to do."""
    safetensors = sorted(p for p in paths if p.endswith(".safetensors"))
    gguf = [p for p in paths if p.endswith(".gguf")]
    pickles = pickled_weights(paths)
    others = sorted({reason for p in paths for end, reason in _OTHER_FORMATS.items() if p.endswith(end)})
    if safetensors:
        some = ", ".join(shown(p) for p in safetensors[:4]) + (", ..." if len(safetensors) > 4 else "")
        what = f"has safetensors files, but not where transformers looks for them: {some}"
        hint = "transformers loads model.safetensors or model.safetensors.index.json from the root of the repo"
    elif gguf:
        what = f"holds GGUF files only ({len(gguf)} of them), no safetensors"
        hint = "GGUF is for inference with llama.cpp: ask for the base model that its model card names"
    elif pickles:
        first = min(pickles, key=lambda p: (not p.startswith("pytorch_model"), p.count("/"), p))
        what = f"has its weights only as a PyTorch pickle ({shown(first)}), no safetensors"
        hint = "--allow-conversion-pr reads the Hub's safetensors conversion, where a pull request offers one"
    elif others:
        what = f"holds no safetensors, but {' and '.join(others)}"
        hint = "ask for a repo that publishes safetensors"
    else:
        what = "holds no weights at all"
        hint = "check the name and the revision; tokenizer and dataset repos have nothing to count"
    return NoSafetensorsError(f"{repo_id} {what}", hint=hint, repo_id=repo_id)
