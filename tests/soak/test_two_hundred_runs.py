"""200 runs in a row against a Hub that misbehaves at random (seeded), on one cache.

Each ends with the right answer, byte for byte that of a quiet Hub, or with an
error that one of its faults explains; the cache stays sound; no weights are
fetched; nothing hangs.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakehub import GRANTED, FakeHub, mounted_on_loopback
from helpers import QUICK
from locations import FIXTURES

from hubvram.client import Client
from hubvram.errors import HubvramError
from hubvram.sources import transport
from hubvram.sources.loopback import Answer, Content, LoopbackHub

pytestmark = [pytest.mark.soak, pytest.mark.hub]

RUNS = 200
SECONDS = 90
REPOS = {
    "single": "HuggingFaceTB/SmolLM2-135M",
    "single, biases": "openai-community/gpt2",
    "sharded": "mistralai/Mistral-7B-v0.1",
    "seven shards": "huggyllama/llama-30b",
    "packed": "openai/gpt-oss-20b",
    "gated": "meta-llama/Llama-3.2-1B",
    "gptq": "TheBloke/Mistral-7B-v0.1-GPTQ",
}
WHERE = ["/api/models", "/revision/", r"config\.json", r"\.index\.json", "safetensors-metadata", r"\.safetensors$", ""]
_READING = {"network", "bad_config", "corrupt_header"}


def _status(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    hub.fault(where, dice.choice([500, 502, 503, 504, 408]), times=times)
    return {"network"}


def _rate_limit(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    fields = dice.choice([{"Retry-After": "0"}, {"RateLimit": '"api";r=0;t=0'}, {"Retry-After": "900"}])
    hub.fault(where, 429, headers=fields, times=times)
    return {"rate_limited"}


def _cut(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    hub.short_body(where, dice.randint(0, 3_000), times)
    return {"network"}


def _page(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    body = dice.choice([b"<html>log in</html>", b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 50_000])
    hub.body(where, body, content_type=dice.choice(["text/html", "application/json"]), times=times)
    return _READING | {"unsupported"}


def _wrong_range(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    value = dice.choice(["bytes 5-9/10", "bytes 0-1/2", "", "bytes 0-999999999999/3"])
    hub.bend(where, lambda a, _r: a._replace(headers={**a.headers, "Content-Range": value}), times)
    return {"network"}


def _no_ranges(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    hub.ignore_range(where)
    return set()


def _slow(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    pause = dice.choice([0.02, 0.6])

    def wait(answer: Answer, _request: Any) -> Answer:
        time.sleep(pause)
        return answer

    hub.bend(where, wait, min(times or 2, 2))
    return {"network"}


def _circles(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    target = dice.choice(["", "file:///etc/passwd", "//[", "http://127.0.0.1:1/"])
    hub.bend(where, lambda _a, r: Answer(302, {"Location": target or r.path}, Content(b"", 0)), times)
    return {"network"}


def _other_commit(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    """The head of main moves between the listing and the bulk endpoint's answer."""

    def moved(answer: Answer, _request: Any) -> Answer:
        raw = json.dumps({"sha": "f" * 40}).encode()
        return Answer(200, {"Content-Type": "application/json"}, Content(raw, len(raw)))

    hub.bend("expand=sha", moved, times)
    return set()


