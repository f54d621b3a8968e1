"""Repos that cannot be estimated, by name: the second half of the table of kinds in docs/hub.md, and its tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fakehub import GRANTED, FakeHub

from hubvram.client import Client
from hubvram.errors import HubvramError
from hubvram.sources.loopback import Content

SMALL = "HuggingFaceTB/SmolLM2-135M"
GATED = "meta-llama/Llama-3.2-1B"


@dataclass(frozen=True)
class Refusal:
    """One kind of repo that has no answer."""

    repo: str
    arrange: Callable[[FakeHub], None]
    code: str
    exit_code: int
    token: str | bool = GRANTED


@dataclass(frozen=True)
class Said:
    """The error's words, the Hub's address as ``HUB``."""

    code: str
    exit_code: int
    message: str
    hint: str


def _as_it_is(hub: FakeHub) -> None:
    """Nothing to arrange."""


def _private(hub: FakeHub) -> None:
    found = hub.inner.repo(SMALL)
    assert found is not None
    found.meta["private"] = True


def _only(*names: str) -> Callable[[FakeHub], None]:
    def arrange(hub: FakeHub) -> None:
        hub.remove(SMALL, "model.safetensors")
        for name in names:
            hub.file(SMALL, name, Content(b"", 1_000))

    return arrange


def _config(raw: bytes) -> Callable[[FakeHub], None]:
    return lambda hub: (hub.inner.repo(SMALL), hub.file(SMALL, "config.json", Content(raw, len(raw))))[1]


def _header(raw: bytes) -> Callable[[FakeHub], None]:
    def arrange(hub: FakeHub) -> None:
        hub.inner.repo(SMALL)
        body = len(raw).to_bytes(8, "little") + raw
        hub.file(SMALL, "model.safetensors", Content(body, len(body)))

    return arrange


def _index(shard: str) -> Callable[[FakeHub], None]:
    def arrange(hub: FakeHub) -> None:
        hub.inner.bulk = False
        hub.remove(SMALL, "model.safetensors")
        raw = json.dumps({"weight_map": {"w": shard}}).encode()
        hub.file(SMALL, "model.safetensors.index.json", Content(raw, len(raw)))

    return arrange


TABLE: dict[str, Refusal] = {
    "no such repo": Refusal("nobody/nothing", _as_it_is, "repo_not_found", 3),
    "no such revision": Refusal(f"{SMALL}@v9", _as_it_is, "revision_not_found", 3),
    "private, no token": Refusal(SMALL, _private, "repo_not_found", 3, token=False),
    "gated, no token, no public counts": Refusal(GATED, _as_it_is, "gated", 4, token=False),
    "gated, a token without access": Refusal(GATED, _as_it_is, "gated", 4, token="hf_other_token"),
    "disabled": Refusal(
        SMALL, lambda hub: hub.fault("/api/", 403, message="This repository is disabled."), "disabled", 4
    ),
    "no weights": Refusal(SMALL, _only(), "no_safetensors", 6),
    "weights of another framework": Refusal(SMALL, _only("tf_model.h5", "flax_model.msgpack"), "no_safetensors", 6),
    "config.json that is no JSON": Refusal(SMALL, _config(b"{'model_type': 'llama'}"), "bad_config", 6),
    "config.json that is a list": Refusal(SMALL, _config(b"[]"), "bad_config", 6),
    "a header that is no JSON": Refusal(SMALL, _header(b"{'w': 1}"), "corrupt_header", 6),
    "a header that names a tensor twice": Refusal(SMALL, _header(b'{"w":[],"w":[]}'), "corrupt_header", 6),
    "a negative side": Refusal(
        SMALL, _header(b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'), "corrupt_header", 6
    ),
    "a shape that overflows": Refusal(
        SMALL,
        _header(b'{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}'),
        "corrupt_header",
        6,
    ),
    "offsets past the end of the file": Refusal(
        SMALL, _header(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), "corrupt_header", 6
    ),
    "offsets reversed": Refusal(
        SMALL, _header(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}'), "corrupt_header", 6
    ),
    "a header that is not UTF-8": Refusal(SMALL, _header(b'{"\xff":{}}'), "corrupt_header", 6),
    "a shard outside the repo": Refusal(SMALL, _index("../../etc/x.safetensors"), "corrupt_header", 6),
    "a shard by URL": Refusal(SMALL, _index("https://127.0.0.1/x.safetensors"), "corrupt_header", 6),
    "a shard that is not there": Refusal(SMALL, _index("x.safetensors"), "entry_not_found", 3),
}


def refuse(case: Refusal, hub: FakeHub, db: Path) -> Said:
    """What the command says of it."""
    host = hub.url.partition("//")[2]
    case.arrange(hub)
    try:
        with Client(endpoint=hub.url, db=db, token=case.token) as client:
            client.estimate(case.repo, ["lora"])
    except HubvramError as error:
        hint = (error.hint or "").replace(host, "HUB")
        return Said(error.code, error.exit_code, error.message.replace(host, "HUB"), hint)
    raise AssertionError(f"{case.repo} has an answer")
