"""The fake Hub of the tests: `LoopbackHub` plus everything that can go wrong.

One function, `FakeHub.answer(method, url, headers)`, mounted on a loopback
server everywhere and through `responses` where huggingface_hub speaks requests.
Faults are switched on per path: ``hub.fault("/resolve/", status=503, times=2)``.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hubvram.sources.loopback import Answer, Content, LoopbackHub, refusal, serving

GRANTED = "hf_granted_token"


@dataclass
class Request:
    """One request that arrived, and what went back."""

    method: str
    url: str
    headers: Mapping[str, str]
    status: int = 0
    sent: int = 0
    """Bytes of body that went out; fewer than there were when the client hung up."""
    open: bool = True

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Fault:
    """Replaces or bends the answer to requests whose path matches."""

    pattern: str
    bend: Callable[[Answer, Request], Answer]
    times: int | None = None

    def applies(self, request: Request) -> bool:
        if self.times == 0 or not re.search(self.pattern, request.url):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class FakeHub:
    """A Hub with a memory and with moods."""

    inner: LoopbackHub
    url: str = ""
    log: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    cdn: str | None = None
    """Address of a second host that weights are redirected to."""
    pending: dict[int, Request] = field(default_factory=dict)
    """By the identity of the answer that is being sent."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, folder: Path, **options: Any) -> FakeHub:
        return cls(LoopbackHub(folder, granted=frozenset({GRANTED}), **options))

    def answer(self, method: str, url: str, headers: Mapping[str, str]) -> Answer:
        """THE function: what goes back for a request."""
        request = Request(method, url, dict(headers))
        found = self.inner.answer(method, url, headers)
        if self.cdn and "/resolve/" in request.path and request.path.endswith(".safetensors") and found.status < 300:
            found = Answer(302, {"Location": f"{self.cdn}{request.path}?X-Sig=abc"}, Content(b"", 0))
        with self.lock:
            bends = [f.bend for f in self.faults if f.applies(request)]
            self.log.append(request)
        for bend in bends:
            found = bend(found, request)
        request.status = found.status
        with self.lock:
            self.pending[id(found)] = request
        return found

    def on_sent(self, path: str, answer: Answer, sent: int) -> None:
        """The server's word on how much went out."""
        with self.lock:
            request = self.pending.pop(id(answer))
        request.sent, request.open = sent, False

    # -- moods ----------------------------------------------------------------

    def bend(self, pattern: str, how: Callable[[Answer, Request], Answer], times: int | None = None) -> None:
        self.faults.append(Fault(pattern, how, times))

    def fault(
        self,
        pattern: str,
        status: int,
        *,
        times: int | None = None,
        code: str = "",
        message: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.bend(pattern, lambda _a, _r: refusal(status, code, message, headers), times)

    def ignore_range(self, pattern: str = r"\.safetensors") -> None:
        def whole(answer: Answer, _request: Request) -> Answer:
            if answer.status != 206:
                return answer
            fields = {k: v for k, v in answer.headers.items() if k != "Content-Range"}
            return Answer(200, fields, answer.body)

        self.bend(pattern, whole)

    def body(self, pattern: str, body: bytes, *, content_type: str = "text/html", times: int | None = None) -> None:
        """Answer 200 with these bytes."""
        self.bend(pattern, lambda _a, _r: Answer(200, {"Content-Type": content_type}, Content(body, len(body))), times)

    def short_body(self, pattern: str, keep: int, times: int | None = None) -> None:
        """Promise the whole body, send ``keep`` bytes, hang up."""

        def cut(answer: Answer, _request: Request) -> Answer:
            fields = {**answer.headers, "Content-Length": str(answer.length)}
            return answer._replace(headers=fields, stop=answer.start + min(keep, answer.length))

        self.bend(pattern, cut, times)

    def file(self, repo_id: str, path: str, content: Content) -> None:
        """Put a file into a repo (or replace it)."""
        repo = self.inner.repo(repo_id)
        assert repo is not None
        main = repo.revisions["main"]
        lfs = main.lfs | ({path} if path.endswith(".safetensors") else set())
        repo.revisions["main"] = type(main)(main.sha, {**main.files, path: content}, lfs)

    def remove(self, repo_id: str, path: str) -> None:
        repo = self.inner.repo(repo_id)
        assert repo is not None
        main = repo.revisions["main"]
        files = {p: c for p, c in main.files.items() if p != path}
        repo.revisions["main"] = type(main)(main.sha, files, main.lfs)

    # -- what happened --------------------------------------------------------

    def requests(self, pattern: str = "") -> list[Request]:
        return [r for r in self.log if re.search(pattern, r.url)]

    @property
    def weight_bytes(self) -> int:
        """Bytes sent of safetensors files, once the server has let go of all."""
        give_up = time.monotonic() + 10
        while any(r.open for r in self.log) and time.monotonic() < give_up:
            time.sleep(0.01)
        return sum(r.sent for r in self.log if r.path.endswith(".safetensors"))


@contextlib.contextmanager
def mounted_on_loopback(hub: FakeHub) -> Iterator[FakeHub]:
    with serving(hub.answer, on_sent=hub.on_sent) as url:
        hub.url = url
        yield hub


@contextlib.contextmanager
def mounted_in_responses(hub: FakeHub) -> Iterator[Any]:
    """Through the `responses` package: only huggingface_hub 0.36 goes this way."""
    import responses

    hub.url = "http://hub.invalid"

    class Stream(io.RawIOBase):
        """A body that is made while it is read, as responses takes files."""

        def __init__(self, answer: Answer) -> None:
            self.pieces = answer.chunks()
            self.rest = b""
            self.request = hub.pending.pop(id(answer))
            self.request.open = False

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            while not self.rest:
                piece = next(self.pieces, None)
                if piece is None:
                    return 0
                self.rest = piece
            n = min(len(buffer), len(self.rest))
            buffer[:n], self.rest = self.rest[:n], self.rest[n:]
            self.request.sent += n
            return n

    def callback(request: Any) -> tuple[int, dict[str, str], Any]:
        found = hub.answer(request.method, request.url, {k.lower(): v for k, v in request.headers.items()})
        fields = {k: v for k, v in found.headers.items() if k != "Content-Type"}
        fields.setdefault("Content-Length", str(found.length))
        return (
            found.status,
            {**fields, "Content-Type": found.headers.get("Content-Type", "text/plain")},
            io.BufferedReader(Stream(found), 8_192),
        )

    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.add_callback(responses.GET, re.compile(r"http://hub\.invalid/.*"), callback, content_type=None)
        yield mock
