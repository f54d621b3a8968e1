"""Which of a repo's files hold the model: the one layout that transformers would load.

Repos carry the same weights several times over: Mistral's `consolidated`
files, Llama's `original/`, `fp16` and `ema` variants, pickles, GGUF. Counting
them all would double the model, so one layout is chosen from the file listing
and every other file is named with the reason it is left out.

Order as in transformers' `from_pretrained`: `model.safetensors`, else
`model.safetensors.index.json` and the shards it names. A repo without either
may be a PEFT adapter (`adapter_model.safetensors`) or a pipeline of folders
(`model_index.json`, diffusers), whose components are chosen the same way.
Then what transformers would not find by itself, if there is just one of it: a
safetensors file by another name, a model in a subfolder. Last, PyTorch pickles
and GGUF.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hubvram.errors import EntryNotFoundError, NoSafetensorsError
from hubvram.snapshot.files import (
    COMPONENT_STEMS,
    NO_WEIGHTS,
    ORIGINAL_FOLDERS,
    OTHER_FORMATS,
    PICKLED_STEMS,
    PICKLES,
    Component,
    Format,
    Layout,
    LayoutKind,
    ListedFile,
    describe_files,
    why_ignored,
)
from hubvram.snapshot.shard_index import ShardIndex, is_plain_path, parse_index, stated_size, total_size_warning
from hubvram.snapshot.text import shown

__all__ = [
    "Component",
    "Layout",
    "LayoutKind",
    "ListedFile",
    "ShardIndex",
    "choose",
    "describe_files",
    "is_plain_path",
    "parse_index",
    "pickled_weights",
    "stated_size",
    "total_size_warning",
    "why_ignored",
]

_SERIES = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<of>\d{5,6})(?P<tail>(?:\.\w+)?\.(?:safetensors|bin|gguf))"
)
_VARIANT = re.compile(
    r"(?:model|adapter_model|diffusion_pytorch_model)\.(?P<name>[\w.-]+?)(?:-\d{5,6}-of-\d{5,6})?\.safetensors"
)


def choose(files: Iterable[ListedFile], repo_id: str, *, variant: str | None = None, file: str | None = None) -> Layout:
    """Choose the layout from a listing.

    Args:
        files: the listing.
        repo_id: for the messages.
        variant: ``fp16`` for ``model.fp16.safetensors``, as in ``from_pretrained``.
        file: a weights file, an index or a folder to read instead of the usual place.

    Raises:
        NoSafetensorsError: if there is none; the message says what there is
            instead, the hint what to do about it.
        EntryNotFoundError: if there is no such variant or file.
    """
    paths = {f.path for f in files}
    if file is not None:
        return _asked_for(paths, file, repo_id, variant)
    root = _component(paths, "", ("model",), variant)
    if root is not None:
        return Layout("model", (root,), _present(paths, "config.json"))
    if "model_index.json" in paths:
        pipeline = _pipeline(paths, variant, repo_id)
        if pipeline is not None:
            return pipeline
    if variant is not None:
        raise _no_variant(paths, variant, repo_id)
    if "adapter_model.safetensors" in paths:
        return _adapter(paths, "adapter_model.safetensors")
    for look in (_usual_pickle, _odd_names, _subfolder, _odd_pickle, _gguf):
        found = look(paths)
        if found is not None:
            return found
    raise _nothing(paths, repo_id)


# -- where transformers looks ---------------------------------------------------


def _present(paths: set[str], *candidates: str) -> str | None:
    return next((c for c in candidates if c in paths), None)


def _config_for(paths: set[str], folder: str) -> str | None:
    """The config beside a weights file, else the repo's."""
    return _present(paths, *([f"{folder}/config.json"] if folder else []), "config.json")


