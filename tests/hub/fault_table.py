"""Every fault of a Hub by name, and what becomes of a run that meets it: the table of docs/hub.md, and its tests."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fakehub import GRANTED, FakeHub, mounted_on_loopback
from helpers import QUICK

from hubvram.client import Client
from hubvram.errors import HubvramError
from hubvram.sources import transport
from hubvram.sources.loopback import Answer, Content, LoopbackHub

SMALL = "HuggingFaceTB/SmolLM2-135M"
MISTRAL = "mistralai/Mistral-7B-v0.1"
TOTALS = {SMALL: 134_515_008, MISTRAL: 7_241_732_096}
ANSWER = "answer"


@dataclass(frozen=True)
class Fault:
    """One fault."""

    arrange: Callable[[FakeHub], None]
    expected: str
    """`ANSWER`, or the code of the error."""
    requests: int
    """How many the Hub sees."""
    repo: str = SMALL
    deadline: float | None = None
    cdn: bool = False
    """Weights are redirected to a second host."""


@dataclass(frozen=True)
class Outcome:
    """What a run with a fault came to."""

    code: str
    message: str
    requests: int


def _status(
    status: int, where: str = "/api/models", times: int | None = None, **options: str
) -> Callable[[FakeHub], None]:
    return lambda hub: hub.fault(where, status, times=times, **options)


def _limit(seconds: str, times: int | None = 1) -> Callable[[FakeHub], None]:
    return lambda hub: hub.fault("/resolve/", 429, headers={"RateLimit": f'"r";r=0;t={seconds}'}, times=times)


def _cut(where: str, times: int | None = None) -> Callable[[FakeHub], None]:
    return lambda hub: hub.short_body(where, 20, times)


def _body(where: str, body: bytes) -> Callable[[FakeHub], None]:
    kind = "text/html" if body else "application/json"
    return lambda hub: hub.body(where, body, content_type=kind)


def _stall(where: str, seconds: float, times: int | None = None) -> Callable[[FakeHub], None]:
    def wait(answer: Answer, _request: object) -> Answer:
        time.sleep(seconds)
        return answer

    return lambda hub: hub.bend(where, wait, times)


def _range(value: str) -> Callable[[FakeHub], None]:
    return lambda hub: hub.bend(
        r"\.safetensors$", lambda a, _r: a._replace(headers={**a.headers, "Content-Range": value})
    )


def _redirect(target: str) -> Callable[[FakeHub], None]:
    return lambda hub: hub.bend(
        "/api/models", lambda _a, r: Answer(302, {"Location": target or r.path}, Content(b"", 0))
    )


def _moved(hub: FakeHub) -> None:
    raw = json.dumps({"sha": "f" * 40}).encode()
    hub.bend("expand=sha", lambda _a, _r: Answer(200, {"Content-Type": "application/json"}, Content(raw, len(raw))))


def _nothing(_hub: FakeHub) -> None:
    """No fault beside what the case itself says."""


TABLE: dict[str, Fault] = {
    "500 to 504, passing": Fault(_status(503, times=2), ANSWER, 5),
    "500 to 504, lasting": Fault(_status(503), "network", 3),
    "408": Fault(_status(408, times=1), ANSWER, 4),
    "429 with `RateLimit` or `Retry-After`": Fault(_limit("0"), ANSWER, 4),
    "429 that asks for longer than the cap (60 s)": Fault(_limit("900", None), "rate_limited", 2),
    "429 that stays": Fault(_limit("0", None), "rate_limited", 4),
    "no answer within the timeout, once": Fault(_stall("/api/models", 0.8, 1), ANSWER, 4),
    "no answer within the timeout, ever": Fault(_stall("/api/models", 0.8), "network", 3),
    "answers, but slower than `--timeout` allows": Fault(_stall("/api/models", 1.0), "network", 1, deadline=0.3),
    "a body cut short, once": Fault(_cut(r"\.safetensors$", 1), ANSWER, 4),
    "a body cut short, always": Fault(_cut(r"config\.json"), "network", 4),
    "a server that ignores `Range`": Fault(lambda hub: hub.ignore_range(), ANSWER, 3),
    "a `Content-Range` other than asked for": Fault(_range("bytes 8-100/269060552"), "network", 5),
    "a range without `Content-Range`": Fault(_range(""), "network", 5),
    "a file of another size than listed": Fault(_range("bytes 0-49103/999999999"), "network", 3),
    "weights redirected to another host": Fault(_nothing, ANSWER, 3, cdn=True),
    "redirects in circles": Fault(_redirect(""), "network", 6),
    "a redirect to `file:`": Fault(_redirect("file:///etc/passwd"), "network", 1),
    "a redirect to what is no address": Fault(_redirect("//["), "network", 1),
    "a web page instead of JSON": Fault(_body("/api/models", b"<html>log in</html>"), "network", 1),
    "a web page instead of config.json": Fault(_body(r"config\.json", b"<html>log in</html>"), "bad_config", 2),
    "a web page instead of weights": Fault(_body(r"\.safetensors$", b"<html>log in</html>"), "corrupt_header", 3),
    "an empty answer": Fault(_body("/api/models", b""), "network", 1),
    "no bulk endpoint (404)": Fault(_status(404, "safetensors-metadata"), ANSWER, 5, MISTRAL),
    "a bulk endpoint that fails (500)": Fault(_status(500, "safetensors-metadata"), ANSWER, 5, MISTRAL),
    "a bulk answer that is no JSON": Fault(_body("safetensors-metadata", b"<html>"), ANSWER, 5, MISTRAL),
    "a commit that moves while it is read": Fault(_moved, ANSWER, 6, MISTRAL),
    "a refused token (401)": Fault(_status(401), "not_authorised", 1),
    "forbidden (403)": Fault(_status(403), "not_authorised", 1),
    "a file that is listed but gone": Fault(_status(404, r"config\.json", code="EntryNotFound"), "entry_not_found", 2),
}


@contextlib.contextmanager
def _patient(seconds: float) -> Iterator[None]:
    """Retries without their waits, and a short timeout, for as long as a case runs."""
    kept = transport.RetryPolicy, transport.DEFAULT_TIMEOUT
    transport.RetryPolicy = lambda: QUICK  # type: ignore[assignment,misc]
    transport.DEFAULT_TIMEOUT = seconds
    try:
        yield
    finally:
        transport.RetryPolicy, transport.DEFAULT_TIMEOUT = kept  # type: ignore[misc]


def meet(fault: Fault, hub: FakeHub, db: Path) -> Outcome:
    """Run into a fault; the message with the Hub's address as ``HUB``."""
    host = hub.url.partition("//")[2]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_patient(0.4))
        if fault.cdn:
            other = FakeHub(LoopbackHub(hub.inner.folder))
            hub.cdn = stack.enter_context(mounted_on_loopback(other)).url
        fault.arrange(hub)
        client = stack.enter_context(Client(endpoint=hub.url, db=db, token=GRANTED, timeout=fault.deadline))
        try:
            total = client.inspect(fault.repo).parameters.total
        except HubvramError as error:
            return Outcome(error.code, error.message.replace(host, "HUB"), len(hub.log))
        assert total == TOTALS[fault.repo]
        return Outcome(ANSWER, f"{total:,} parameters", len(hub.log))
