"""What stands between the command and the Hub: proxies, certificates, time limits, a rate limit to sit out."""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from fakehub import FakeHub

from hubvram.cli.main import run as cli
from hubvram.sources.loopback import Answer, Content

pytestmark = pytest.mark.hub

REPO = "HuggingFaceTB/SmolLM2-135M"
TOTAL = 134_515_008


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: HTTP clients read proxies and certificates when they are made."""
    return subprocess.run(
        [sys.executable, "-m", "hubvram", *(arguments or (REPO,)), "-m", "lora", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def failed(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The error line of a run that failed as it should: one line, one hint, and the same as JSON."""
    lines = done.stderr.splitlines()
    assert done.returncode == code, done.stderr
    assert [line.partition(":")[0] for line in lines if not line.startswith("the Hub asks")] == ["Error", "Hint"]
    message = lines[-2].removeprefix("Error: ")
    assert json.loads(done.stdout)["error"]["message"] in message
    return message


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    return {"HUBVRAM_DB": str(tmp_path / "cache.db")}


# -- proxies ------------------------------------------------------------------


@contextmanager
def proxy(status: int, seen: list[str]) -> Iterator[str]:
    """A proxy that refuses everything with one status."""

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            seen.append(f"{self.command} {self.path}")
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_CONNECT = _refuse  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    with _serving(Handler) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[int]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            """A client that hangs up in the handshake is what is tested."""

    with Server(("127.0.0.1", 0), handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_through_a_proxy(fake_hub: FakeHub, cache: dict[str, str]) -> None:
    done = run(HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=fake_hub.url, http_proxy=fake_hub.url, **cache)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"]["total"] == TOTAL
    assert all(request.url.startswith("http://hub.invalid/") for request in fake_hub.log)


def test_no_proxy_is_heeded(fake_hub: FakeHub, cache: dict[str, str]) -> None:
    elsewhere = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = run(HF_ENDPOINT=fake_hub.url, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1", **elsewhere, **cache)
    assert done.returncode == 0, done.stderr


def test_a_proxy_that_refuses_a_secure_connection(cache: dict[str, str]) -> None:
    seen: list[str] = []
    with proxy(403, seen) as url:
        message = failed(run(HF_ENDPOINT="https://hub.invalid", HTTPS_PROXY=url, https_proxy=url, **cache), 5)
    assert "hub.invalid" in message
    assert "proxy" in message
    assert 1 <= len(seen) <= 4


def test_a_proxy_that_wants_a_login(cache: dict[str, str]) -> None:
    with proxy(407, []) as url:
        message = failed(run(HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=url, http_proxy=url, **cache), 5)
    assert "407" in message


def test_a_proxy_that_is_not_there(cache: dict[str, str]) -> None:
    gone = "http://127.0.0.1:9"
    message = failed(run(HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=gone, http_proxy=gone, **cache), 5)
    assert "hub.invalid" in message


# -- certificates -------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine that nobody vouches for, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    place = tmp_path_factory.mktemp("certificate") / "both.pem"
    command = (
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
        f" -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {place} -out {place}.crt"
    )
    subprocess.run(command.split(), capture_output=True, check=True)
    place.write_text(place.read_text() + Path(f"{place}.crt").read_text())
    return place


@contextmanager
def secure(certificate: Path, fake_hub: FakeHub, seen: list[str]) -> Iterator[str]:
    """The fake Hub behind TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            found = fake_hub.inner.answer("GET", self.path, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(found.status)
            for key, value in found.headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(found.length))
            self.end_headers()
            for piece in found.chunks():
                self.wfile.write(piece)

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with _serving(Handler, context) as port:
        yield f"https://127.0.0.1:{port}"


def test_a_certificate_that_nobody_vouches_for(fake_hub: FakeHub, certificate: Path, cache: dict[str, str]) -> None:
    seen: list[str] = []
    with secure(certificate, fake_hub, seen) as url:
        done = run(HF_ENDPOINT=url, HF_TOKEN="hf_granted_token", **cache)
    message = failed(done, 5)
    assert "no secure connection to 127.0.0.1" in message
    assert "SSL_CERT_FILE" in done.stderr
    assert "hf_granted_token" not in done.stderr + done.stdout
    assert seen == []  # nothing was asked, so no token was sent


def test_a_certificate_that_the_user_vouches_for(fake_hub: FakeHub, certificate: Path, cache: dict[str, str]) -> None:
    seen: list[str] = []
    trust = {"SSL_CERT_FILE": f"{certificate}.crt", "REQUESTS_CA_BUNDLE": f"{certificate}.crt"}
    with secure(certificate, fake_hub, seen) as url:
        done = run(HF_ENDPOINT=url, **trust, **cache)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"]["total"] == TOTAL
    assert len(seen) == 3


# -- time ---------------------------------------------------------------------


@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_time_limit_for_everything(fake_hub: FakeHub, cache: dict[str, str], way: str) -> None:
    def slow(answer: Answer, _request: object) -> Answer:
        time.sleep(0.7)
        return answer

    fake_hub.bend("", slow)
    start = time.monotonic()
    if way == "option":
        done = run(REPO, "--timeout", "1", HF_ENDPOINT=fake_hub.url, **cache)
    else:
        done = run(HF_ENDPOINT=fake_hub.url, HUBVRAM_TIMEOUT="1", **cache)
    message = failed(done, 5)
    assert "127.0.0.1" in message
    assert time.monotonic() - start < 8


def test_a_limit_that_is_far_off_changes_nothing(fake_hub: FakeHub, cache: dict[str, str]) -> None:
    def slow(answer: Answer, _request: object) -> Answer:
        time.sleep(0.3)
        return answer

    fake_hub.bend("", slow)
    assert run(REPO, "--timeout", "30", HF_ENDPOINT=fake_hub.url, **cache).returncode == 0


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_a_time_limit_that_is_none(
    fake_hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    assert cli([REPO, "--timeout", value, "--endpoint", fake_hub.url]) == 2
    monkeypatch.setenv("HUBVRAM_TIMEOUT", value)
    assert cli([REPO, "--endpoint", fake_hub.url]) == 2
    assert "timeout" in capsys.readouterr().err
    assert fake_hub.log == []


def test_the_rate_limit_is_told_while_it_is_waited_out(fake_hub: FakeHub, cache: dict[str, str]) -> None:
    fake_hub.fault(r"config\.json", 429, headers={"RateLimit": '"resolvers";r=0;t=2'}, times=1)
    done = run(HF_ENDPOINT=fake_hub.url, **cache)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("the Hub asks to wait 2 s (rate limit)")
    assert json.loads(done.stdout)["parameters"]["total"] == TOTAL
    quiet = run(REPO, "-q", "--refresh", HF_ENDPOINT=fake_hub.url, **cache)
    assert quiet.stderr == ""


def test_a_rate_limit_beyond_the_time_limit_is_not_waited_for(fake_hub: FakeHub, cache: dict[str, str]) -> None:
    fake_hub.fault("/api/models", 429, headers={"Retry-After": "20"})
    start = time.monotonic()
    message = failed(run(REPO, "--timeout", "3", HF_ENDPOINT=fake_hub.url, **cache), 5)
    assert "20 s" in message
    assert time.monotonic() - start < 8


# -- pages in the place of answers --------------------------------------------


@pytest.mark.parametrize("where", ["/api/models", r"\.safetensors"])
def test_a_login_page_in_the_place_of_an_answer(fake_hub: FakeHub, cache: dict[str, str], where: str) -> None:
    fake_hub.body(where, b"<!doctype html><html><title>Welcome to the hotel</title></html>")
    done = run(HF_ENDPOINT=fake_hub.url, **cache)
    message = failed(done, 5 if where == "/api/models" else 6)
    assert "web page" in message or "JSON" in message
    assert "hotel" not in done.stderr


def test_the_body_of_an_error_page_is_not_shown(fake_hub: FakeHub, cache: dict[str, str]) -> None:
    page = b"<html>" + b"\x1b[31m" * 1000 + b"</html>"
    fake_hub.bend("/api/models", lambda _a, _r: Answer(502, {"Content-Type": "text/html"}, Content(page, len(page))))
    message = failed(run(HF_ENDPOINT=fake_hub.url, **cache), 5)
    assert len(message) < 200
    assert message.isprintable()