def _bulk(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    hub.fault("safetensors-metadata", dice.choice([404, 500, 403, 429]), times=times)
    return set()


def _gone(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    hub.fault(where, 404, code=dice.choice(["EntryNotFound", "RepoNotFound", ""]), times=times)
    return {"repo_not_found", "entry_not_found", "revision_not_found"}


def _refused(hub: FakeHub, dice: random.Random, where: str, times: int | None) -> set[str]:
    hub.fault(where, dice.choice([401, 403]), code=dice.choice(["GatedRepo", ""]), times=times)
    return {"gated", "not_authorised", "repo_not_found"}


FAULTS: list[Callable[[FakeHub, random.Random, str, int | None], set[str]]] = [
    _status, _rate_limit, _cut, _page, _wrong_range, _no_ranges, _slow, _circles, _other_commit, _bulk, _gone, _refused,
]  # fmt: skip


@pytest.fixture(scope="module")
def inner() -> LoopbackHub:
    return LoopbackHub(FIXTURES, granted=frozenset({GRANTED}))


def ask(hub: FakeHub, db: Path, repo: str, **options: Any) -> dict[str, Any]:
    """What a run says, without where it was read and from which port."""
    with Client(endpoint=hub.url, db=db, token=GRANTED, need_store=True, **options) as client:
        report = client.estimate(repo, ["full", "qlora"])
    content = report.to_dict()
    return {k: v for k, v in content.items() if k not in ("endpoint", "source", "warnings")}


def header_bytes(hub: FakeHub) -> int:
    """Bytes of headers, each request's counted to the end of its file's header at most."""
    total = 0
    for request in hub.log:
        if request.path.endswith(".safetensors") and request.status in (200, 206):
            repo, _, rest = request.path.lstrip("/").partition("/resolve/")
            found = hub.inner.repo(repo)
            assert found is not None
            total += len(found.revisions["main"].files[rest.partition("/")[2]].head)
    return total


def test_two_hundred_runs(inner: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "RetryPolicy", lambda: QUICK)
    monkeypatch.setattr(transport, "DEFAULT_TIMEOUT", 0.4)
    right: dict[str, dict[str, Any]] = {}
    with mounted_on_loopback(FakeHub(inner)) as quiet:
        for repo in REPOS.values():
            right[repo] = ask(quiet, tmp_path / "quiet.db", repo)
    db = tmp_path / "cache.db"
    seen: Counter[str] = Counter()
    # One address for all runs, as the cache's keys have it.
    hub = FakeHub(inner)
    start = time.monotonic()
    with mounted_on_loopback(hub):
        for seed in range(RUNS):
            dice = random.Random(seed)
            hub.log.clear()
            hub.faults.clear()
            inner.bulk = dice.random() < 0.7
            repo = dice.choice(sorted(REPOS.values()))
            thrown = [dice.choice(FAULTS) for _ in range(dice.randint(1, 3))]
            codes = set[str]().union(*(f(hub, dice, dice.choice(WHERE), dice.choice([1, 1, 2, None])) for f in thrown))
            fresh = db if dice.random() < 0.4 else tmp_path / f"own-{seed}.db"
            began = time.monotonic()
            outcome: dict[str, Any] | HubvramError
            try:
                outcome = ask(hub, fresh, repo, refresh=dice.random() < 0.7)
            except HubvramError as error:
                outcome = error
            story = f"seed {seed}: {[f.__name__ for f in thrown]} on {repo}"
            if isinstance(outcome, HubvramError):
                assert outcome.code in codes, f"{story}: {outcome.code}: {outcome.message}"
                assert outcome.message.isprintable(), story
                assert GRANTED not in f"{outcome.message}{outcome.hint}", story
                seen[outcome.code] += 1
            else:
                assert outcome == right[repo], story
                seen["right"] += 1
            assert time.monotonic() - began < 10, seed
            # Beside the headers: what is guessed too much for a first chunk, or is on the wire when hubvram hangs up.
            most = 40e6 if _no_ranges in thrown else 4e6
            assert hub.weight_bytes - header_bytes(hub) < most, seed
            if seed % 20 == 19:
                assert problems(db) == []
            if fresh != db:
                assert problems(fresh) == []
    assert problems(db) == []
    assert sum(seen.values()) == RUNS
    assert seen["right"] >= RUNS // 4
    assert len(seen) >= 5, seen
    assert time.monotonic() - start < SECONDS
    print(f"{RUNS} runs in {time.monotonic() - start:.0f} s: {dict(seen.most_common())}")


def problems(db: Path) -> list[str]:
    """What `hubvram cache check` has to say."""
    from hubvram.store import open_store
    from hubvram.store.maintenance import check

    if not db.exists():
        return []
    store = open_store(db)
    try:
        return check(store)
    finally:
        store.close()
