"""The cache by content: a new commit, a fork, a second repo with the same files cost no header request."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from fakehub import GRANTED, FakeHub

from hubvram.client import Client
from hubvram.snapshot.counts import count_parameters
from hubvram.snapshot.records import Snapshot
from hubvram.sources.loopback import Content, FixtureRepo, LoopbackHub, Revision
from hubvram.sources.refs import parse_ref
from hubvram.store import open_store

pytestmark = pytest.mark.hub

SMALL = "HuggingFaceTB/SmolLM2-135M"
BIG = "mistralai/Mistral-7B-v0.1"
LORA = "alignment-handbook/zephyr-7b-sft-qlora"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
GGUF = "TheBloke/Mistral-7B-v0.1-GGUF"
PICKLE = "EleutherAI/gpt-j-6b"
NEW = "c0ffee" + "0" * 34


def commit(hub: FakeHub, repo_id: str, sha: str = NEW, **files: Content) -> None:
    """A new head of main; ``files`` by path with ``__`` for dots."""
    repo = hub.inner.repo(repo_id)
    assert repo is not None
    main = repo.revisions["main"]
    added = {name.replace("__", "."): content for name, content in files.items()}
    repo.revisions["main"] = Revision(sha, {**main.files, **added}, main.lfs)


def text(content: str) -> Content:
    return Content(content.encode(), len(content.encode()))


def read(hub: FakeHub, db: Path, repo: str, **options) -> Snapshot:
    hub.log.clear()
    with Client(endpoint=hub.url, db=db, token=GRANTED, refresh=True, **options) as client:
        return client.snapshot(parse_ref(repo))[0]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.mark.parametrize("repo", [SMALL, BIG, LORA, SDXL, GGUF, PICKLE, "openai/gpt-oss-20b"])
def test_a_commit_that_touches_only_the_readme_costs_one_request(hub: FakeHub, db: Path, repo: str) -> None:
    before = read(hub, db, repo)
    commit(hub, repo, README__md=text("new words"))
    after = read(hub, db, repo)
    assert len(hub.log) == 1
    assert (before.commit_sha, after.commit_sha) != (after.commit_sha, before.commit_sha)
    assert after.commit_sha == NEW
    assert (after.tensors, after.config, after.warnings) == (before.tensors, before.config, before.warnings)
    assert count_parameters(after) == count_parameters(before)
    for key in ("layout", "adapter_config", "model_index", "components", "gguf"):
        assert after.metadata.get(key) == before.metadata.get(key)
    roles = [(f.path, f.role, f.header_bytes, f.reason) for f in before.files]
    assert [(f.path, f.role, f.header_bytes, f.reason) for f in after.files] == roles
    with open_store(db) as store:
        assert store.check() == []


@pytest.mark.parametrize("repo", [SMALL, BIG])
def test_a_fork_costs_one_request_and_shares_the_rows(hub: FakeHub, db: Path, repo: str) -> None:
    original = read(hub, db, repo)
    found = hub.inner.repo(repo)
    assert found is not None
    hub.inner._repos["fork/of-it"] = FixtureRepo("fork/of-it", copy.deepcopy(found.meta), dict(found.revisions))
    fork = read(hub, db, "fork/of-it")
    assert len(hub.log) == 1
    assert fork.repo_id == "fork/of-it"
    assert fork.tensors == original.tensors
    with open_store(db) as store, store.read() as connection:
        assert connection.exec_driver_sql("select count(*) from _blobs").scalar() == 1
        assert connection.exec_driver_sql("select count(*) from _models").scalar() == 2


def test_a_new_config_costs_a_request_for_the_config_alone(hub: FakeHub, db: Path) -> None:
    before = read(hub, db, SMALL)
    config = {**before.config, "rope_theta": 5}
    commit(hub, SMALL, config__json=text(json.dumps(config)))
    after = read(hub, db, SMALL)
    assert [r.path.rpartition("/")[2] for r in hub.log][1:] == ["config.json"]
    assert (after.config["rope_theta"], after.tensors) == (5, before.tensors)


def test_a_changed_shard_costs_a_request_for_that_shard_alone(hub: FakeHub, db: Path) -> None:
    before = read(hub, db, "mistralai/Mistral-7B-Instruct-v0.3")
    found = hub.inner.repo("mistralai/Mistral-7B-Instruct-v0.3")
    assert found is not None
    main = found.revisions["main"]
    path = "model-00002-of-00003.safetensors"
    old = main.files[path]
    files = {**main.files, path: Content(old.head, old.size, b"x")}
    found.revisions["main"] = Revision(NEW, files, main.lfs)
    after = read(hub, db, "mistralai/Mistral-7B-Instruct-v0.3")
    assert [r.path.rpartition("/")[2] for r in hub.log][1:] == [path]
    assert after.tensors == before.tensors


def test_the_same_file_at_another_path(hub: FakeHub, db: Path) -> None:
    """A model moved into a subfolder is the same content: no header request, and the new path in every row."""
    read(hub, db, SMALL)
    found = hub.inner.repo(SMALL)
    assert found is not None
    main = found.revisions["main"]
    moved = {f"sub/{p}" if p in ("model.safetensors", "config.json") else p: c for p, c in main.files.items()}
    found.revisions["main"] = Revision(NEW, moved, main.lfs | {"sub/model.safetensors"})
    after = read(hub, db, SMALL)
    assert len(hub.log) == 1
    assert {t.file for t in after.tensors} == {"sub/model.safetensors"}
    assert after.config["model_type"] == "llama"


def test_another_hub_is_not_believed(fake_hub: FakeHub, db: Path, fixtures_dir: Path) -> None:
    """Hashes are a Hub's own claims: what one says of a file tells nothing of a file of another Hub."""
    from fakehub import mounted_on_loopback

    read(fake_hub, db, SMALL)
    with mounted_on_loopback(FakeHub(LoopbackHub(fixtures_dir, granted=frozenset({GRANTED})))) as other:
        read(other, db, SMALL)
        assert len(other.log) == 3


def test_a_hash_with_another_size_is_not_taken(hub: FakeHub, db: Path) -> None:
    read(hub, db, SMALL)

    def bent(answer, _request):
        content = json.loads(b"".join(answer.chunks()))
        content["sha"] = NEW
        for item in content["siblings"]:
            if item["rfilename"] == "model.safetensors":
                item["size"] += 1
        body = json.dumps(content).encode()
        return answer._replace(body=Content(body, len(body)))

    hub.bend("/api/models/", bent)
    found = hub.inner.repo(SMALL)
    assert found is not None
    found.revisions["main"] = Revision(NEW, found.revisions["main"].files, found.revisions["main"].lfs)
    with pytest.raises(Exception, match="bytes where the listing says"):
        read(hub, db, SMALL)


def test_without_a_cache_everything_is_asked_for(hub: FakeHub, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hubvram.errors import StoreError
    from hubvram.store.store import Store

    read(hub, db, SMALL)
    commit(hub, SMALL, README__md=text("new words"))

    def broken(*_args):
        raise StoreError("the disk is gone")

    monkeypatch.setattr(Store, "known_files", broken)
    with pytest.warns(UserWarning, match="going on without the cache"):
        assert len(read(hub, db, SMALL).tensors) == 272
    assert len(hub.log) == 3
