"""The Python interface: `estimate`, `inspect`, `scan`.

One call is: parse the ref, ask the cache, else fetch, estimate, keep, report.
`Client` holds what several calls share (the open cache, the Hub's address);
the command line uses it directly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hubvram.errors import HubvramError, NetworkError, OfflineError, SettingError, StoreError
from hubvram.gpus import Card, fits, resolve
from hubvram.plan.settings import Settings
from hubvram.report.record import Report
from hubvram.sources.refs import RepoRef, effective_endpoint, parse_ref

if TYPE_CHECKING:
    from hubvram.estimator import Description
    from hubvram.report.inspection import Inspection
    from hubvram.report.record import Estimate
    from hubvram.snapshot.records import Snapshot
    from hubvram.store.store import Store

FRESH_FOR = timedelta(hours=24)
"""How long a branch or tag is believed to point where the Hub last said. A commit id never changes its meaning."""

_SHA_LENGTH = 40
_TRUE = ("1", "ON", "YES", "TRUE")


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
        **settings: fields of :class:`hubvram.plan.settings.Settings`
            (``batch_size``, ``seq_len``, ``dtype``, ``optim``, ``peft``, ``quantization``, ``stack``...).

    Raises:
        HubvramError: a subclass says what happened (`hubvram.errors`).
    """
    cards = resolve(gpus)
    with Client(endpoint=endpoint, db=db, offline=offline, refresh=refresh, token=token) as client:
        return client.estimate(repo, methods, revision, gpus=cards, explain=explain, settings=settings)


def inspect(
    repo: str,
    revision: str | None = None,
    endpoint: str | None = None,
    db: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    token: str | bool | None = None,
) -> Inspection:
    """Exact parameters, dtypes, architecture and files of a repo; arguments as in :func:`estimate`.

    Raises:
        HubvramError: a subclass says what happened (`hubvram.errors`).
    """
    with Client(endpoint=endpoint, db=db, offline=offline, refresh=refresh, token=token) as client:
        return client.inspect(repo, revision)


def _warn(message: str) -> None:
    import warnings

    warnings.warn(message, stacklevel=4)


