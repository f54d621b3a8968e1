"""What is fuzzed: each target takes any bytes, and either reads them or refuses them in hubvram's own words."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hubvram import estimator
from hubvram.errors import HubvramError
from hubvram.plan.settings import Settings
from hubvram.snapshot.assemble import parse_config
from hubvram.snapshot.gguf import read_gguf
from hubvram.snapshot.header import LENGTH_BYTES, header_length, parse_header
from hubvram.snapshot.pickled import read_checkpoint
from hubvram.snapshot.records import Snapshot, TensorInfo
from hubvram.snapshot.shard_index import is_plain_path, parse_index
from hubvram.sources import chunks, model_api

CORPUS = Path(__file__).with_name("corpus")
METHODS = ("full", "lora", "qlora", "prefix_tuning", "inference")
"""Of every kind one: the whole model, adapters, a packed base, a cache that is prepended, no training."""


def header(data: bytes) -> None:
    """A safetensors file from its first byte."""
    try:
        length = header_length(data, "model.safetensors", repo_id="o/n")
        found = parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length], "model.safetensors", repo_id="o/n")
    except HubvramError as error:
        refused(error)
        return
    assert sum(t.numel for t in found.tensors) >= 0
    assert found.data_bytes >= 0


def index(data: bytes) -> None:
    """A ``model.safetensors.index.json``; whatever shards it names lie inside the repo."""
    try:
        found = parse_index(data, "sub/model.safetensors.index.json", "o/n")
    except HubvramError as error:
        refused(error)
        return
    for shard in found.shards:
        assert is_plain_path(shard)
        assert shard.startswith("sub/")


def config(data: bytes) -> None:
    """A config.json, all the way to estimates, with a header of a few tensors."""
    try:
        content = parse_config(data, "config.json", "o/n")
    except HubvramError as error:
        refused(error)
        return
    assert 1_000 < chunks.from_config(content) <= 2_000_000
    estimates(content)


def answer(data: bytes) -> None:
    """The Hub's description of a model."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(content, dict):
        assert "/" in model_api.canonical(content, "o/n")[1:] or content
        assert all(is_plain_path(f.path) for f in model_api.listing(content.get("siblings")))
        assert isinstance(model_api.metadata(content)["tags"], list)
        model_api.conversion_number(content)
        model_api.config_summary(content)


def pickled(data: bytes) -> None:
    """A PyTorch checkpoint, by its opcodes."""
    try:
        read_checkpoint(io.BytesIO(data), "pytorch_model.bin", "o/n")
    except HubvramError as error:
        refused(error)


def gguf(data: bytes) -> None:
    """A GGUF file."""
    try:
        read_gguf(io.BytesIO(data), "model.gguf", "o/n")
    except HubvramError as error:
        refused(error)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": header,
    "index": index,
    "config": config,
    "answer": answer,
    "pickled": pickled,
    "gguf": gguf,
}
"""Name of a target, and of its folder in the corpus."""


def estimates(
    content: dict[str, Any], tensors: tuple[TensorInfo, ...] = (), methods: tuple[str, ...] = METHODS
) -> None:
    """Describe and estimate; a refusal is a skip with its reason, or one of hubvram's errors."""
    snapshot = Snapshot("o/n", "main", None, None, "local", content, tensors)
    try:
        estimator.describe(snapshot)
        _, found = estimator.estimate(snapshot, Settings(), methods=methods)
    except HubvramError as error:
        refused(error)
        return
    for estimate in found:
        if estimate.status == "skipped":
            assert estimate.reason
            assert "\n" not in estimate.reason
        else:
            assert estimate.peak_allocated_bytes is not None
            assert 0 < estimate.peak_allocated_bytes < 10**40


def refused(error: HubvramError) -> None:
    """One line that may go to a terminal."""
    assert error.message.isprintable()
    assert len(error.message) < 2_000
    assert error.exit_code in range(1, 8)
