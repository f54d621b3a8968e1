"""What kind of repo a snapshot is of, in sentences: what was read, what is not run, where to go instead."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hubvram.snapshot.files import Layout
from hubvram.snapshot.header import Header
from hubvram.snapshot.text import shown

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def named_base(metadata: Mapping[str, Any]) -> str | None:
    """The one base model that the card (or a GGUF header) names, if it is a repo's name."""
    named = metadata.get("base_model")
    if isinstance(named, list) and len(named) == 1:
        named = named[0]
    plain = isinstance(named, str) and len(named) <= 193 and ".." not in named and _REPO.fullmatch(named)
    return named if isinstance(named, str) and plain else None


def quantisation(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The quantisation of a config, under either name, in the config or in that of its text model."""
    nested = config.get("text_config")
    for where in (config, nested if isinstance(nested, Mapping) else {}):
        found = where.get("quantization_config") or where.get("compression_config")
        if isinstance(found, Mapping):
            return found
    return {}


def quantisation_name(quantised: Mapping[str, Any]) -> str | None:
    """``gptq, 4 bits``: the method and what it says of its width."""
    method = quantised.get("quant_method") or quantised.get("quant_algo")
    if not isinstance(method, str) or not method.isprintable() or len(method) > 40:
        return None
    bits: Any = quantised.get("bits") or quantised.get("w_bit")
    if quantised.get("load_in_4bit") is True or quantised.get("_load_in_4bit") is True:
        bits = 4
    elif quantised.get("load_in_8bit") is True or quantised.get("_load_in_8bit") is True:
        bits = 8
    if type(bits) is int and 0 < bits < 32:
        return f"{method}, {bits} bits"
    form = quantised.get("format") or quantised.get("fmt")
    return f"{method}, {form}" if isinstance(form, str) and re.fullmatch(r"[\w.-]{1,40}", form) else method


def kind_notes(layout: Layout, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """Sentences about the kind of the repo; ``config`` is what ``layout.config`` holds."""
    notes = []
    base = named_base(metadata)
    if layout.format == "gguf":
        return [gguf_sentence(metadata)]
    if any(c.format == "pickle" for c in layout.components):
        notes.append(
            "weights in PyTorch pickles: counted exactly from the zip directory and the pickle's opcodes,"
            " nothing was unpickled"
        )
    if layout.kind == "adapter":
        notes.append("the repo is a PEFT adapter, not a model of its own: the parameters are the adapter's")
    elif layout.kind == "pipeline":
        notes.append("the repo is a pipeline of several models: the parameters are those of all of them")
    elif layout.config is None:
        notes.append("the repo has no config.json: only its tensors are known")
    else:
        code = config.get("auto_map")
        if code:
            files = sorted({str(v).split(".", 1)[0] for v in code.values()} if isinstance(code, Mapping) else ())
            where = f" ({', '.join(shown(f + '.py') for f in files[:3])})" if files else ""
            notes.append(f"config.json names code of its own{where}, which is never run")
        name = quantisation_name(quantisation(config))
        if name is not None and base is not None:
            notes.append(f"the weights are quantised ({name}); the card names {base} as the base model")
    return notes


def gguf_sentence(metadata: Mapping[str, Any]) -> str:
    """Why a GGUF file is not trained, and what is."""
    base = named_base(metadata)
    instead = f"its base model is {base}" if base else "ask for the base model that its card names"
    return f"GGUF is for inference with llama.cpp, not for training; {instead}"


def components(layout: Layout, index: Mapping[str, Any], headers: Mapping[str, Header]) -> list[dict[str, Any]]:
    """The models of a pipeline: folder, class as model_index.json names it, exact counts.

    Args:
        layout: a pipeline's.
        index: model_index.json.
        headers: of all weights files, by path.
    """
    out = []
    for component in layout.components:
        prefix = f"{component.folder}/"
        paths = sorted(p for p in headers if p.startswith(prefix))
        by_dtype: Counter[str] = Counter()
        for path in paths:
            for tensor in headers[path].tensors:
                by_dtype[tensor.dtype] += tensor.numel
        listed = index.get(component.folder)
        class_name = listed[1] if isinstance(listed, list) and len(listed) == 2 else None
        out.append(
            {
                "name": component.folder,
                "class": class_name if isinstance(class_name, str) else None,
                "parameters": sum(by_dtype.values()),
                "by_dtype": dict(sorted(by_dtype.items(), key=lambda item: (-item[1], item[0]))),
                "files": paths,
            }
        )
    return out
