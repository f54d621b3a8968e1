"""HTTP as the sources need it, whatever library huggingface_hub brings.

The libraries themselves are told apart in `hubvram.sources.wire` only.

Everything that can go wrong on the way is settled here: redirects (the token
stays with its host, the range goes along), time limits, retries with jitter,
waiting out a rate limit, short bodies, servers that ignore ranges, and the
translation of statuses into hubvram's errors. The token appears in no message.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit

from hubvram.errors import HubvramError, NetworkError, RateLimitError
from hubvram.snapshot.text import shown
from hubvram.sources.faults import Retryable, host_of, retry_wait, status_error
from hubvram.sources.refs import effective_endpoint
from hubvram.sources.wire import as_fault, hub_headers, send, transport_errors

DEFAULT_TIMEOUT = 10.0
"""Seconds without a byte before an attempt is given up; the Hub client's own default."""
_MAX_REDIRECTS = 6
_LEAST = 0.05
"""Seconds that a request gets however near the time limit is."""
_CHUNK = 16_384
_ERROR_BODY = 2_000
_FAR = 100_000_000
"""What is read and dropped at most, of a server that ignores ranges, to get to a place in a file."""
_T = TypeVar("_T")
Params = Mapping[str, str] | Sequence[tuple[str, str]]
"""A query: pairs where a name may come twice."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How stubborn to be."""

    attempts: int = 4
    """Tries in all."""
    base: float = 0.4
    """Seconds before the first retry; doubled each time, with jitter."""
    cap: float = 8.0
    """Longest wait between two tries of our own choosing."""
    max_wait: float = 60.0
    """Longest wait that a server's 429 may ask for; beyond it the error is raised at once."""


@dataclass(slots=True)
class Reply:
    """One answer, its body not yet read."""

    status: int
    headers: Mapping[str, str]
    """Keys in lower case."""
    url: str
    """Where it came from in the end."""
    chunks: Iterator[bytes]

    @property
    def host(self) -> str:
        """The host that answered."""
        return host_of(self.url)

    @property
    def length(self) -> int | None:
        """Content-Length of a body sent as it is, else None."""
        value = self.headers.get("content-length", "")
        plain = self.headers.get("content-encoding", "identity") in ("", "identity")
        return int(value) if plain and value.isdigit() else None