def _component(
    paths: set[str], prefix: str, stems: Sequence[str], variant: str | None = None, ending: str = "safetensors"
) -> Component | None:
    kind: Format = "pickle" if ending == "bin" else "safetensors"
    for stem in stems:
        named = f"{stem}.{variant}" if variant else stem
        single = f"{prefix}{named}.{ending}"
        if single in paths:
            return Component(single, None, format=kind)
        # transformers writes model.safetensors.index.fp16.json, older diffusers model.fp16.safetensors.index.json.
        indexes = [f"{single}.index.json"]
        if variant:
            indexes.insert(0, f"{prefix}{stem}.{ending}.index.{variant}.json")
        index = _present(paths, *indexes)
        if index is not None:
            return Component(None, index, _family(paths, f"{prefix}{named}", f".{ending}"), kind)
    return None


def _family(paths: set[str], stem: str, tail: str = ".safetensors") -> tuple[str, ...]:
    """The shards ``stem-i-of-n``, if they are one whole series; else nothing."""
    numbers: dict[int, str] = {}
    totals: set[str] = set()
    for path in paths:
        match = _SERIES.fullmatch(path)
        if match and match["stem"] == stem and match["tail"] == tail:
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


def _adapter(paths: set[str], weights: str) -> Layout:
    folder = weights.rpartition("/")[0]
    config = _present(paths, *([f"{folder}/adapter_config.json"] if folder else []), "adapter_config.json")
    kind: Format = "safetensors" if weights.endswith(".safetensors") else "pickle"
    return Layout("adapter", (Component(weights, None, format=kind),), config)


def _pipeline(paths: set[str], variant: str | None, repo_id: str) -> Layout | None:
    """A component per folder; as diffusers does, without the variant where a folder has none of that name."""
    folders = sorted({p.split("/", 1)[0] for p in paths if "/" in p} - set(ORIGINAL_FOLDERS))
    components = []
    without = []
    hits = 0
    for folder in folders:
        found = _component(paths, f"{folder}/", COMPONENT_STEMS, variant) if variant else None
        hits += found is not None
        if found is None:
            found = _component(paths, f"{folder}/", COMPONENT_STEMS) or _component(
                paths, f"{folder}/", PICKLED_STEMS, None, "bin"
            )
            if found is not None and variant:
                without.append(folder)
        if found is not None:
            components.append(found)
    if not components:
        return None
    if variant and not hits:
        raise _no_variant(paths, variant, repo_id)
    notes = [f"{', '.join(without)}: no variant {shown(variant)} there, the usual files are read"] if without else []
    return Layout("pipeline", tuple(components), "model_index.json", tuple(notes))


# -- where it does not -----------------------------------------------------------


def _sets(paths: Iterable[str], all_paths: set[str]) -> list[Component]:
    """The safetensors (pickle, GGUF) files of one folder as whole sets: shards of one series are one."""
    out: dict[str, Component] = {}
    for path in sorted(paths):
        match = _SERIES.fullmatch(path)
        kind: Format = (
            "safetensors" if path.endswith(".safetensors") else "gguf" if path.endswith(".gguf") else "pickle"
        )
        if match is None:
            out[path] = Component(path, None, format=kind)
            continue
        family = _family(all_paths, match["stem"], match["tail"])
        if not family:
            out[path] = Component(path, None, format=kind)
            continue
        index = _present(all_paths, f"{match['stem']}{match['tail']}.index.json")
        out[match["stem"]] = Component(None, index, family, kind)
    return list(out.values())