class Client:
    """A Hub, a cache, and how to use them; for several calls in a row.

    Args:
        endpoint, db, offline, refresh, token: as in :func:`estimate`.
        warn: told, in one line, of what is odd but no error (a cache that
            cannot be opened, for one). Default: Python's ``warnings``.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        db: str | os.PathLike[str] | None = None,
        offline: bool | None = None,
        refresh: bool = False,
        token: str | bool | None = None,
        warn: Callable[[str], None] = _warn,
    ) -> None:
        self.endpoint = effective_endpoint(endpoint)
        self.db = db
        self.offline = offline or _offline_by_environment()
        self.refresh = refresh and not self.offline
        self.token = token
        self._warn = warn
        self._store: Store | None = None
        self._opened = False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is not None:
            self._store.close()

    def estimate(
        self,
        repo: str,
        methods: Sequence[str] | None = None,
        revision: str | None = None,
        *,
        gpus: Sequence[Card] = (),
        explain: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> Report:
        """See :func:`estimate`.

        Raises:
            HubvramError: a subclass says what happened.
        """
        asked = Settings.from_kwargs(**(settings or {}))
        names = _check_methods(methods)
        ref = parse_ref(repo, revision, self.endpoint)
        report = None if ref.is_local or self.refresh else self._cached_report(ref, asked, names, explain)
        if report is None:
            report = self._new_report(ref, asked, names, explain)
        count = int(report.settings.get("num_gpus") or 1)
        held = tuple(replace(e, gpus=fits(e.total_bytes, gpus, count=count)) for e in report.estimates)
        return replace(report, estimates=held)

    def inspect(self, repo: str, revision: str | None = None) -> Inspection:
        """See :func:`inspect`.

        Raises:
            HubvramError: a subclass says what happened.
        """
        from hubvram.report.inspection import Inspection, group_tensors

        snapshot, description = self.snapshot(parse_ref(repo, revision, self.endpoint))
        return Inspection(
            repo_id=snapshot.repo_id,
            requested_revision=snapshot.requested_revision,
            commit_sha=snapshot.commit_sha,
            endpoint=snapshot.endpoint,
            source=snapshot.source,
            model_type=description.model_type,
            architecture=description.architecture,
            family=description.family,
            max_seq_len=description.max_seq_len,
            parameters=description.parameters,
            tensor_count=len(snapshot.tensors),
            groups=group_tensors(snapshot.tensors),
            files=snapshot.files,
            metadata=snapshot.metadata,
            warnings=_join(snapshot.warnings, description.warnings),
        )

    def snapshot(self, ref: RepoRef) -> tuple[Snapshot, Description]:
        """A repo and what the estimator makes of it, from the cache while that is fresh, else from its source.

        Raises:
            HubvramError: a subclass says what happened.
        """
        from hubvram.estimator import describe
        from hubvram.sources import fetch_snapshot

        store = None if ref.is_local else self.store
        known = store.load_snapshot(self.endpoint, _name(ref), ref.revision) if store else None
        if known and not self.refresh and self._fresh(ref, known.checked_at):
            return known.snapshot, known.description
        if self.offline and not ref.is_local:
            raise OfflineError(
                f"{ref} is not in the cache and offline mode is on.",
                hint="Run once without --offline (and without HF_HUB_OFFLINE).",
                repo_id=ref.repo_id,
            )
        try:
            snapshot = fetch_snapshot(ref, endpoint=self.endpoint, token=self.token)
        except NetworkError as error:
            if known:
                error.hint = f"The cache has an answer of {known.checked_at}: --offline prints it."
            raise
        description = describe(snapshot)
        if store is not None and snapshot.commit_sha is not None:
            self._keep(lambda: store.save_snapshot(snapshot, description, asked_repo_id=ref.repo_id))
        return snapshot, description

    @property
    def store(self) -> Store | None:
        """The cache, opened when first used; None, after one warning, where it cannot be."""
        if not self._opened:
            self._opened = True
            from hubvram.store import open_store

            try:
                self._store = open_store(self.db)
            except StoreError as error:
                self._warn(f"going on without the cache: {error.message}")
        return self._store

    def _cached_report(self, ref: RepoRef, asked: Settings, names: Sequence[str], explain: bool) -> Report | None:
        """The finished answer, if every method of it is kept and it is fresh; no tensor is read for it."""
        from hubvram.estimator import FORMULA_VERSION

        store = self.store
        if store is None:
            return None
        found = store.load_report(
            self.endpoint, _name(ref), ref.revision, asked.key(), FORMULA_VERSION, names, explain=explain
        )
        if found is None or found.missing or not self._fresh(ref, found.checked_at):
            return None
        if explain and any(e.status != "skipped" and not e.alive for e in found.report.estimates):
            return None
        return found.report

    def _new_report(self, ref: RepoRef, asked: Settings, names: Sequence[str], explain: bool) -> Report:
        from hubvram import estimator

        snapshot, description = self.snapshot(ref)
        applied, estimates = estimator.estimate(snapshot, asked, methods=names, explain=explain)
        report = make_report(snapshot, description, applied, estimates)
        store = self._store
        if store is not None and snapshot.commit_sha is not None:
            self._keep(
                lambda: store.save_report(
                    snapshot,
                    description,
                    report,
                    settings_key=asked.key(),
                    formula_version=estimator.FORMULA_VERSION,
                    asked_repo_id=ref.repo_id,
                    explain=explain,
                )
            )
        return report

    def _keep(self, save: Callable[[], object]) -> None:
        """Write to the cache; an answer that cannot be kept is still an answer."""
        try:
            save()
        except StoreError as error:
            self._warn(f"the answer could not be kept: {error.message}")

    def _fresh(self, ref: RepoRef, checked_at: str) -> bool:
        if self.offline or _is_sha(ref.revision):
            return True
        checked = datetime.fromisoformat(checked_at.replace("Z", "+00:00"))
        return datetime.now(timezone.utc) - checked < FRESH_FOR


def make_report(
    snapshot: Snapshot, description: Description, applied: Mapping[str, Any], estimates: Iterable[Estimate]
) -> Report:
    """The report of estimates on a snapshot."""
    return Report(
        repo_id=snapshot.repo_id,
        requested_revision=snapshot.requested_revision,
        commit_sha=snapshot.commit_sha,
        endpoint=snapshot.endpoint,
        source=snapshot.source,
        model_type=description.model_type,
        architecture=description.architecture,
        parameters=description.parameters,
        settings=applied,
        estimates=tuple(estimates),
        warnings=_join(snapshot.warnings, description.warnings),
    )


def _check_methods(methods: Sequence[str] | None) -> tuple[str, ...]:
    """Every method, or those asked for, each once; checked before the Hub is asked.

    Raises:
        SettingError: on a name that is not in the catalogue.
    """
    import difflib

    from hubvram.plan.methods import names

    known = tuple(names())
    if methods is None:
        return known
    if isinstance(methods, str):
        raise SettingError(f"methods is {methods!r}: it must be a list of names.")
    wanted = tuple(dict.fromkeys(methods))
    for method in wanted:
        if method not in known:
            near = difflib.get_close_matches(method, known, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else "`hubvram methods` lists the names."
            raise SettingError(f"method {method!r} is not in the catalogue.", hint=hint)
    return wanted


def _name(ref: RepoRef) -> str:
    """The repo's id; only asked of refs to a Hub."""
    return ref.repo_id or ""


def _is_sha(revision: str | None) -> bool:
    return revision is not None and len(revision) == _SHA_LENGTH and all(c in "0123456789abcdef" for c in revision)


def _join(*parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for part in parts for text in part))


def _offline_by_environment() -> bool:
    """Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, by the values that huggingface_hub takes."""
    return any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


__all__ = ["Client", "HubvramError", "estimate", "inspect", "make_report"]
