"""PEFT adapter repos: which base they sit on, and how to go on training them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubvram.errors import SettingError
from hubvram.plan import methods as catalogue
from hubvram.snapshot.kinds import named_base
from hubvram.snapshot.records import Snapshot
from hubvram.snapshot.text import shown
from hubvram.sources.refs import RepoRef, parse_ref

_LORA_ON_QUANTISED = {"lora": ("lora", "lora_int8", "qlora"), "dora": ("dora", "qdora")}
"""The same adapter on a base that is quantised while it is loaded."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter repo says of itself."""

    kind: str
    """``peft_type`` as PEFT writes it."""
    methods: tuple[str, ...]
    """Methods that go on training it; empty where the catalogue has none."""
    peft: Mapping[str, Any]
    """Its config: the keys that the method takes."""
    base: RepoRef | None
    """The base model; None where none is named that can be looked up."""
    base_named: str | None
    """The base as adapter_config.json has it."""


def read_adapter(snapshot: Snapshot) -> Adapter:
    """The adapter of a snapshot whose layout is ``adapter``."""
    found = snapshot.metadata.get("adapter_config")
    config: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    kind = config.get("peft_type")
    kind = kind if isinstance(kind, str) else "unknown"
    names = _methods(kind, config)
    keys = set(catalogue.find(names[0]).keys) if names else set()
    empty: tuple[Any, ...] = (None, {}, [])
    named = config.get("base_model_name_or_path")
    return Adapter(
        kind=kind,
        methods=names,
        peft={k: v for k, v in config.items() if k in keys and v not in empty},
        base=_base(snapshot, named, config.get("revision")),
        base_named=named if isinstance(named, str) else None,
    )


def _methods(kind: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    if kind == "LORA":
        name = "dora" if config.get("use_dora") is True else "rslora" if config.get("use_rslora") is True else "lora"
        return _LORA_ON_QUANTISED.get(name, (name,))
    if kind.lower() in catalogue.names():
        return (kind.lower(),)
    return tuple(name for name, method in catalogue.methods().items() if method.peft_type == kind)[:1]


def _base(snapshot: Snapshot, named: Any, revision: Any) -> RepoRef | None:
    """The base as the config names it; where that is a path on its author's machine, as the card does."""
    card = named_base(snapshot.metadata)
    for text, rev in ((named, revision), (card, None)):
        if not isinstance(text, str):
            continue
        try:
            ref = parse_ref(text, revision=rev if isinstance(rev, str) and rev else None)
        except SettingError:
            continue
        # A folder is only looked up for an adapter that is itself a folder here.
        if not ref.is_local or snapshot.source == "local":
            return ref
    return None


def continuing(adapter: Adapter, base: Snapshot) -> str:
    """The sentence that says what the estimates are of."""
    at = f" at {base.commit_sha[:12]}" if base.commit_sha else ""
    return (
        f"estimates are of going on to train this {shown(adapter.kind)} adapter, with its own adapter_config.json,"
        f" on its base model {base.repo_id}{at}"
    )


def no_base(adapter: Adapter) -> str:
    """Why nothing can be estimated without a base."""
    if adapter.base_named is None:
        return "adapter_config.json names no base model"
    return f"adapter_config.json names its base by {shown(adapter.base_named)}, which is no repo on the Hub"


def only_these(adapter: Adapter) -> str:
    """Why the other methods are skipped."""
    if not adapter.methods:
        return f"the repo is an adapter of the type {shown(adapter.kind)}, which is not in the catalogue"
    return f"the repo is a PEFT adapter: only {', '.join(adapter.methods)} and inference go on from it"
