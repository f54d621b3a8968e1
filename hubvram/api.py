"""The Python interface: `estimate`, `inspect`, `scan`.

Each opens a :class:`hubvram.client.Client`, which holds what several calls
share; the command line uses that directly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hubvram.client import Client, check_methods
from hubvram.gpus import resolve
from hubvram.plan.settings import Settings

if TYPE_CHECKING:
    from hubvram.report.inspection import Inspection
    from hubvram.report.record import Report
    from hubvram.scanning import ScanResult


def estimate(
    repo: str,
    methods: Sequence[str] | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    db: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    token: str | bool | None = None,
    gpus: Sequence[str] | None = None,
    explain: bool = False,
    variant: str | None = None,
    file: str | None = None,
    allow_conversion_pr: bool = False,
    **settings: Any,
) -> Report:
    """GPU memory per fine-tuning method.

    Args:
        repo: ``org/name``, ``org/name@revision``, ``hf://...``, a URL, or a local folder (``./dir``).
        methods: names of `hubvram methods`; None = every one.
        revision: branch, tag, commit or ``refs/pr/N``; None = the default branch.
        endpoint: the Hub; None = ``HF_ENDPOINT``, else huggingface.co.
        db: cache, a path or a SQLAlchemy URL; None = ``HUBVRAM_DB``, else the user's cache folder.
        offline: ask nobody; None = ``HF_HUB_OFFLINE``.
        refresh: ask the Hub even where the cache has a fresh answer.
        token: access token, False for none at all; None = as huggingface_hub finds it.
        gpus: cards to hold the estimates against; None = the seed guide's.
        explain: also say what is alive at the peak, tensor by tensor or group.
        variant: weights variant to read (``fp16``), as in ``from_pretrained``.
        file: weights file, index or folder to read instead of what transformers would load.
        allow_conversion_pr: where a repo has only pickles, take the Hub bot's
            open pull request with their conversion.
        **settings: fields of :class:`hubvram.plan.settings.Settings`
            (``batch_size``, ``seq_len``, ``dtype``, ``optim``, ``peft``, ``quantization``, ``stack``...).

    Raises:
        HubvramError: a subclass says what happened (`hubvram.errors`).
    """
    cards = resolve(gpus)
    with Client(
        endpoint=endpoint,
        db=db,
        offline=offline,
        refresh=refresh,
        token=token,
        variant=variant,
        file=file,
        allow_conversion_pr=allow_conversion_pr,
    ) as client:
        return client.estimate(repo, methods, revision, gpus=cards, explain=explain, settings=settings)


def inspect(
    repo: str,
    revision: str | None = None,
    endpoint: str | None = None,
    db: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    token: str | bool | None = None,
    variant: str | None = None,
    file: str | None = None,
    allow_conversion_pr: bool = False,
) -> Inspection:
    """Exact parameters, dtypes, architecture and files of a repo; arguments as in :func:`estimate`.

    Raises:
        HubvramError: a subclass says what happened (`hubvram.errors`).
    """
    with Client(
        endpoint=endpoint,
        db=db,
        offline=offline,
        refresh=refresh,
        token=token,
        variant=variant,
        file=file,
        allow_conversion_pr=allow_conversion_pr,
    ) as client:
        return client.inspect(repo, revision)


def scan(
    repos: Iterable[str],
    methods: Sequence[str] | None = None,
    *,
    on_result: Callable[[ScanResult], None] | None = None,
    jobs: int | None = None,
    endpoint: str | None = None,
    db: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    token: str | bool | None = None,
    gpus: Sequence[str] | None = None,
    **settings: Any,
) -> list[ScanResult]:
    """Many repos into the cache, several at once; other arguments as in :func:`estimate`.

    Each repo is kept as soon as it is done. A repo that fails is a result with
    an error (and a row of the view ``errors``), not an exception.

    Args:
        repos: refs as :func:`estimate` takes them; twice the same is done once.
        methods: as in :func:`estimate`.
        on_result: called for each result as it comes, in the caller's thread.
        jobs: repos in work at once; None = 8.

    Raises:
        SettingError: on a bad setting, before anything is asked.
        StoreError: if the cache cannot be opened: there would be nothing to scan into.
    """
    from hubvram import scanning

    cards = resolve(gpus)
    asked = Settings.from_kwargs(**settings)
    names = check_methods(methods)
    with Client(endpoint=endpoint, db=db, offline=offline, refresh=refresh, token=token, need_store=True) as client:
        return scanning.scan(
            repos,
            estimate_one=lambda ref: client.estimate(ref, names, gpus=cards, settings=settings),
            store=client.store,
            jobs=jobs or scanning.DEFAULT_JOBS,
            on_result=on_result,
            endpoint=client.endpoint,
            settings_key=asked.key(),
        )
