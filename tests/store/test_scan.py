"""Many repos: each on its own, in any order, and nothing finished is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from hubvram.errors import GatedRepoError, RepoNotFoundError, SettingError, StoreError
from hubvram.plan.settings import Settings
from hubvram.report.record import Report
from hubvram.scanning import ScanResult, iter_scan, parse_repo_list, scan
from hubvram.sources.refs import RepoRef, parse_ref
from hubvram.store import migrate
from hubvram.store.store import Store, open_store

HUB = "https://huggingface.co"
ROOT = Path(migrate.__file__).parents[2]


@pytest.fixture
def one(store: Store, made: SimpleNamespace) -> Callable[[RepoRef], Report]:
    """Estimates and keeps any repo, but for some names that fail."""

    def estimate_one(ref: RepoRef) -> Report:
        name = ref.repo_id or ""
        if "gated" in name:
            raise GatedRepoError(f"{name} is gated.", hint="Accept its conditions.", repo_id=name)
        if "missing" in name:
            raise RepoNotFoundError(f"{name} does not exist.", repo_id=name)
        if "bug" in name:
            raise ZeroDivisionError("division\nby zero")
        snapshot = made.snapshot(name, revision=ref.requested_revision)
        report: Report = made.report(snapshot, (made.estimate(),))
        store.save_report(
            snapshot, made.description(snapshot), report, settings_key=Settings().key(), formula_version=1
        )
        return report

    return estimate_one


def rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with store.read() as connection:
        return [tuple(r) for r in connection.execute(text(sql))]


def test_lists_have_comments_blank_lines_and_json() -> None:
    lines = [
        "\ufeff# my models\n",
        "\r\n",
        "org/a\r\n",
        "  org/b@v1   # pinned\n",
        "https://huggingface.co/org/c/tree/main#readme\n",
        '{"id": "org/d", "downloads": 3}\n',
        '{"modelId": "org/e", "revision": "v2"}\n',
        '{"repo_id": "org/f@v3", "revision": "main"}\n',
        '"org/g"\n',
        "   \t\n",
    ]
    assert parse_repo_list(lines) == [
        "org/a",
        "org/b@v1",
        "https://huggingface.co/org/c/tree/main#readme",
        "org/d",
        "org/e@v2",
        "org/f@v3",
        "org/g",
    ]


@pytest.mark.parametrize("line", ["{", '{"name": "org/a"}', '{"id": 3}', "[1]", '["org/a"]', '{"id": ""}'])
def test_a_json_line_without_an_id_is_named(line: str) -> None:
    with pytest.raises(SettingError, match="Line 2 of the list"):
        parse_repo_list(["org/a", line])


def test_results_are_in_the_order_of_the_list(store: Store, one: Callable[[RepoRef], Report]) -> None:
    names = [f"org/{i}" for i in range(20)]
    heard: list[ScanResult] = []
    started: list[int] = []
    results = scan(names, estimate_one=one, store=store, jobs=4, on_result=heard.append, on_start=started.append)
    assert [r.repo_id for r in results] == names
    assert sorted(r.repo_id for r in heard) == sorted(names)
    assert started == [20]
    assert rows(store, "select count(*) from models") == [(20,)]
    assert rows(store, "select status, total, ok, failed from scans") == [("finished", 20, 20, 0)]


def test_failures_are_rows_and_do_not_stop_the_rest(store: Store, one: Callable[[RepoRef], Report]) -> None:
    names = ["org/a", "org/gated", "org/missing@v1", "no such name!", "org/bug", "org/b"]
    results = scan(names, estimate_one=one, store=store, endpoint=HUB, settings_key=Settings().key())
    assert [r.status for r in results] == ["ok", "error", "error", "error", "error", "ok"]
    assert [r.error.code if r.error else None for r in results] == [
        None,
        "gated",
        "repo_not_found",
        "bad_setting",
        "error",
        None,
    ]
    found = rows(store, "select repo_id, revision, code, message, endpoint, scan_id from errors order by repo_id")
    assert [r[:3] for r in found] == [
        ("no such name!", "main", "bad_setting"),
        ("org/bug", "main", "error"),
        ("org/gated", "main", "gated"),
        ("org/missing", "v1", "repo_not_found"),
    ]
    assert found[1][3] == "org/bug: ZeroDivisionError: division by zero"
    assert {r[4:] for r in found} == {(HUB, 1)}
    assert results[4].error is not None
    assert isinstance(results[4].error.__cause__, ZeroDivisionError)
    assert rows(store, "select total, ok, failed from scans") == [(6, 2, 4)]
    assert results[1].to_dict() == {
        "repo_id": "org/gated",
        "status": "error",
        "error": {"code": "gated", "message": "org/gated is gated.", "hint": "Accept its conditions."},
    }
    assert results[0].to_dict()["status"] == "ok"
    assert results[0].to_dict()["estimates"][0]["method"] == "lora"


def test_duplicates_are_done_once(store: Store, one: Callable[[RepoRef], Report]) -> None:
    seen: list[str] = []

    def counted(ref: RepoRef) -> Report:
        seen.append(str(ref))
        return one(ref)

    repos: list[str | RepoRef] = [
        "org/a",
        "org/a@main",
        parse_ref("org/a"),
        f"{HUB}/org/a",
        "org/a@v1",
        "bad name!",
        "bad name!",
    ]
    results = scan(repos, estimate_one=counted, store=store, jobs=1)
    assert seen == ["org/a", "org/a@v1"]
    assert [(r.repo_id, r.revision) for r in results] == [("org/a", None), ("org/a", "v1"), ("bad name!", None)]


def test_it_runs_as_many_at_once_as_asked(store: Store, made: SimpleNamespace) -> None:
    together = threading.Barrier(3, timeout=20)

    def meet(ref: RepoRef) -> Report:
        together.wait()
        report: Report = made.report(made.snapshot(ref.repo_id or ""), ())
        return report

    assert len(scan([f"org/{i}" for i in range(6)], estimate_one=meet, jobs=3)) == 6
    with pytest.raises(SettingError, match="jobs is 0"):
        scan(["org/a"], estimate_one=meet, jobs=0)


def test_leaving_the_loop_keeps_what_is_finished(store: Store, one: Callable[[RepoRef], Report]) -> None:
    results = iter_scan([f"org/{i}" for i in range(50)], estimate_one=one, store=store, jobs=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    ((status, ok, failed),) = rows(store, "select status, ok, failed from scans")
    assert (status, failed) == ("interrupted", 0)
    assert rows(store, "select count(*) from models") == [(ok,)]
    assert 1 <= ok < 50


def test_a_cache_that_cannot_be_written_ends_the_scan(
    store: Store, one: Callable[[RepoRef], Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "save_error", full)
    with pytest.raises(StoreError, match="disk is full"):
        scan(["org/gated"], estimate_one=one, store=store)


def test_without_a_store_nothing_is_kept(one: Callable[[RepoRef], Report]) -> None:
    assert [r.status for r in scan(["org/gated"], estimate_one=one)] == ["error"]


def test_an_empty_list(store: Store, one: Callable[[RepoRef], Report]) -> None:
    assert scan([], estimate_one=one, store=store) == []
    assert rows(store, "select status, total from scans") == [("finished", 0)]


def test_ctrl_c_leaves_finished_repos_stored(tmp_path: Path) -> None:
    db = tmp_path / "scan.db"
    program = f"""
import importlib.util, sys, time
sys.path.insert(0, {str(ROOT)!r})
spec = importlib.util.spec_from_file_location("makers", {str(Path(__file__).with_name("conftest.py"))!r})
m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m)
from hubvram.plan.settings import Settings
from hubvram.scanning import iter_scan
from hubvram.store.store import open_store

with open_store({str(db)!r}) as store:
    def one(ref):
        time.sleep(0.2)
        s = m._snapshot(ref.repo_id)
        report = m._report(s, (m._estimate(),))
        store.save_report(s, m._description(s), report, settings_key=Settings().key(), formula_version=1)
        return report
    try:
        for result in iter_scan([f"org/{{i}}" for i in range(500)], estimate_one=one, store=store, jobs=2):
            print(result.repo_id, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    seen = [process.stdout.readline().strip() for _ in range(3)]
    os.kill(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    seen += out.split()
    assert (errors, seen[-1]) == ("", "interrupted")
    with open_store(db) as store:
        stored = {r[0] for r in rows(store, "select repo_id from models")}
        assert set(seen[:-1]) <= stored
        assert rows(store, "select status, ok from scans") == [("interrupted", len(stored))]
        assert len(stored) < 20
        assert store.check() == []
