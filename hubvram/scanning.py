"""Many repos at once: each on its own, failures as rows and not as the end.

The work itself is a function that the caller gives (`estimate_one`); it keeps
its own results, one transaction a repo, so whatever stops a scan, finished
repos are stored. Nothing here prints: progress and results go to callbacks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hubvram.errors import HubvramError, SettingError
from hubvram.report.record import Report
from hubvram.sources.refs import RepoRef, parse_ref

if TYPE_CHECKING:
    from hubvram.store.store import Store

DEFAULT_JOBS = 8
"""Repos in work at once: they wait for the Hub most of the time."""


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What became of one repo of the list."""

    repo_id: str
    """As the list has it, without the revision; for a folder its path."""
    revision: str | None
    """As the list has it; None where it has none."""
    status: Literal["ok", "error"]
    report: Report | None
    error: HubvramError | None
    """For an exception that is no HubvramError: one that names it, with the exception as its ``__cause__``."""
    position: int
    """Place in the list, duplicates collapsed, from 0."""

    def to_dict(self, *, explain: bool = False) -> dict[str, Any]:
        """The report's JSON object, or ``{"repo_id", "error"}``; either with ``status``."""
        if self.report is not None:
            return {**self.report.to_dict(explain=explain), "status": self.status}
        error = self.error.to_dict() if self.error is not None else None
        return {"repo_id": self.repo_id, "status": self.status, "error": error}


@dataclass(frozen=True, slots=True)
class _Item:
    """One line of the list: a ref, or why it is none."""

    position: int
    text: str
    ref: RepoRef | None
    error: HubvramError | None

    @property
    def repo_id(self) -> str:
        return (self.ref.repo_id or self.ref.local_path or self.text) if self.ref else self.text

    @property
    def revision(self) -> str | None:
        return self.ref.revision if self.ref else None


def parse_repo_list(lines: Iterable[str]) -> list[str]:
    """The repos of a list, one a line: ``org/name``, ``org/name@rev``, a URL, or a JSON object with ``id``.

    Blank lines and what follows a ``#`` (at the start, or after a space) are
    left out. In a JSON object ``repo_id`` and ``modelId`` do as well, and
    ``revision`` is heeded.

    Raises:
        SettingError: on a JSON line without an id, with its number.
    """
    found = []
    for number, raw in enumerate(lines, 1):
        line = raw.lstrip("\ufeff").strip()
        if not line.startswith(("{", '"', "[")):
            line = "" if line.startswith("#") else line.split(" #", 1)[0].split("\t#", 1)[0].strip()
            if line:
                found.append(line)
            continue
        found.append(_from_json(line, number))
    return found


def _from_json(line: str, number: int) -> str:
    hint = 'A line is org/name, org/name@revision, or {"id": "org/name"}.'
    try:
        value = json.loads(line)
    except ValueError as error:
        raise SettingError(f"Line {number} of the list is not JSON: {error}.", hint=hint) from None
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        name = next((value[k] for k in ("id", "repo_id", "modelId") if isinstance(value.get(k), str)), None)
        if name:
            revision = value.get("revision")
            return f"{name}@{revision}" if isinstance(revision, str) and revision and "@" not in name else name
    raise SettingError(f"Line {number} of the list has no id.", hint=hint)


def scan(
    repos: Iterable[str | RepoRef],
    *,
    estimate_one: Callable[[RepoRef], Report],
    store: Store | None = None,
    jobs: int = DEFAULT_JOBS,
    on_result: Callable[[ScanResult], None] | None = None,
    on_start: Callable[[int], None] | None = None,
    endpoint: str | None = None,
    settings_key: str | None = None,
) -> list[ScanResult]:
    """Like `iter_scan`, all at once: the results in the order of the list.

    ``on_result`` is called for each as it finishes, in the caller's thread. A
    list of many thousands is better read from `iter_scan`, which holds none.
    """
    results = []
    for result in iter_scan(
        repos,
        estimate_one=estimate_one,
        store=store,
        jobs=jobs,
        on_start=on_start,
        endpoint=endpoint,
        settings_key=settings_key,
    ):
        results.append(result)
        if on_result is not None:
            on_result(result)
    return sorted(results, key=lambda r: r.position)


