"""Where snapshots come from: the Hub and local folders.

This module is light. The sources themselves, and huggingface_hub with them,
are imported when one is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hubvram.errors import OfflineError, RepoNotFoundError
from hubvram.sources.refs import DEFAULT_ENDPOINT, RepoRef, effective_endpoint, parse_ref

if TYPE_CHECKING:
    from hubvram.snapshot.records import Snapshot
    from hubvram.sources.records import Known, RepoInfo, Source
    from hubvram.sources.refs import Selection

__all__ = [
    "DEFAULT_ENDPOINT",
    "RepoRef",
    "effective_endpoint",
    "fetch_snapshot",
    "is_offline",
    "open_source",
    "parse_ref",
    "resolve_head",
]

_TRUE = {"1", "ON", "YES", "TRUE"}


def is_offline(offline: bool = False) -> bool:
    """Whether the network is off limits: the argument, ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``.

    Read from the environment on each call: huggingface_hub freezes its own
    copy when it is imported.
    """
    return offline or any(os.environ.get(n, "").upper() in _TRUE for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def open_source(
    ref: RepoRef,
    *,
    endpoint: str | None = None,
    token: str | bool | None = None,
    timeout: float | None = None,
    deadline: float | None = None,
    allow_conversion_pr: bool = False,
    offline: bool = False,
    known: Known | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Source:
    """The source that can read ``ref``; close it when done. One Hub source serves many repos and threads.

    Args:
        ref: from `parse_ref`.
        endpoint: the Hub; default ``HF_ENDPOINT``, else huggingface.co.
        token: a token, False for none, None for the environment's or the login's.
        timeout: seconds without a byte before an attempt is given up.
        deadline: seconds for everything that the source does.
        allow_conversion_pr: read the Hub bot's open safetensors conversion
            where the repo itself has no safetensors.
        offline: refuse to use the network.
        known: the cache, asked for files by their content.
        on_wait: told, in a sentence, before a long wait.

    Raises:
        OfflineError: if ``ref`` is on the Hub and the network is off limits.
    """
    if ref.is_local:
        from hubvram.sources.local import LocalSource

        return LocalSource()
    if is_offline(offline):
        raise OfflineError(
            f"{ref} is not in the cache and offline mode is on",
            hint="run once without --offline (and without HF_HUB_OFFLINE), then it is cached",
            repo_id=ref.repo_id,
        )
    from hubvram.sources.hub import HubSource

    return HubSource(
        endpoint,
        token=token,
        timeout=timeout,
        deadline=deadline,
        allow_conversion_pr=allow_conversion_pr,
        known=known,
        on_wait=on_wait,
    )


def resolve_head(
    ref: RepoRef,
    *,
    endpoint: str | None = None,
    token: str | bool | None = None,
    timeout: float | None = None,
    deadline: float | None = None,
    offline: bool = False,
    source: Source | None = None,
) -> RepoInfo:
    """Commit and file listing of ``ref`` as it is now: one request.

    Give the result to `fetch_snapshot` to save asking again.

    Raises:
        HubvramError: as `open_source` and the source's ``resolve``.
    """
    opened = source or open_source(
        ref, endpoint=endpoint, token=token, timeout=timeout, deadline=deadline, offline=offline
    )
    try:
        return _resolve(opened, ref)
    finally:
        if source is None:
            opened.close()


def fetch_snapshot(
    ref: RepoRef,
    *,
    endpoint: str | None = None,
    token: str | bool | None = None,
    timeout: float | None = None,
    deadline: float | None = None,
    allow_conversion_pr: bool = False,
    offline: bool = False,
    info: RepoInfo | None = None,
    selection: Selection | None = None,
    source: Source | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Snapshot:
    """Read a repo: commit first, then config and headers at that commit, nothing else.

    Args:
        ref: from `parse_ref`.
        info: from `resolve_head`, to save the first request.
        selection: a variant or a file to read instead of what transformers would load.
        source: one that is already open, for many repos; the other arguments
            are then its own.
        endpoint: as `open_source`.
        token: as `open_source`.
        timeout: as `open_source`.
        deadline: as `open_source`.
        allow_conversion_pr: as `open_source`.
        offline: as `open_source`.
        on_wait: as `open_source`.

    Raises:
        HubvramError: for whatever stands in the way; see `hubvram.errors`.
    """
    opened = source or open_source(
        ref,
        endpoint=endpoint,
        token=token,
        timeout=timeout,
        deadline=deadline,
        allow_conversion_pr=allow_conversion_pr,
        offline=offline,
        on_wait=on_wait,
    )
    try:
        return opened.snapshot(ref, info if info is not None else _resolve(opened, ref), selection)
    finally:
        if source is None:
            opened.close()


def _resolve(source: Source, ref: RepoRef) -> RepoInfo:
    try:
        return source.resolve(ref)
    except RepoNotFoundError as error:
        if ref.repo_id is not None and Path(ref.repo_id).is_dir():
            error.hint = f"there is a folder of that name here: write ./{ref.repo_id}"
        raise
