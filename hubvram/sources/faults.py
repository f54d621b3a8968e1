"""What the Hub's refusals mean: statuses and `X-Error-Code` as hubvram's errors.

Source: huggingface_hub's `hf_raise_for_status` for the codes and the Hub's
rate-limit page for the `RateLimit` header.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from hubvram.errors import (
    AccessError,
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HubvramError,
    NetworkError,
    RateLimitError,
    RepoNotFoundError,
    RevisionNotFoundError,
)
from hubvram.snapshot.text import shown

_TRY_LATER = "check the connection, or try again later"


class Retryable(Exception):  # noqa: N818  (a signal inside the transport, never seen outside)
    """An attempt went wrong on the way; the transport decides whether there is another.

    Args:
        message: names the host and what happened.
        again: False where trying again cannot help.
        hint: what to tell the user if there is no further attempt.
    """

    def __init__(self, message: str, *, again: bool = True, hint: str = _TRY_LATER) -> None:
        super().__init__(message)
        self.again = again
        self.hint = hint


def host_of(url: str) -> str:
    """Host and port of an address, as messages name it: without user name and password, on one line."""
    try:
        host = urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return "an address that is none"
    return host if host.isprintable() and len(host) <= 100 else shown(host, 100)


def status_error(
    status: int,
    headers: Mapping[str, str],
    body: str,
    *,
    url: str,
    endpoint: str,
    repo_id: str,
    revision: str | None,
    has_token: bool,
) -> HubvramError:
    """The error for an answer that is not a success.

    Args:
        status: HTTP status.
        headers: keys in lower case.
        body: the beginning of the body.
        url: what was asked; its host is named.
        endpoint: the Hub, for the address of the repo's page.
        repo_id: the repo, for the messages.
        revision: the revision asked for.
        has_token: whether a token was sent.
    """
    host = host_of(url)
    page = f"{endpoint}/{repo_id}"
    said = _server_message(headers, body)
    code = headers.get("x-error-code", "")
    if code == "GatedRepo":
        return _gated(repo_id, page, has_token)
    if "disabled" in said.lower() and status in (401, 403, 404):
        return DisabledRepoError(f"{repo_id} is disabled on {host}", hint=f"see {page}", repo_id=repo_id)
    if code == "RevisionNotFound":
        return RevisionNotFoundError(
            f"{repo_id} has no revision {shown(revision or 'main')}",
            hint=f"its branches and tags: {page}/tree/main",
            repo_id=repo_id,
        )
    if code == "EntryNotFound":
        return _no_entry(repo_id, url, page)
    if status == 429:
        wait = retry_wait(headers)
        limits = "" if has_token else "; `hf auth login` gives a higher limit"
        return RateLimitError(
            f"{host} allows no more requests for {wait:.0f} s (rate limit)",
            hint=f"run it again after that{limits}",
            repo_id=repo_id,
        )
    if code == "RepoNotFound" or (status == 401 and not has_token and not code):
        return _no_repo(repo_id, host, has_token)
    if status == 401:
        return AccessError(
            f"{host} refuses the token for {repo_id}",
            hint="it may be expired or mistyped: `hf auth login`, or unset HF_TOKEN",
            repo_id=repo_id,
        )
    if status == 403:
        return AccessError(
            f"{host} does not let this user read {repo_id}" + (f": {said}" if said else ""),
            hint=f"see {page}; the token needs read access to it",
            repo_id=repo_id,
        )
    if status in (404, 410):
        if "/resolve/" in urlsplit(url).path:
            return _no_entry(repo_id, url, page)
        return _no_repo(repo_id, host, has_token)
    return NetworkError(
        f"{repo_id}: {host} answered {status}" + (f": {said}" if said else ""), hint=_TRY_LATER, repo_id=repo_id
    )


def _gated(repo_id: str, page: str, has_token: bool) -> GatedRepoError:
    if has_token:
        return GatedRepoError(
            f"{repo_id} is gated and this token's user has not been granted access",
            hint=f"ask for access at {page}; with access, log in as that user: `hf auth login`",
            repo_id=repo_id,
        )
    return GatedRepoError(
        f"{repo_id} is gated: its authors ask for an account and their conditions to be accepted",
        hint=f"accept them at {page}, then `hf auth login` (or set HF_TOKEN)",
        repo_id=repo_id,
    )


def _no_repo(repo_id: str, host: str, has_token: bool) -> RepoNotFoundError:
    hint = "check the spelling (org/name)"
    hint += "; the token may lack access if it is private" if has_token else "; if it is private, `hf auth login` first"
    return RepoNotFoundError(f"{repo_id} is not a model repo on {host}", hint=hint, repo_id=repo_id)


def _no_entry(repo_id: str, url: str, page: str) -> EntryNotFoundError:
    path = urlsplit(url).path
    name = path.partition("/resolve/")[2].partition("/")[2] or path
    return EntryNotFoundError(
        f"{repo_id} has no file {shown(name)}", hint=f"its files: {page}/tree/main", repo_id=repo_id
    )


def _server_message(headers: Mapping[str, str], body: str) -> str:
    """What the server says, on one line, or nothing where it is a web page."""
    text = headers.get("x-error-message", "")
    if not text and "json" in headers.get("content-type", ""):
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        if isinstance(content, dict) and isinstance(content.get("error"), str):
            text = content["error"]
    line = " ".join(text.split())[:200]
    return line if line.isprintable() else line.encode("unicode_escape").decode("ascii")


def retry_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a 429 asks to wait: the `RateLimit` window, else `Retry-After`, else 1.

    `RateLimit: "api";r=0;t=55` means 0 requests left for 55 seconds.
    """
    match = re.search(r";\s*t\s*=\s*(\d{1,9})", headers.get("ratelimit", ""))
    if match:
        return float(match[1])
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    if value:
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return 1.0
        return max(0.0, moment.timestamp() - time.time())
    return 1.0