def iter_scan(
    repos: Iterable[str | RepoRef],
    *,
    estimate_one: Callable[[RepoRef], Report],
    store: Store | None = None,
    jobs: int = DEFAULT_JOBS,
    on_start: Callable[[int], None] | None = None,
    endpoint: str | None = None,
    settings_key: str | None = None,
) -> Iterator[ScanResult]:
    """Estimate many repos, several at a time, and yield each as it finishes.

    Args:
        repos: refs or what a user would type; the same repo and revision twice is done once.
        estimate_one: makes and keeps the report of one repo; called from several threads.
        store: keeps failures (``errors``) and the scan itself (``scans``); None = nothing is kept of them.
        jobs: repos in work at once.
        on_start: told the number of repos before the first begins.
        endpoint: the Hub, for rows of ``errors`` and for telling its URLs.
        settings_key: `Settings.key()`, for the row of ``scans``.

    Ctrl-C, or leaving the loop, stops it: repos in work are finished and
    stored, the rest is not begun, and the scan's row says ``interrupted``.

    Raises:
        SettingError: if ``jobs`` is less than 1.
        StoreError: if a failure cannot be written down.
    """
    if jobs < 1:
        raise SettingError(f"jobs is {jobs}: it must be at least 1.")
    items = _collapse(repos, endpoint)
    if on_start is not None:
        on_start(len(items))
    scan_id = store.start_scan(total=len(items), settings_key=settings_key) if store else None
    tally: list[str] = []  # appended to by the workers: a repo counts when it is stored, read or not

    def work(item: _Item) -> ScanResult:
        result = _one(item, estimate_one)
        if store is not None and result.error is not None:
            error = result.error
            store.save_error(
                item.repo_id,
                item.revision,
                error.code,
                error.message,
                error.hint,
                endpoint=endpoint,
                scan_id=scan_id,
            )
        tally.append(result.status)
        return result

    running: set[Future[ScanResult]] = set()
    interrupted = True
    executor = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="hubvram-scan")
    try:
        waiting = iter(items)
        while True:
            # A short queue: enough that no thread waits for the next repo, and little to cancel on Ctrl-C.
            while len(running) < 2 * jobs and (item := next(waiting, None)) is not None:
                running.add(executor.submit(work, item))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from sorted((future.result() for future in done), key=lambda r: r.position)
        interrupted = False
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        if store is not None and scan_id is not None:
            store.finish_scan(scan_id, ok=tally.count("ok"), failed=tally.count("error"), interrupted=interrupted)


def _collapse(repos: Iterable[str | RepoRef], endpoint: str | None) -> list[_Item]:
    """The list with refs parsed and each repo and revision once."""
    seen: set[tuple[str, str]] = set()
    items: list[_Item] = []
    for repo in repos:
        ref: RepoRef | None = None
        error: HubvramError | None = None
        try:
            ref = repo if isinstance(repo, RepoRef) else parse_ref(repo, endpoint=endpoint)
            key = (ref.local_path or ref.repo_id or "", ref.requested_revision)
        except HubvramError as problem:
            error, key = problem, (str(repo), "")
        if key not in seen:
            seen.add(key)
            items.append(_Item(len(items), repo.original if isinstance(repo, RepoRef) else repo, ref, error))
    return items


def _one(item: _Item, estimate_one: Callable[[RepoRef], Report]) -> ScanResult:
    error = item.error
    report: Report | None = None
    if item.ref is not None:
        try:
            report = estimate_one(item.ref)
        except HubvramError as problem:
            error = problem
        except Exception as problem:  # noqa: BLE001 - one odd repo must not end a scan of thousands; it is kept as a row
            error = HubvramError(
                f"{item.repo_id}: {type(problem).__name__}: {' '.join(str(problem).split())}",
                hint="This is a fault of hubvram: please report it with the repo's name.",
                repo_id=item.repo_id,
            )
            error.__cause__ = problem
    status: Literal["ok", "error"] = "ok" if error is None else "error"
    return ScanResult(item.repo_id, item.revision, status, report, error, item.position)
