"""huggingface_hub 0.36 speaks requests: there, and only there, `responses` must see every request."""

from __future__ import annotations

from typing import Any

import huggingface_hub
import pytest
from fakehub import FakeHub
from helpers import fetch

HUB_MAJOR = int(huggingface_hub.__version__.split(".")[0])

pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(
        HUB_MAJOR >= 1, reason="huggingface_hub 1 and 2 do not use requests: responses would see nothing"
    ),
]


def test_every_request_went_through_responses(fake_hub: FakeHub, responses_mock: Any) -> None:
    snapshot = fetch(fake_hub, "mistralai/Mistral-7B-v0.1")
    assert sum(t.numel for t in snapshot.tensors) == 7_241_732_096
    assert len(responses_mock.calls) == len(fake_hub.log) == 4
    assert all(call.request.url.startswith("http://hub.invalid/") for call in responses_mock.calls)


def test_a_range_and_a_stream_go_through_too(fake_hub: FakeHub, responses_mock: Any) -> None:
    fake_hub.ignore_range()
    snapshot = fetch(fake_hub, "TheBloke/Mistral-7B-v0.1-GPTQ")
    assert sum(t.numel for t in snapshot.tensors) == 1_198_788_608
    assert len(responses_mock.calls) == 3
