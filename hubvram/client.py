"""One repo through the rooms: ref, cache, source, estimator, cache, report.

The order in which an answer is looked for is all here: a finished report that
is fresh; the snapshot that it needs, from the cache; the Hub, which may say in
one request that nothing has changed; the headers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from hubvram.errors import AccessError, NetworkError, NotFoundError, NothingToReadError, SettingError, StoreError
from hubvram.gpus import Card, fits
from hubvram.plan.settings import Settings
from hubvram.report.record import Estimate, Report
from hubvram.sources import (
    RepoRef,
    effective_endpoint,
    fetch_snapshot,
    is_offline,
    open_source,
    parse_ref,
    resolve_head,
)
from hubvram.sources.refs import Selection
from hubvram.version import FORMULA_VERSION

if TYPE_CHECKING:
    from hubvram.estimator import Description
    from hubvram.report.inspection import Inspection
    from hubvram.snapshot.records import Snapshot
    from hubvram.sources.records import KnownFile, Source
    from hubvram.store.store import CachedSnapshot, Store

FRESH_FOR = timedelta(hours=24)
"""How long a branch or tag is believed to point where the Hub last said. A commit id never changes its meaning."""

_SHA_LENGTH = 40
T = TypeVar("T")


def _warn(message: str) -> None:
    import warnings

    warnings.warn(message, stacklevel=4)


class Client:
    """A Hub, a cache, and how to use them; for several calls in a row.

    Args:
        endpoint, db, offline, refresh, token: as in :func:`hubvram.api.estimate`.
        timeout: seconds that everything asked of the Hub may take; None = no limit.
        allow_conversion_pr: take the Hub bot's open pull request with the
            safetensors conversion of a repo that has none itself.
        variant: weights variant to read (``fp16``), as in ``from_pretrained``.
        file: weights file, index or folder to read instead of what
            transformers would load. Repos read so are not kept in the cache.
        need_store: raise where the cache cannot be opened, instead of going on without.
        warn: told, in one line, of what is odd but no error (a cache that
            cannot be opened, for one). Default: Python's ``warnings``.
        status: told before a long wait.

    Threads may share a client.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        db: str | os.PathLike[str] | None = None,
        offline: bool | None = None,
        refresh: bool = False,
        token: str | bool | None = None,
        timeout: float | None = None,
        allow_conversion_pr: bool = False,
        variant: str | None = None,
        file: str | None = None,
        need_store: bool = False,
        warn: Callable[[str], None] = _warn,
        status: Callable[[str], None] | None = None,
    ) -> None:
        self.endpoint = effective_endpoint(endpoint)
        self.db = db
        self.offline = is_offline(bool(offline))
        self.refresh = refresh and not self.offline
        self.token = token
        self.timeout = timeout
        self.allow_conversion_pr = allow_conversion_pr
        self.selection = Selection(variant, file)
        self.need_store = need_store
        self._warn = warn
        self._status = status
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._opened = False
        self._source: Source | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._source is not None:
            self._source.close()
        if self._store is not None:
            self._store.close()

    def estimate(
        self,
        repo: str | RepoRef,
        methods: Sequence[str] | None = None,
        revision: str | None = None,
        *,
        gpus: Sequence[Card] = (),
        explain: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> Report:
        """See :func:`hubvram.api.estimate`.

        Raises:
            HubvramError: a subclass says what happened.
        """
        asked = Settings.from_kwargs(**(settings or {}))
        names = check_methods(methods)
        ref = repo if isinstance(repo, RepoRef) else parse_ref(repo, revision, self.endpoint)
        # A pickle and its conversion share the name: which of them is kept shows only in the snapshot.
        ask_first = ref.is_local or self.refresh or self.allow_conversion_pr or not self.selection.is_default
        report = None if ask_first else self._cached_report(ref, asked, names, explain)
        if report is None:
            report = self._new_report(ref, asked, names, explain)
        count = int(report.settings.get("num_gpus") or 1)
        held = tuple(replace(e, gpus=fits(e.total_bytes, gpus, count=count)) for e in report.estimates)
        return replace(report, estimates=held)

    def inspect(self, repo: str, revision: str | None = None) -> Inspection:
        """See :func:`hubvram.api.inspect`.

        Raises:
            HubvramError: a subclass says what happened.
        """
        from hubvram.report.inspection import Inspection, group_tensors

        snapshot, description = self.snapshot(parse_ref(repo, revision, self.endpoint), self.selection)
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

    def listing(
        self,
        *,
        author: str | None = None,
        search: str | None = None,
        filters: Sequence[str] = (),
        sort: str | None = None,
        limit: int | None = None,
    ) -> Iterator[str]:
        """Ids of the Hub's models; see `hubvram.sources.listing.list_models`.

        Raises:
            HubvramError: a subclass says what happened.
        """
        from hubvram.sources.hub import HubSource
        from hubvram.sources.listing import NAME, list_models

        source = self._open_source(RepoRef(repo_id=NAME, revision=None, local_path=None, original=NAME))
        if not isinstance(source, HubSource):
            raise TypeError(f"a Hub is opened by {type(source).__name__}")
        return list_models(source.transport, author=author, search=search, filters=filters, sort=sort, limit=limit)

    def snapshot(self, ref: RepoRef, selection: Selection | None = None) -> tuple[Snapshot, Description]:
        """A repo and what the estimator makes of it: from the cache while that is fresh, else from its source.

        Where the Hub says that the commit is one that the cache knows, that
        one request is all there is.

        Args:
            ref: from `parse_ref`.
            selection: a variant or a file; such snapshots are never kept.

        Raises:
            HubvramError: a subclass says what happened.
        """
        from hubvram.estimator import describe

        usual = selection is None or selection.is_default
        if ref.is_local:
            snapshot = fetch_snapshot(ref, selection=selection)
            return snapshot, describe(snapshot)
        name = _name(ref)
        known = self._load(ref) if usual else None
        if self.offline and known is None:
            from hubvram.sources.hf_cache import read

            held = read(ref, selection)
            if held is not None:
                return held, describe(held)
        if known and not self.refresh and self._fresh(ref, known.checked_at):
            return known.snapshot, known.description
        source = self._open_source(ref)
        try:
            info = resolve_head(ref, source=source)
            sha = info.commit_sha or ""
            if usual and self._ask(lambda store: store.touch_ref(self.endpoint, name, ref.revision, sha)):
                same = self._load(ref)
                if same:
                    return same.snapshot, same.description
            snapshot = fetch_snapshot(ref, info=info, selection=selection, source=source)
        except NetworkError as error:
            if known:
                error.hint = f"The cache has an answer of {known.checked_at}: --offline prints it."
            raise
        description = describe(snapshot)
        if usual and _is_kept(snapshot):
            self._ask(lambda store: store.save_snapshot(snapshot, description, asked_repo_id=ref.repo_id))
        elif usual and "conversion_pr" in snapshot.metadata:
            # Under its own name, not main's: who does not ask for the conversion must not get it.
            under_pr = replace(snapshot, requested_revision=str(snapshot.metadata["conversion_pr"]))
            self._ask(lambda store: store.save_snapshot(under_pr, description, asked_repo_id=ref.repo_id))
        return snapshot, description

    def _load(self, ref: RepoRef) -> CachedSnapshot | None:
        """A repo from the cache; not a pickle where its conversion was asked for."""
        known = self._ask(lambda store: store.load_snapshot(self.endpoint, _name(ref), ref.revision))
        if known and self.allow_conversion_pr and known.snapshot.metadata.get("format") == "pickle":
            return None
        return known

    def _open_source(self, ref: RepoRef) -> Source:
        """The Hub: one connection pool and one rate limit for all repos, opened for the first."""
        with self._lock:
            if self._source is None:
                self._source = open_source(
                    ref,
                    endpoint=self.endpoint,
                    token=self.token,
                    deadline=self.timeout,
                    allow_conversion_pr=self.allow_conversion_pr,
                    offline=self.offline,
                    known=self._known_files,
                    on_wait=self._status,
                )
            return self._source

    def _known_files(self, hashes: Collection[str]) -> Mapping[str, KnownFile]:
        """What the cache has of files with these contents, from other commits and other repos of the Hub."""
        return self._ask(lambda store: store.known_files(self.endpoint, hashes)) or {}

    @property
    def store(self) -> Store | None:
        """The cache, opened when first used; None, after one warning, where it cannot be."""
        with self._lock:
            if not self._opened:
                from hubvram.store import open_store

                try:
                    self._store = open_store(self.db)
                except StoreError as error:
                    if self.need_store:
                        raise
                    self._warn(f"going on without the cache: {error.message}")
                self._opened = True
            return self._store

    def _cached_report(
        self, ref: RepoRef, asked: Settings, names: Sequence[str], explain: bool, *, stale: bool = False
    ) -> Report | None:
        """The finished answer, if every method of it is kept and it is fresh; no tensor is read for it."""
        found = self._ask(
            lambda store: store.load_report(
                self.endpoint, _name(ref), ref.revision, asked.key(), FORMULA_VERSION, names, explain=explain
            )
        )
        if found is None or found.missing or not (stale or self._fresh(ref, found.checked_at)):
            return None
        if explain and any(e.status != "skipped" and not e.alive for e in found.report.estimates):
            return None
        return found.report

    def _new_report(self, ref: RepoRef, asked: Settings, names: Sequence[str], explain: bool) -> Report:
        snapshot, description = self.snapshot(ref, self.selection)
        if snapshot.source == "cache":
            # The Hub has just said that this commit is still the one: its finished answer will do.
            kept = self._cached_report(ref, asked, names, explain, stale=True)
            if kept is not None:
                return kept
        from hubvram import estimator

        if snapshot.metadata.get("layout") == "adapter":
            report, final = self._adapter_report(snapshot, description, asked, names, explain)
        else:
            applied, estimates = estimator.estimate(snapshot, asked, methods=names, explain=explain)
            report, final = make_report(snapshot, description, applied, estimates), True
        if final and self.selection.is_default and _is_kept(snapshot):
            from hubvram.store import ModelKey

            key = ModelKey(snapshot.endpoint or "", snapshot.repo_id, snapshot.commit_sha or "")
            self._ask(
                lambda store: store.save_estimates(
                    key,
                    asked.key(),
                    FORMULA_VERSION,
                    report.estimates,
                    applied=report.settings,
                    warnings=report.warnings,
                    explain=explain,
                )
            )
        return report

    def _adapter_report(
        self, snapshot: Snapshot, description: Description, asked: Settings, names: Sequence[str], explain: bool
    ) -> tuple[Report, bool]:
        """Going on to train an adapter, on its base; and whether the answer is worth keeping.

        It is not where the base could not be read: that may change without a new commit.
        """
        from hubvram import adapters, estimator

        adapter = adapters.read_adapter(snapshot)
        reason = adapters.only_these(adapter)
        warnings: tuple[str, ...] = ()
        applied: Mapping[str, Any] = asked.to_dict()
        done: dict[str, Estimate] = {}
        final = True
        if adapter.base is None:
            reason = adapters.no_base(adapter)
        else:
            try:
                base, based = self.snapshot(adapter.base)
            except (NotFoundError, AccessError, NothingToReadError) as error:
                reason, final = f"its base model {adapter.base} cannot be read: {error.message}", False
            else:
                merged = replace(asked, peft={**adapter.peft, **asked.peft})
                wanted = [n for n in names if n in adapter.methods]
                applied, estimates = estimator.estimate(base, merged, methods=wanted, explain=explain)
                if "inference" in names:
                    plain = replace(asked, peft={})
                    estimates += estimator.estimate(base, plain, methods=["inference"], explain=explain)[1]
                done = {e.method: e for e in estimates}
                warnings = _join((adapters.continuing(adapter, base),), base.warnings, based.warnings)
                final = "refusal" not in base.metadata
        listed = [done.get(name) or Estimate(name, "skipped", reason=reason) for name in names]
        report = make_report(snapshot, description, applied, listed)
        return replace(report, warnings=_join(report.warnings, warnings)), final

    def _ask(self, question: Callable[[Store], T]) -> T | None:
        """Read or write the cache; None where there is none, or where it fails: the Hub can still answer."""
        store = self.store
        if store is None:
            return None
        try:
            return question(store)
        except StoreError as error:
            if self.need_store:
                raise
            self._warn(f"going on without the cache: {error.message}")
            with self._lock:
                self._store = None
            store.close()
            return None

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
        error=snapshot.metadata.get("refusal"),
    )


def _is_kept(snapshot: Snapshot) -> bool:
    """Whether a snapshot belongs in the cache: one of a commit on a Hub, read in full, as transformers would."""
    partial = "refusal" in snapshot.metadata or "conversion_pr" in snapshot.metadata
    return snapshot.commit_sha is not None and snapshot.endpoint is not None and not partial


def check_methods(methods: Sequence[str] | None) -> tuple[str, ...]:
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