class Transport:
    """Requests to one Hub. Safe to share between threads.

    Args:
        endpoint: as `effective_endpoint` takes it.
        token: a token; False for none; None for the one of the environment or
            of ``hf auth login``.
        timeout: seconds without a byte before an attempt is given up; None =
            ``HF_HUB_DOWNLOAD_TIMEOUT`` or 10.
        policy: retries.
        deadline: seconds that everything together may take from now on.
        on_wait: called with a sentence before each wait of a second or more.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        token: str | bool | None = None,
        timeout: float | None = None,
        policy: RetryPolicy | None = None,
        deadline: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.endpoint = effective_endpoint(endpoint)
        self.timeout = timeout if timeout is not None else _environment_timeout()
        self.policy = policy or RetryPolicy()
        self._deadline = None if deadline is None else time.monotonic() + deadline
        self._on_wait = on_wait
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._resume_at = 0.0
        self.requests = 0
        """Requests sent so far, redirects not counted."""
        self._headers = hub_headers(token)
        authorization = self._headers.get("authorization", "")
        self._secret = authorization.removeprefix("Bearer ").strip()

    @property
    def has_token(self) -> bool:
        """Whether requests carry a token."""
        return bool(self._secret)

    def stop(self) -> None:
        """Make every thread give up at its next chunk or wait (Ctrl-C)."""
        self._stop.set()

    # -- what the sources call ------------------------------------------------

    def get_bytes(
        self,
        path: str,
        params: Params | None = None,
        *,
        repo_id: str,
        revision: str | None = None,
        limit: int = 100_000_000,
        attempts: int | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        """A whole body and its headers.

        Raises:
            HubvramError: as `status_error` maps it; NetworkError also for a
                body longer than ``limit``, a short one, or no connection.
        """

        def consume(reply: Reply) -> tuple[bytes, Mapping[str, str]]:
            body = bytearray()
            for chunk in reply.chunks:
                self._check_time(reply.host)
                body += chunk
                if len(body) > limit:
                    raise NetworkError(
                        f"{repo_id}: {reply.host} sends more than the {limit:,} bytes allowed for {shown(path)}",
                        hint="the file is far larger than its kind ever is: look at it on the Hub",
                        repo_id=repo_id,
                    )
            if reply.length is not None and len(body) < reply.length:
                raise Retryable(f"{reply.host} closed the connection after {len(body)} of {reply.length} bytes")
            return bytes(body), reply.headers

        return self._exchange(path, params, {}, consume, (200,), repo_id, revision, attempts)

    def read_prefix(
        self, path: str, first: int, needed: Callable[[bytes], int], *, repo_id: str, revision: str | None = None
    ) -> tuple[bytes, int | None]:
        """The beginning of a file, no more of it than asked for.

        Args:
            path: below the endpoint.
            first: bytes to ask for at first.
            needed: told what has come so far (at least 8 bytes, unless the
                file is shorter), says how long the beginning is.
            repo_id: for the messages.
            revision: for the messages.

        Returns:
            The bytes and the file's size, where the server says it.

        Raises:
            HubvramError: as `get_bytes`; whatever ``needed`` raises.
        """
        data, total, complete = self._range(path, 0, first, needed, repo_id, revision)
        want = needed(data)
        if complete or len(data) >= want:
            return data[:want], total
        rest, total2, _ = self._range(path, len(data), want, None, repo_id, revision)
        if total2 != total:
            raise NetworkError(
                f"{repo_id}: {shown(path)} changed its size while being read", hint="run it again", repo_id=repo_id
            )
        return data + rest, total

    def read_range(
        self, path: str, start: int, stop: int, *, repo_id: str, revision: str | None = None
    ) -> tuple[bytes, int | None]:
        """Bytes ``start`` to ``stop`` (not included) of a file, and its size where the server says it.

        Raises:
            HubvramError: as `get_bytes`; NetworkError also where the file
                ends before, or the server ignores ranges and the place is far
                into the file.
        """
        data, total, _ = self._range(path, start, stop, None, repo_id, revision)
        if len(data) < stop - start:
            raise NetworkError(
                f"{repo_id}: {shown(path)} ends before byte {stop:,}, where the listing says it goes on",
                hint="the server may have an old copy: try again later",
                repo_id=repo_id,
            )
        return data, total

    # -- one logical request --------------------------------------------------

    def _range(
        self,
        path: str,
        start: int,
        stop: int,
        needed: Callable[[bytes], int] | None,
        repo_id: str,
        revision: str | None,
    ) -> tuple[bytes, int | None, bool]:
        """Bytes ``start`` to ``stop`` (not included), the file's size, and whether that is all there is."""

        def consume(reply: Reply) -> tuple[bytes, int | None, bool]:
            if reply.status == 416:
                total = _total_of(reply.headers.get("content-range", ""))
                if total is None or total > start:
                    raise Retryable(f"{reply.host} refuses bytes {start}-{stop - 1} of a file that has them")
                return b"", total, True
            if reply.status == 206:
                begin, end, total = _content_range(reply, start, stop)
                body, size = self._read(reply, end - begin + 1)
                if len(body) < size:
                    raise Retryable(f"{reply.host} sent {len(body)} of {size} bytes")
                return body, total, total is not None and end + 1 >= total
            # The server ignores ranges: take what is needed off the stream, then hang up.
            if start > _FAR:
                raise NetworkError(
                    f"{repo_id}: {reply.host} ignores ranges, and would send all of {shown(path)}",
                    hint="ask another Hub: --endpoint https://huggingface.co",
                    repo_id=repo_id,
                )
            total = reply.length
            body, size = self._read(reply, stop, needed)
            if total is not None and len(body) < min(size, total):
                raise Retryable(f"{reply.host} closed the connection after {len(body)} of {total} bytes")
            return body[start:], total, True

        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        return self._exchange(path, None, headers, consume, (200, 206, 416), repo_id, revision, None)

    def _read(self, reply: Reply, size: int, needed: Callable[[bytes], int] | None = None) -> tuple[bytes, int]:
        """Up to ``size`` bytes of the body, and the size as ``needed`` corrects it once eight bytes are there."""
        body = bytearray()
        for chunk in reply.chunks:
            self._check_time(reply.host)
            body += chunk
            if needed is not None and len(body) >= 8:
                size, needed = needed(bytes(body[:size])), None
            if len(body) >= size:
                break
        if reply.length is not None and len(body) == reply.length:
            next(reply.chunks, None)  # lets the library see the end and keep the connection
        return bytes(body[:size]), size

    def _exchange(
        self,
        path: str,
        params: Params | None,
        headers: Mapping[str, str],
        consume: Callable[[Reply], _T],
        accepted: tuple[int, ...],
        repo_id: str,
        revision: str | None,
        attempts: int | None,
    ) -> _T:
        """Send, follow, read; again on a passing fault, up to the policy's limit."""
        url = self.endpoint + quote(path, safe="/%") + (f"?{urlencode(params)}" if params else "")
        tries = attempts or self.policy.attempts
        for attempt in range(1, tries + 1):
            self._wait_for_turn(url)
            try:
                with self._open(url, headers) as reply:
                    if reply.status in accepted:
                        return consume(reply)
                    problem, wait = self._judge(reply, repo_id, revision)
            except Retryable as fault:
                problem, wait = NetworkError(f"{repo_id}: {fault}", hint=fault.hint, repo_id=repo_id), 0.0
                if not fault.again:
                    raise problem from None
            if wait is None or attempt == tries or wait > self.policy.max_wait:
                raise problem
            self._pause(attempt, wait, problem)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _judge(self, reply: Reply, repo_id: str, revision: str | None) -> tuple[HubvramError, float | None]:
        """The error for a refusal, and how long to wait before trying again (None: not at all)."""
        body = b""
        with contextlib.suppress(Retryable):
            body, _ = self._read(reply, _ERROR_BODY)
        text = self._scrub(body.decode("utf-8", "replace"))
        error = status_error(
            reply.status,
            reply.headers,
            text,
            url=reply.url,
            endpoint=self.endpoint,
            repo_id=repo_id,
            revision=revision,
            has_token=self.has_token,
        )
        error.message = self._scrub(error.message)
        error.args = (error.message,)
        if isinstance(error, RateLimitError):
            return error, retry_wait(reply.headers)
        return error, 0.0 if reply.status >= 500 or reply.status == 408 else None

    def _pause(self, attempt: int, asked: float, problem: HubvramError) -> None:
        """Set the time before which nobody sends: a rate limit holds for all threads."""
        own = min(self.policy.cap, self.policy.base * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
        wait = max(own, asked + random.uniform(0, 0.5) * min(asked, 1.0))  # noqa: S311
        if self._deadline is not None and time.monotonic() + wait > self._deadline:
            raise problem
        if isinstance(problem, RateLimitError):
            with self._lock:
                self._resume_at = max(self._resume_at, time.monotonic() + wait)
            if self._on_wait is not None and wait >= 1:
                self._on_wait(f"the Hub asks to wait {wait:.0f} s (rate limit)")
        else:
            self._sleep(wait)

    def _wait_for_turn(self, url: str) -> None:
        while (left := self._resume_at - time.monotonic()) > 0:
            self._sleep(left)
        self._check_time(host_of(url))

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise NetworkError("interrupted", hint=None)

    def _check_time(self, host: str) -> None:
        if self._stop.is_set():
            raise NetworkError("interrupted", hint=None)
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise _too_slow(host)

    # -- one request on the wire ----------------------------------------------

    @contextlib.contextmanager
    def _open(self, url: str, headers: Mapping[str, str]) -> Iterator[Reply]:
        """Send and follow redirects; the token goes to the endpoint's own origin only."""
        with self._lock:
            self.requests += 1
        home = _origin(self.endpoint)
        for _ in range(_MAX_REDIRECTS):
            sent = {**self._headers, **headers}
            if _origin(url) != home:
                sent.pop("authorization", None)
            limit = self.timeout
            if self._deadline is not None:
                limit = max(_LEAST, min(limit, self._deadline - time.monotonic()))
            try:
                response = send(url, sent, limit)
            except transport_errors() as error:
                raise self._fault(error, url) from None
            try:
                fields = {str(k).lower(): str(v) for k, v in response.headers.items()}
                target = fields.get("location")
                if response.status_code not in (301, 302, 303, 307, 308) or not target:
                    yield Reply(int(response.status_code), fields, url, self._chunks(response, url))
                    return
            finally:
                response.close()
            url = self._followed(url, target)
        raise Retryable(f"{host_of(self.endpoint)} redirects in circles", again=False)

    def _followed(self, url: str, target: str) -> str:
        """Where a redirect leads: a host reached by HTTP, or nowhere that is followed."""
        try:
            parts = urlsplit(urljoin(url, target))
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
                return parts.geturl()
        except ValueError:  # no URL at all, or a port beyond 65535
            pass
        raise Retryable(f"{host_of(self.endpoint)} redirects to {shown(target)}, which is no web address", again=False)

    def _chunks(self, response: Any, url: str) -> Iterator[bytes]:
        reader = response.iter_content if hasattr(response, "iter_content") else response.iter_bytes
        try:
            yield from reader(_CHUNK)
        except transport_errors() as error:
            raise self._fault(error, url) from None

    def _fault(self, error: Exception, url: str) -> Exception:
        if self._deadline is not None and time.monotonic() > self._deadline - _LEAST:
            return _too_slow(host_of(url))
        return as_fault(error, host_of(url), self.timeout, self._scrub)

    def _scrub(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text


def _too_slow(host: str) -> NetworkError:
    return NetworkError(f"{host} is too slow: the time limit is over", hint="allow more time, or try again later")


def _environment_timeout() -> float:
    try:
        value = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", ""))
    except ValueError:
        return DEFAULT_TIMEOUT
    return value if 0 < value < 1e6 else DEFAULT_TIMEOUT


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def _content_range(reply: Reply, start: int, stop: int) -> tuple[int, int, int | None]:
    """The range that a 206 says it holds; it must begin where asked and not run further."""
    value = reply.headers.get("content-range", "")
    match = re.fullmatch(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", value.strip())
    if match is None:
        raise Retryable(f"{reply.host} answers a range request without saying which bytes it sends ({shown(value)})")
    begin, end = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    short = end < stop - 1 and (total is None or end + 1 < total)
    if begin != start or end >= stop or end < begin or short or (total is not None and end >= total):
        raise Retryable(f"{reply.host} was asked for bytes {start}-{stop - 1} and sends {shown(value)}")
    return begin, end, total


def _total_of(content_range: str) -> int | None:
    match = re.fullmatch(r"bytes\s+\*/(\d{1,19})", content_range.strip())
    return int(match[1]) if match else None
