"""What every test gets: no way off this machine, and a clean environment."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "hub")]  # test folders are no packages

from locations import FIXTURES, SHARED_MODELS, NetworkForbiddenError  # noqa: E402

if TYPE_CHECKING:
    from fakehub import FakeHub

# A machine with other work to do is slow without the code being at fault.
settings.register_profile("hubvram", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hubvram")

# A shell that runs the tests behind it has them ignore Ctrl-C, and what they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_CLEARED = ("HF_", "HUGGING", "TRANSFORMERS_", "HUBVRAM_", "NO_COLOR", "FORCE_COLOR", "CLICOLOR")
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection but to loopback fails the test, whatever library makes it."""

    def guard(address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if host is not None and str(host) not in _LOOPBACK:
            raise NetworkForbiddenError(f"connection to {address!r}")

    real_connect, real_connect_ex, real_lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def connect(self: socket.socket, address: Any) -> None:
        guard(address)
        real_connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        guard(address)
        return real_connect_ex(self, address)

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        # Names under .invalid cannot exist: the tests of "no such host" use them.
        if name is not None and name not in _LOOPBACK:
            if name.endswith(".invalid"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            raise NetworkForbiddenError(f"look-up of {name!r}")
        return real_lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No token, endpoint, proxy or cache of the machine reaches a test."""
    for name in list(os.environ):
        if name.upper().startswith(_CLEARED) or name.lower() in _PROXIES:
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))


@pytest.fixture(autouse=True)
def _nothing_caught(request: pytest.FixtureRequest) -> Iterator[None]:
    """What `hubvram.architecture.checked` turns into a skip is a fault of hubvram, unless the test is `hostile`."""
    if request.node.get_closest_marker("hostile"):
        yield
        return
    caught: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            caught.append(self.format(record))

    logger = logging.getLogger("hubvram.checked")
    handler, level = Handler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)
    assert not caught, caught[0]


@pytest.fixture
def fixtures_dir() -> Path:
    """The repo's own copies of real headers: ``<org>/<name>/``."""
    return FIXTURES


@pytest.fixture
def fake_hub() -> Iterator[FakeHub]:
    """A Hub on loopback that serves `fixtures/`: ``.url``, ``.log``, faults on demand (tests/hub/fakehub.py)."""
    from fakehub import FakeHub, mounted_on_loopback

    with mounted_on_loopback(FakeHub.of(FIXTURES)) as hub:
        yield hub


@pytest.fixture
def shared_models() -> Path:
    """The larger library of real headers (``HUBVRAM_SHARED_MODELS`` or ``../shared/models``); skips without it."""
    if SHARED_MODELS is None:
        pytest.skip("no library of real headers: set HUBVRAM_SHARED_MODELS")
    return SHARED_MODELS