def _odd_names(paths: set[str]) -> Layout | None:
    """The one safetensors model of the root that has another name; None where there is none, or several."""
    here = [p for p in paths if "/" not in p and p.endswith(".safetensors")]
    indexes = sorted(p for p in paths if "/" not in p and p.endswith(".safetensors.index.json"))
    if len(indexes) == 1:
        stem = indexes[0].removesuffix(".safetensors.index.json")
        one = Component(None, indexes[0], _family(paths, stem))
        return _unusual(paths, one, f"the weights are read by {shown(indexes[0])}, not by the usual index")
    usual = [p for p in here if not p.startswith("consolidated")]
    # Variants of a file that is not there, and the authors' own format, come last.
    plain = [p for p in usual if not _VARIANT.fullmatch(p)]
    for group in (plain, usual, here):
        if not group:
            continue
        found = _sets(group, paths)
        if len(found) != 1:
            return None
        name = found[0].single or found[0].family[0]
        series = "a series of shards without an index, from " if found[0].single is None else ""
        note = f"the weights are read from {series}{shown(name)}: transformers finds no file of the usual name"
        return _unusual(paths, found[0], note)
    return None


def _unusual(paths: set[str], component: Component, note: str) -> Layout:
    return Layout("model", (component,), _config_for(paths, component.folder), (note,))


def _subfolder(paths: set[str]) -> Layout | None:
    """The one folder with a model in it; of sentence-transformers' modules, the first."""
    folders = sorted({p.rpartition("/")[0] for p in paths if "/" in p})
    folders = [f for f in folders if f.split("/", 1)[0] not in ORIGINAL_FOLDERS]
    found = {f: c for f in folders if (c := _component(paths, f"{f}/", COMPONENT_STEMS)) is not None}
    if "modules.json" in paths and len(found) > 1:
        found = {f: c for f, c in found.items() if f.startswith("0_")} or found
    if len(found) != 1:
        return None
    ((folder, component),) = found.items()
    return _unusual(paths, component, f"the weights are read from the folder {shown(folder)}: the root holds none")


# -- other formats ---------------------------------------------------------------


def pickled_weights(paths: Iterable[str]) -> list[str]:
    """The PyTorch pickles among the files that may hold weights."""
    return [p for p in paths if p.endswith(PICKLES) and not NO_WEIGHTS.search(p.rpartition("/")[2])]


def _usual_pickle(paths: set[str]) -> Layout | None:
    root = _component(paths, "", ("pytorch_model",), None, "bin")
    if root is not None:
        return Layout("model", (root,), _present(paths, "config.json"))
    return _adapter(paths, "adapter_model.bin") if "adapter_model.bin" in paths else None


def _odd_pickle(paths: set[str]) -> Layout | None:
    pickles = [p for p in pickled_weights(paths) if p.split("/", 1)[0] not in ORIGINAL_FOLDERS]
    found = _sets([p for p in pickles if "/" not in p], paths) or _sets(pickles, paths)
    if len(found) == 1:
        name = found[0].single or found[0].family[0]
        return _unusual(paths, found[0], f"the weights are read from {shown(name)}: no file has the usual name")
    return None


def _gguf(paths: set[str]) -> Layout | None:
    """One GGUF model: the only one, else the Q4_K_M as llama.cpp takes it, else the first."""
    ours = [p for p in paths if p.endswith(".gguf")]
    models = [p for p in ours if not re.search(r"mmproj|imatrix", p.rpartition("/")[2], re.IGNORECASE)] or ours
    found = _sets(models, paths)
    if not found:
        return None
    names = [(c.single or c.family[0], c) for c in found]
    name, chosen = next(((n, c) for n, c in names if re.search(r"q4_k_m", n, re.IGNORECASE)), names[0])
    notes: tuple[str, ...] = ()
    if len(found) > 1:
        notes = (f"one of {len(found)} GGUF models is read: {shown(name)}; --file reads another",)
    return Layout("model", (chosen,), None, notes)


# -- what was asked for ----------------------------------------------------------


