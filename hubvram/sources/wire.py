"""The HTTP library that huggingface_hub brings, whichever it is.

huggingface_hub 0.36 speaks through requests, 1.x through httpx, 2.x through
httpx2. All three are reached by its `get_session`, so that its proxy,
certificate and client settings hold here too, and this module is the only one
that tells them apart.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from hubvram.errors import AccessError, OfflineError
from hubvram.snapshot.text import shown
from hubvram.sources.faults import Retryable, host_of

TOKENS: set[str] = set()
"""Every token that this process has read: what is printed is searched for them."""
_ERROR_BASES = {
    "requests": ("RequestException",),
    "urllib3.exceptions": ("HTTPError",),  # a few pass requests as they are
    "httpx": ("HTTPError", "StreamError", "InvalidURL"),
    "httpx2": ("HTTPError", "StreamError", "InvalidURL"),
}


def _hub_utils() -> Any:
    """`huggingface_hub.utils`: untyped, for its three lines differ in what they export to type checkers."""
    return importlib.import_module("huggingface_hub.utils")


def hub_headers(token: str | bool | None) -> dict[str, str]:
    """Token and user agent. Both as huggingface_hub has them, but not through its `build_hf_headers`.

    From 2.4 on that asks the Hub for its register of coding agents before the
    first request of a process, to name one in the user agent: a request more
    than the repo needs.

    Raises:
        AccessError: if the token holds what no header can: it is never sent, and not shown.
    """
    import huggingface_hub
    from huggingface_hub import constants

    from hubvram.version import __version__

    python = ".".join(str(part) for part in sys.version_info[:3])
    headers = {"user-agent": f"hubvram/{__version__}; hf_hub/{huggingface_hub.__version__}; python/{python}"}
    implicit = not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
    found = token if isinstance(token, str) else None
    if token is True or (token is None and implicit):
        found = huggingface_hub.get_token()
    if found:
        if not re.fullmatch(r"[!-~]+", found):
            raise AccessError(
                "the token holds spaces, control or non-ASCII characters, which no token has",
                hint="it may be pasted wrongly: `hf auth login`, or set HF_TOKEN again",
            )
        TOKENS.add(found)
        headers["authorization"] = f"Bearer {found}"
    return headers


def send(url: str, headers: Mapping[str, str], timeout: float) -> Any:
    """A streamed GET without redirects, through whichever client the Hub library has."""
    session = _hub_utils().get_session()
    if hasattr(session, "build_request"):  # httpx and httpx2
        request = session.build_request("GET", url, headers=dict(headers), timeout=timeout)
        return session.send(request, stream=True, follow_redirects=False)
    try:
        return session.get(url, headers=dict(headers), timeout=timeout, stream=True, allow_redirects=False)
    except ValueError as error:
        if isinstance(error, transport_errors()):
            raise
        # requests looks at where a redirect leads even if it is told not to follow, and trips over what is no URL.
        raise Retryable(f"{host_of(url)} redirects to what is no web address ({shown(error)})", again=False) from None


def transport_errors() -> tuple[type[Exception], ...]:
    """What the HTTP library in use raises; anything else is a bug of ours and passes."""
    bases: list[type[Exception]] = [OSError]
    for name, classes in _ERROR_BASES.items():
        module = sys.modules.get(name)
        if module is not None:
            bases += [getattr(module, c) for c in classes]
    return tuple(bases)


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and what it came from, outermost first."""
    out: list[BaseException] = []
    todo: list[Any] = [error]
    while todo and len(out) < 20:
        item = todo.pop(0)
        if isinstance(item, BaseException) and item not in out:
            out.append(item)
            todo += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return out


def as_fault(error: Exception, host: str, timeout: float, scrub: Callable[[str], str]) -> Exception:
    """A library's exception as ours: which host, and what happened to it.

    Args:
        error: one of `transport_errors`.
        host: who was asked.
        timeout: seconds that were allowed, for the message.
        scrub: takes the token out of a text.
    """
    chain = _chain(error)
    names = {type(e).__name__ for e in chain}
    if "OfflineModeIsEnabled" in names:
        return OfflineError(
            f"huggingface_hub is in offline mode: {host} is not asked", hint="unset HF_HUB_OFFLINE to go online"
        )
    text = scrub(shown(chain[-1]))
    if any("SSL" in n or "Certificate" in n for n in names):
        return Retryable(
            f"no secure connection to {host}: {text}",
            again=False,
            hint="a proxy may be in between: set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to its certificate",
        )
    if any("ProxyError" in n for n in names):
        return Retryable(f"the proxy on the way to {host} refuses: {text}", hint="check HTTPS_PROXY and NO_PROXY")
    if any("Timeout" in n for n in names):
        return Retryable(f"{host} did not answer within {timeout:g} s")
    if any(n in ("gaierror", "NameResolutionError") for n in names):
        return Retryable(f"cannot find the host {host}")
    if "IncompleteRead" in names or "without sending complete" in text:
        return Retryable(f"{host} closed the connection before its answer was complete")
    if "ConnectionRefusedError" in names:
        return Retryable(f"{host} refuses the connection")
    return Retryable(f"the connection to {host} failed: {text}")
