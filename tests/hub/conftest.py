"""Fake Hubs: every test of this folder runs on each mount that the installed huggingface_hub can take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import huggingface_hub
import pytest
from fakehub import FakeHub, mounted_in_responses

HUB_MAJOR = int(huggingface_hub.__version__.split(".")[0])
MOUNTS = ["loopback", "responses"] if HUB_MAJOR < 1 else ["loopback"]
INTERCEPTED = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[INTERCEPTED] = {"tests": 0, "calls": 0}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A 0.36 leg whose `responses` tests never met `responses` has tested nothing: fail it."""
    seen = session.config.stash[INTERCEPTED]
    if seen["tests"] and not seen["calls"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(params=MOUNTS)
def hub(request: pytest.FixtureRequest, fake_hub: FakeHub) -> Iterator[FakeHub]:
    """A fresh fake Hub, reached over loopback or (huggingface_hub < 1) through `responses`."""
    if request.param == "loopback":
        yield fake_hub
        return
    seen = request.config.stash[INTERCEPTED]
    seen["tests"] += 1
    with mounted_in_responses(fake_hub) as mock:
        yield fake_hub
        seen["calls"] += len(mock.calls)


@pytest.fixture
def responses_mock(fake_hub: FakeHub) -> Iterator[Any]:
    """The fake Hub through `responses`, with its record of calls."""
    with mounted_in_responses(fake_hub) as mock:
        yield mock
