"""Faults on the way: waited out, tried again, or named with the host; the right answer or the right error."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from fakehub import GRANTED, FakeHub, mounted_on_loopback
from helpers import QUICK, fetch, source

from hubvram.errors import BadConfigError, NetworkError
from hubvram.sources.loopback import Answer, Content, LoopbackHub
from hubvram.sources.refs import parse_ref
from hubvram.sources.transport import RetryPolicy, Transport

pytestmark = pytest.mark.hub

REPO = "HuggingFaceTB/SmolLM2-135M"
TOTAL = 134_515_008


def total(hub: FakeHub, repo: str = REPO, **options) -> int:
    return sum(t.numel for t in fetch(hub, repo, **options).tensors)


@pytest.mark.parametrize("where", ["/api/models", r"config\.json", r"\.safetensors"])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_passing_server_error(hub: FakeHub, where: str, status: int) -> None:
    hub.fault(where, status, times=2)
    assert total(hub) == TOTAL
    assert len(hub.log) == 5


@pytest.mark.parametrize("fields", [{"RateLimit": '"api";r=0;t=0'}, {"Retry-After": "0"}, {}])
def test_a_rate_limit_is_waited_out(hub: FakeHub, fields: dict[str, str]) -> None:
    hub.fault("/resolve/", 429, headers=fields, times=1)
    assert total(hub, policy=RetryPolicy(attempts=2, base=0.001, max_wait=2)) == TOTAL


def test_a_rate_limit_holds_for_all_and_is_told(hub: FakeHub) -> None:
    told: list[str] = []
    hub.fault("/api/models", 429, headers={"Retry-After": "1"}, times=1)
    start = time.monotonic()
    assert total(hub, on_wait=told.append, policy=RetryPolicy(attempts=2, base=0.001, max_wait=2)) == TOTAL
    assert time.monotonic() - start >= 1
    assert told == ["the Hub asks to wait 1 s (rate limit)"] or told[0].startswith("the Hub asks to wait")


@pytest.mark.parametrize("where", ["/api/models", r"config\.json", r"\.safetensors"])
def test_a_body_cut_short(fake_hub: FakeHub, where: str) -> None:
    fake_hub.short_body(where, 20, times=1)
    assert total(fake_hub) == TOTAL


@pytest.mark.parametrize("where", ["/api/models", r"config\.json", r"\.safetensors"])
def test_a_body_that_is_always_cut_short(fake_hub: FakeHub, where: str) -> None:
    fake_hub.short_body(where, 20)
    with pytest.raises(NetworkError) as caught:
        total(fake_hub)
    assert "127.0.0.1" in caught.value.message


@pytest.mark.parametrize(
    "value", ["bytes 8-100/269060552", "bytes 0-999999999/269060552", "", "bytes 0-5/3", "items 0-1/2"]
)
def test_a_wrong_content_range(hub: FakeHub, value: str) -> None:
    hub.bend(r"\.safetensors", lambda a, _r: a._replace(headers={**a.headers, "Content-Range": value}))
    with pytest.raises(NetworkError) as caught:
        total(hub)
    assert "bytes" in caught.value.message
    assert len(hub.requests(r"\.safetensors")) == QUICK.attempts


def test_a_listing_that_disagrees_with_the_file(hub: FakeHub) -> None:
    found = hub.inner.repo(REPO)
    assert found is not None
    main = found.revisions["main"].files["model.safetensors"]

    def other(answer: Answer, request) -> Answer:
        fields = {
            **answer.headers,
            "Content-Range": answer.headers["Content-Range"].replace(str(main.size), "999999999"),
        }
        return answer._replace(headers=fields)

    hub.bend(r"\.safetensors", other)
    with pytest.raises(NetworkError, match="the listing says"):
        total(hub)


def test_redirects_to_another_host_keep_the_range_and_lose_the_token(fake_hub: FakeHub) -> None:
    cdn = FakeHub(LoopbackHub(fake_hub.inner.folder, granted=frozenset({""})))
    with mounted_on_loopback(cdn):
        fake_hub.cdn = cdn.url
        assert total(fake_hub, "meta-llama/Llama-3.2-1B") == 1_235_814_400
    (first,) = fake_hub.requests(r"\.safetensors")
    (second,) = cdn.log
    assert first.headers["authorization"] == f"Bearer {GRANTED}"
    assert "authorization" not in second.headers
    assert second.range == first.range
    assert first.range is not None
    assert second.status == 206


def test_redirects_that_lead_nowhere(hub: FakeHub) -> None:
    hub.bend("/api/models", lambda _a, r: Answer(302, {"Location": r.path}, Content(b"", 0)))
    with pytest.raises(NetworkError, match="circles"):
        total(hub)
    hub.faults.clear()
    hub.bend("/api/models", lambda _a, _r: Answer(302, {"Location": "file:///etc/passwd"}, Content(b"", 0)))
    with pytest.raises(NetworkError, match="redirects to"):
        total(hub)


@pytest.mark.parametrize(
    "target",
    [
        "//[",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:port/",
        "javascript:alert(1)",
        "https:",
        "http://\u2603.invalid/",
        "http://a..b.invalid/",
        f"http://{'a' * 300}.invalid/",
        "http://%00.invalid/",
        "http://user:pass@127.0.0.1:1/",
        "data:,{}",
    ],
)
def test_redirects_to_what_is_no_place(fake_hub: FakeHub, target: str) -> None:
    location = target.encode().decode("latin-1")
    fake_hub.bend("/api/models", lambda _a, _r: Answer(302, {"Location": location}, Content(b"", 0)))
    with pytest.raises(NetworkError) as caught:
        total(fake_hub)
    assert caught.value.message.isprintable()


def test_a_server_that_stalls(fake_hub: FakeHub) -> None:
    def slow(answer: Answer, _request) -> Answer:
        time.sleep(1.5)
        return answer

    fake_hub.bend("/api/models", slow)
    with pytest.raises(NetworkError, match=r"did not answer within 0\.2 s"):
        total(fake_hub, timeout=0.2, policy=RetryPolicy(attempts=2, base=0.001))


def test_a_deadline_ends_the_retries(fake_hub: FakeHub) -> None:
    fake_hub.fault("/api/models", 503)
    start = time.monotonic()
    with pytest.raises(NetworkError):
        total(fake_hub, deadline=0.5, policy=RetryPolicy(attempts=1000, base=0.1, cap=0.2))
    assert time.monotonic() - start < 3


def test_a_config_of_many_megabytes_is_not_read(hub: FakeHub) -> None:
    hub.file(REPO, "config.json", Content(b"{", 30_000_000))
    with pytest.raises(BadConfigError, match=r"config\.json.* 30,000,000 bytes"):
        total(hub)
    assert not hub.requests(r"config\.json")


def test_a_config_that_grows_while_it_is_sent(fake_hub: FakeHub) -> None:
    fake_hub.bend(r"config\.json", lambda a, _r: a._replace(body=Content(b"{", 30_000_000), stop=None))
    with pytest.raises(NetworkError, match="allowed"):
        total(fake_hub)


def test_stop_ends_the_waiting(hub: FakeHub) -> None:
    opened = source(hub)
    opened.transport.stop()
    with pytest.raises(NetworkError, match="interrupted"):
        opened.resolve(parse_ref(REPO))
    opened.close()


def test_the_timeout_of_the_ecosystem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Transport("http://127.0.0.1:1", token=False).timeout == 10
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "3.5")
    assert Transport("http://127.0.0.1:1", token=False).timeout == 3.5
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "soon")
    assert Transport("http://127.0.0.1:1", token=False).timeout == 10


@contextmanager
def rude_server(greet: Callable[[socket.socket], None]) -> Iterator[str]:
    """A socket that does what it is told with each connection, and closes it."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                greet(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


