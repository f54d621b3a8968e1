"""Descriptions, configs and listings that nobody would write in good faith; and the network guard itself."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from fakehub import FakeHub
from helpers import fetch
from hypothesis import given
from hypothesis import strategies as st
from locations import NetworkForbiddenError

from hubvram.errors import NoSafetensorsError
from hubvram.sources import chunks
from hubvram.sources.loopback import Content
from hubvram.sources.model_api import listing as _listing
from hubvram.sources.model_api import metadata as _metadata

_keys = st.sampled_from(
    "num_hidden_layers num_experts text_config vision_config quantization_config quant_method is_encoder_decoder"
    " decoder_layers n_layer rms_norm_eps x".split()
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=5),
    max_leaves=15,
)


@given(st.dictionaries(_keys, _json, max_size=6))
def test_any_config_gives_a_sensible_first_chunk(config: dict[str, Any]) -> None:
    assert 1_000 < chunks.from_config(config) <= 2_000_000


@given(
    st.lists(
        _json | st.fixed_dictionaries({"rfilename": _json}, optional={"size": _json, "lfs": _json, "blobId": _json}),
        max_size=5,
    )
    | _json
)
def test_any_listing_is_read_or_skipped(siblings: Any) -> None:
    for file in _listing(siblings):
        assert file.path
        assert file.size is None or file.size >= 0


@given(st.dictionaries(st.sampled_from(["gated", "private", "cardData", "tags", "safetensors", "library_name"]), _json))
def test_any_description_is_read(answer: dict[str, Any]) -> None:
    found = _metadata(answer)
    assert isinstance(found["tags"], list)
    assert isinstance(found["private"], bool)


@pytest.mark.parametrize(
    "path",
    [
        "../model.safetensors",
        "../../api/whoami-v2",
        "/model.safetensors",
        "a/../model.safetensors",
        "a\\b",
        "a\nb",
        "",
        "./a",
    ],
)
def test_a_listed_path_that_leads_out_of_the_repo_is_no_file(path: str) -> None:
    assert _listing([{"rfilename": path, "size": 1}, {"rfilename": "ok"}]) == _listing([{"rfilename": "ok"}])


@pytest.mark.hub
def test_a_pipeline_with_a_folder_called_dot_dot(hub: FakeHub) -> None:
    repo = "HuggingFaceTB/SmolLM2-135M"
    hub.remove(repo, "model.safetensors")
    for path in ("model_index.json", "../model.safetensors"):
        hub.file(repo, path, Content(b"{}", 2))
    with pytest.raises(NoSafetensorsError):
        fetch(hub, repo)
    assert len(hub.log) == 1


@pytest.mark.hub
@pytest.mark.parametrize(
    "config", [{"a": [1] * 3}, {"model_type": 7, "num_hidden_layers": "many"}, {"x": float("nan")}]
)
def test_odd_configs_are_kept_as_they_are(hub: FakeHub, config: dict[str, Any]) -> None:
    raw = json.dumps(config).encode()
    hub.file("HuggingFaceTB/SmolLM2-135M", "config.json", Content(raw, len(raw)))
    snapshot = fetch(hub, "HuggingFaceTB/SmolLM2-135M")
    assert json.dumps(dict(snapshot.config)) == json.dumps(config)


@pytest.mark.hub
def test_no_config_at_all_is_a_warning(hub: FakeHub) -> None:
    hub.remove("HuggingFaceTB/SmolLM2-135M", "config.json")
    snapshot = fetch(hub, "HuggingFaceTB/SmolLM2-135M")
    assert len(snapshot.tensors) == 272
    assert snapshot.config == {}
    assert any("no config.json" in w for w in snapshot.warnings)
    assert not hub.requests(r"config\.json")


@pytest.mark.parametrize("address", [("192.0.2.1", 443), ("10.0.0.1", 80)])
def test_the_guard_stops_connections(address: tuple[str, int]) -> None:
    with socket.socket() as sock, pytest.raises(NetworkForbiddenError):
        sock.connect(address)


def test_the_guard_stops_look_ups_whatever_the_library() -> None:
    from huggingface_hub.utils import get_session

    with pytest.raises(NetworkForbiddenError):
        get_session().get("https://huggingface.co/api/models/gpt2")
