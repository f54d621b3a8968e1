"""What goes into the cache comes out of it, and means the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from hubvram.errors import StoreError
from hubvram.plan.settings import Settings
from hubvram.report.record import Estimate
from hubvram.store.store import ModelKey, Store, open_store

HUB = "https://huggingface.co"
A, B, C = "a" * 40, "b" * 40, "c" * 40


def scalar(store: Store, sql: str) -> Any:
    with store.read() as connection:
        return connection.execute(text(sql)).scalar()


def load(store: Store, repo: str = "org/name", revision: str | None = None, **options: Any) -> Any:
    return store.load_report(HUB, repo, revision, Settings().key(), 1, **options)


def test_a_report_comes_back_equal_but_for_its_source(store: Store, made: SimpleNamespace) -> None:
    snapshot = made.snapshot()
    report = made.report(snapshot, (made.estimate("qlora"), made.estimate("lora")))
    key = store.save_report(
        snapshot, made.description(snapshot), report, settings_key=Settings().key(), formula_version=1
    )
    found = load(store, explain=True)
    assert key == found.key == ModelKey(HUB, "org/name", A)
    assert found.report == replace(report, source="cache")
    assert found.report.to_dict(explain=True) == {**report.to_dict(explain=True), "source": "cache"}
    assert (found.missing, found.fetched_at, found.checked_at) == ((), "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z")


def test_marks_and_tensors_are_left_out_unless_asked_for(store: Store, save: Callable[..., Any]) -> None:
    save()
    assert load(store).report.estimates[0].alive == ()
    assert load(store, explain=True).report.estimates[0].alive != ()


def test_new_figures_without_an_explanation_drop_the_old_one(
    store: Store, save: Callable[..., Any], made: SimpleNamespace
) -> None:
    key = save()
    store.save_estimates(key, Settings().key(), 1, [made.estimate("lora", 5)], applied={}, explain=False)
    (found,) = load(store, explain=True).report.estimates
    assert (found.total_bytes, found.alive, found.marks) == (5, (), ())


def test_a_snapshot_comes_back_equal_but_for_its_source(store: Store, made: SimpleNamespace) -> None:
    snapshot = made.snapshot()
    store.save_snapshot(snapshot, made.description(snapshot))
    found = store.load_snapshot(HUB + "/", "org/name", "main")
    assert found is not None
    assert found.snapshot == replace(snapshot, source="cache")
    assert found.description == made.description(snapshot)


def test_unknown_names_revisions_and_settings_are_not_found(store: Store, save: Callable[..., Any]) -> None:
    save()
    assert load(store, "org/other") is None
    assert load(store, revision="v1") is None
    assert load(store, revision=B) is None
    assert store.load_snapshot("https://mirror.example", "org/name") is None
    other = store.load_report(HUB, "org/name", None, Settings(batch_size=2).key(), 1, ["lora"])
    assert other is not None
    assert (other.report.estimates, other.missing, other.estimated_at) == ((), ("lora",), None)
    newer = store.load_report(HUB, "org/name", None, Settings().key(), 2, ["lora"])
    assert newer is not None
    assert newer.missing == ("lora",)


def test_a_commit_is_found_by_its_hash_without_a_ref(store: Store, save: Callable[..., Any]) -> None:
    save(asked="name")
    for name in ("org/name", "name"):
        found = load(store, name, A)
        assert found.report.commit_sha == A
        assert found.report.requested_revision == A
    assert load(store, "org/name", A[:7]) is None


def test_a_renamed_repo_is_found_by_the_name_that_was_asked_for(store: Store, save: Callable[..., Any]) -> None:
    save("openai-community/gpt2", asked="gpt2")
    assert load(store, "gpt2").report.repo_id == "openai-community/gpt2"
    assert load(store, "openai-community/gpt2") is not None
    assert store.touch_ref(HUB, "gpt2", "v2", A)
    assert load(store, "openai-community/gpt2", "v2") is not None


def test_methods_come_in_the_order_asked_and_gaps_are_named(store: Store, save: Callable[..., Any]) -> None:
    save(methods=("full", "lora", "qlora"))
    found = load(store, methods=["qlora", "dora", "full"])
    assert [e.method for e in found.report.estimates] == ["qlora", "full"]
    assert found.missing == ("dora",)


def test_estimates_of_other_methods_stay(store: Store, save: Callable[..., Any], made: SimpleNamespace) -> None:
    key = save(methods=("full",))
    skipped = Estimate(method="ia3", status="skipped", reason="no attention that it knows", not_counted=("x",))
    store.save_estimates(key, Settings().key(), 1, [made.estimate("lora"), skipped], applied=Settings().to_dict())
    found = store.load_estimates(key, Settings().key(), 1)
    assert set(found) == {"full", "lora", "ia3"}
    assert found["ia3"] == skipped


def test_estimates_need_a_stored_model(store: Store, made: SimpleNamespace) -> None:
    key = ModelKey(HUB, "org/name", A)
    with pytest.raises(StoreError, match="org/name at a"):
        store.save_estimates(key, Settings().key(), 1, [made.estimate()], applied={})
    assert store.load_estimates(key, Settings().key(), 1) == {}


def test_a_folder_is_not_kept(store: Store, made: SimpleNamespace) -> None:
    snapshot = replace(made.snapshot("./dir"), commit_sha=None, endpoint=None, source="local")
    with pytest.raises(StoreError, match="is a folder"):
        store.save_snapshot(snapshot, made.description(snapshot))


def test_the_newest_commit_is_what_main_meant_last(store: Store, save: Callable[..., Any], clock: Any) -> None:
    newest = "select commit_sha from models where repo_id = 'org/name'"
    save(sha=A, revision="v1")
    assert scalar(store, newest) == A, "only a tag is known: it is the newest there is"
    clock.step(hours=1)
    save(sha=B)
    assert scalar(store, newest) == B
    clock.step(hours=1)
    save(sha=C, revision="refs/pr/1")
    assert scalar(store, newest) == B, "a pull request fetched later is not newer than main"
    clock.step(hours=1)
    assert store.touch_ref(HUB, "org/name", None, C)
    assert scalar(store, newest) == C, "main moved on to a commit that was known"
    assert scalar(store, "select count(*) from models") == 1
    assert scalar(store, "select count(*) from model_history") == 3
    assert load(store).checked_at == "2026-01-02T06:04:05Z"
    assert load(store).fetched_at == "2026-01-02T05:04:05Z"


def test_touching_an_unknown_commit_says_so(store: Store, save: Callable[..., Any]) -> None:
    save()
    assert not store.touch_ref(HUB, "org/name", None, B)
    assert load(store).report.commit_sha == A


def test_only_the_newest_formulas_show_in_estimates(store: Store, save: Callable[..., Any]) -> None:
    save(formula_version=2)
    save(formula_version=1)
    save(formula_version=1, settings=Settings(batch_size=4))
    with store.read() as connection:
        rows = connection.execute(text("select batch_size, formula_version from estimates order by batch_size")).all()
    assert [tuple(r) for r in rows] == [(1, 2), (4, 1)]
    assert scalar(store, "select count(*) from estimate_history") == 3


def test_saving_twice_changes_no_counts(store: Store, save: Callable[..., Any]) -> None:
    save()
    before = store.stats()
    save()
    after = store.stats()
    assert (after.commits, after.estimates, after.blob_bytes) == (before.commits, before.estimates, before.blob_bytes)
    assert store.check() == []


def test_commits_with_the_same_tensors_share_a_blob(store: Store, save: Callable[..., Any]) -> None:
    save(sha=A)
    save(sha=B)
    save("org/copy", sha=C)
    assert scalar(store, "select count(*) from _blobs") == 1
    save(sha=C, layers=4)
    assert scalar(store, "select count(*) from _blobs") == 2


def test_one_repo_is_kept_in_full_or_not_at_all(store: Store, made: SimpleNamespace) -> None:
    snapshot = made.snapshot()
    too_large = replace(made.estimate("lora"), trainable_parameters=2**63)
    report = made.report(snapshot, (made.estimate("full"), too_large))
    with pytest.raises(StoreError, match="cannot hold a value"):
        store.save_report(
            snapshot, made.description(snapshot), report, settings_key=Settings().key(), formula_version=1
        )
    assert store.stats().commits == store.stats().estimates == store.stats().blob_bytes == 0


def test_errors_count_up_and_go_with_the_next_success(store: Store, save: Callable[..., Any], clock: Any) -> None:
    store.save_error("org/name", None, "gated", "org/name is gated.", "Accept.", endpoint=HUB)
    clock.step(days=1)
    store.save_error("org/name", None, "network", "no answer", endpoint=HUB)
    store.save_error("org/name", "v1", "revision_not_found", "no v1", endpoint=HUB)
    with store.read() as connection:
        rows = connection.execute(text("select * from errors order by revision")).mappings().all()
    assert [(r["revision"], r["code"], r["hint"], r["times"]) for r in rows] == [
        ("main", "network", None, 2),
        ("v1", "revision_not_found", None, 1),
    ]
    assert (rows[0]["first_seen_at"], rows[0]["last_seen_at"]) == ("2026-01-02T03:04:05Z", "2026-01-03T03:04:05Z")
    save()
    assert scalar(store, "select group_concat(revision) from errors") == "v1"


def test_names_with_sql_in_them_are_only_names(store: Store, save: Callable[..., Any]) -> None:
    name = "org/x'); drop table _models; --"
    save(name, methods=("lo'ra\"; --",), revision="a'b")
    store.save_error(name, "';", "c'", "m'", "h'", endpoint=HUB)
    found = load(store, name, "a'b", methods=["lo'ra\"; --"])
    assert found.report.repo_id == name
    assert [e.method for e in found.report.estimates] == ["lo'ra\"; --"]
    assert scalar(store, "select count(*) from models") == 1


def test_threads_may_share_a_store(store: Store, save: Callable[..., Any]) -> None:
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for i in range(5):
                save(f"org/{number}-{i}")
                assert load(store, f"org/{number}-{i}") is not None
        except Exception as error:  # noqa: BLE001 - a thread's failure has no other way out
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.stats().repos == 30


def test_a_second_opening_sees_what_the_first_wrote(store: Store, db: Path, save: Callable[..., Any]) -> None:
    save()
    with open_store(db) as other:
        assert load(other) is not None


def test_check_finds_what_does_not_add_up(store: Store, save: Callable[..., Any]) -> None:
    save()
    assert store.check() == []
    with store.write() as connection:
        connection.execute(text("update _parameters set count = count + 1 where dtype = 'BF16'"))
        connection.execute(text("update _estimates set weights_bytes = 11"))
        connection.execute(text("update _models set is_newest = 0"))
        connection.execute(text("update _blobs set data = x'00'"))
        connection.execute(text("delete from _tensors where name = 'model.layers.*.norm.weight'"))
    problems = "\n".join(store.check())
    for part in (
        "parameters is 1,208, but count in _parameters sums to 1,209",
        "the peak is 150 bytes, but its parts sum to 151",
        "0 newest commits",
        "is not what was written",
        "tensor_count is 7, but count in _tensors sums to 4",
        "stored_bytes is 2,464, but bytes in _tensors sums to 2,368",
    ):
        assert part in problems


def test_prune_keeps_what_a_ref_leads_to(store: Store, save: Callable[..., Any]) -> None:
    save(sha=A, layers=1)
    save(sha=B, layers=2, revision="v1")
    save(sha=C, layers=3, formula_version=1)
    save(sha=C, layers=3, formula_version=2)
    done = store.prune()
    assert (done.commits, done.runs, done.blobs, done.errors) == (1, 1, 1, 0)
    assert load(store, revision="v1") is not None
    assert scalar(store, "select commit_sha from models") == C
    assert scalar(store, "select count(*) from _files") == 4, "what hung below the pruned commit is gone with it"
    assert store.check() == []


def test_prune_by_age(store: Store, save: Callable[..., Any], clock: Any) -> None:
    save("org/old")
    store.save_error("org/bad", None, "gated", "m", endpoint=HUB)
    clock.step(days=10)
    save("org/new")
    done = store.prune(unchecked_days=5)
    assert (done.commits, done.errors) == (1, 1)
    assert scalar(store, "select group_concat(repo_id) from models") == "org/new"


def test_stats_count(store: Store, db: Path, save: Callable[..., Any], clock: Any) -> None:
    save(sha=A)
    clock.step(days=1)
    save(sha=B, methods=("lora", "full"))
    stats = store.stats()
    assert (stats.repos, stats.commits, stats.estimates, stats.errors, stats.scans) == (1, 2, 3, 0, 0)
    assert (stats.oldest_fetched_at, stats.newest_fetched_at) == ("2026-01-02T03:04:05Z", "2026-01-03T03:04:05Z")
    assert stats.location == str(db)
    assert stats.journal_mode == "wal"
    assert stats.size_bytes >= db.stat().st_size
    assert stats.to_dict()["repos"] == 1


def test_scans_are_rows(store: Store) -> None:
    first = store.start_scan(total=3, settings_key=Settings().key())
    second = store.start_scan()
    store.finish_scan(first, ok=2, failed=1)
    store.finish_scan(second, ok=0, failed=0, interrupted=True)
    with store.read() as connection:
        rows = connection.execute(text("select status, total, ok, failed, finished_at from scans order by id")).all()
    assert [tuple(r) for r in rows] == [
        ("finished", 3, 2, 1, "2026-01-02T03:04:05Z"),
        ("interrupted", None, 0, 0, "2026-01-02T03:04:05Z"),
    ]