def _hang_up(connection: socket.socket) -> None:
    connection.recv(100)


def _babble(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"220 mail.example ESMTP\r\n\r\n")


def _half_a_head(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Len")


def _endless_chunks(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}   \r\n")


@pytest.mark.parametrize("greet", [_hang_up, _babble, _half_a_head, _endless_chunks])
def test_a_server_that_speaks_no_http(greet: Callable[[socket.socket], None]) -> None:
    with rude_server(greet) as host, pytest.raises(NetworkError) as caught:
        total(FakeHub(inner=None, url=f"http://{host}"))  # type: ignore[arg-type]
    assert host in caught.value.message
    assert caught.value.message.isprintable()


def test_no_secure_connection_is_not_tried_again() -> None:
    met = []
    with rude_server(lambda c: (met.append(1), _babble(c))) as host, pytest.raises(NetworkError) as caught:
        total(FakeHub(inner=None, url=f"https://{host}"))  # type: ignore[arg-type]
    assert "no secure connection" in caught.value.message
    assert "SSL_CERT_FILE" in (caught.value.hint or "")
    assert len(met) == 1


def test_a_body_that_trickles_meets_the_deadline(fake_hub: FakeHub) -> None:
    def trickle(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with_data = time.monotonic() + 20
        while time.monotonic() < with_data:
            try:
                connection.sendall(b" " * 400)
            except OSError:
                return
            time.sleep(0.02)

    start = time.monotonic()
    with rude_server(trickle) as host, pytest.raises(NetworkError):
        total(FakeHub(inner=None, url=f"http://{host}"), deadline=0.5)  # type: ignore[arg-type]
    assert time.monotonic() - start < 5


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
@pytest.mark.parametrize("where", ["/api/models", r"config\.json"])
def test_ctrl_c_does_not_wait_for_a_stalled_server(fake_hub: FakeHub, where: str) -> None:
    reached = threading.Event()

    def stall(answer: Answer, _request) -> Answer:
        reached.set()
        time.sleep(8)
        return answer

    fake_hub.bend(where, stall)
    code = (
        "import sys; from hubvram.sources import *\n"
        f"try: fetch_snapshot(parse_ref({REPO!r}), endpoint={fake_hub.url!r}, token=False, timeout=30)\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert reached.wait(20)
        time.sleep(0.2)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - start < 4
        assert process.stderr is not None
        assert process.stderr.read() == ""