def _asked_for(paths: set[str], file: str, repo_id: str, variant: str | None) -> Layout:
    """The layout around a file or folder that the user names."""
    path = file.strip().removeprefix("./").rstrip("/")
    if path not in paths:
        found = _component(paths, f"{path}/", COMPONENT_STEMS, variant)
        found = found or _component(paths, f"{path}/", PICKLED_STEMS, variant, "bin")
        adapter = _present(paths, f"{path}/adapter_model.safetensors", f"{path}/adapter_model.bin")
        if found is None and adapter is not None:
            return _adapter(paths, adapter)
        if found is None:
            raise _no_file(paths, file, repo_id)
        return Layout("model", (found,), _config_for(paths, path))
    name = path.rpartition("/")[2]
    if name.startswith("adapter_model."):
        return _adapter(paths, path)
    for ending, kind in ((".safetensors.index.json", "safetensors"), (".bin.index.json", "pickle")):
        if name.endswith(ending):
            family = _family(paths, path.removesuffix(ending), ending.removesuffix(".index.json"))
            component = Component(None, path, family, kind)  # type: ignore[arg-type]  # the two words above
            return Layout("model", (component,), _config_for(paths, component.folder))
    if not name.endswith((".safetensors", ".gguf", *PICKLES)):
        raise EntryNotFoundError(
            f"{repo_id}: {shown(path)} is not a weights file",
            hint="--file takes a .safetensors, .gguf or .bin file, an index, or a folder",
            repo_id=repo_id,
        )
    (component,) = _sets([path], paths)
    return Layout("model", (component,), None if component.format == "gguf" else _config_for(paths, component.folder))


def _no_file(paths: set[str], file: str, repo_id: str) -> EntryNotFoundError:
    weights = sorted(p for p in paths if p.endswith((".safetensors", ".gguf", *PICKLES)))
    near = difflib.get_close_matches(file, weights, n=1, cutoff=0.5) or weights[:1]
    hint = f"did you mean {shown(near[0])}?" if near else "the repo holds no weights"
    return EntryNotFoundError(f"{repo_id} has no file or folder {shown(file)} with weights", hint=hint, repo_id=repo_id)


def _no_variant(paths: set[str], variant: str, repo_id: str) -> EntryNotFoundError:
    matches = (_VARIANT.fullmatch(p.rpartition("/")[2]) for p in paths)
    known = sorted({m["name"] for m in matches if m})
    hint = f"it has: {', '.join(shown(v) for v in known[:6])}" if known else "it has no variants: leave --variant out"
    return EntryNotFoundError(f"{repo_id} has no variant {shown(variant)}", hint=hint, repo_id=repo_id)


def _nothing(paths: set[str], repo_id: str) -> NoSafetensorsError:
    """The error for a repo without a layout: what it holds instead, and what to do."""
    safetensors = sorted(p for p in paths if p.endswith(".safetensors"))
    pickles = sorted(pickled_weights(paths), key=lambda p: (p.count("/"), p))
    others = sorted({reason for p in paths for end, reason in OTHER_FORMATS.items() if p.endswith(end)})
    if safetensors:
        what = f"has safetensors files, but not where transformers looks for them: {_some(safetensors)}"
        hint = f"name the one to read: --file {safetensors[0]}" if is_plain_path(safetensors[0]) else "--file NAME"
    elif pickles:
        what = f"has its weights only as PyTorch pickles, by no usual name: {_some(pickles)}"
        hint = f"name the one to read: --file {pickles[0]}" if is_plain_path(pickles[0]) else "--file NAME"
    elif others:
        what = f"holds no safetensors, but {' and '.join(others)}"
        hint = "ask for a repo that publishes safetensors"
    else:
        what = "holds no weights at all"
        hint = "check the name and the revision; tokenizer and dataset repos have nothing to count"
    return NoSafetensorsError(f"{repo_id} {what}", hint=hint, repo_id=repo_id)


def _some(paths: Sequence[str]) -> str:
    return ", ".join(shown(p) for p in paths[:4]) + (", ..." if len(paths) > 4 else "")


def with_notes(layout: Layout, *notes: str) -> Layout:
    """The layout with more sentences about it."""
    return replace(layout, notes=(*layout.notes, *notes))
