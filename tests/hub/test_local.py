"""Folders on disk: the same answers as from the Hub, and no request."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fakehub import FakeHub
from helpers import fetch

from hubvram.errors import CorruptHeaderError, EntryNotFoundError, NoSafetensorsError, RepoNotFoundError, SettingError
from hubvram.snapshot.counts import count_parameters
from hubvram.sources import fetch_snapshot, parse_ref, resolve_head
from hubvram.sources.loopback import load_repo


def materialise(fixtures: Path, repo_id: str, folder: Path) -> Path:
    """Write a fixture as a folder; the data sections become holes of the right length."""
    for path, content in load_repo(fixtures / repo_id, repo_id).revisions["main"].files.items():
        if not path.endswith((".safetensors", ".json")):
            continue
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.write(content.head)
            file.truncate(content.size)
    return folder


@pytest.mark.parametrize(
    "repo", ["mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.3", "HuggingFaceTB/SmolLM2-135M"]
)
def test_a_folder_is_like_its_repo(repo: str, fake_hub: FakeHub, fixtures_dir: Path, tmp_path: Path) -> None:
    folder = materialise(fixtures_dir, repo, tmp_path / "model")
    ref = parse_ref(str(folder))
    local = fetch_snapshot(ref, offline=True, info=resolve_head(ref, offline=True))
    remote = fetch(fake_hub, repo)
    assert local.tensors == remote.tensors
    assert local.config == remote.config
    assert count_parameters(local) == count_parameters(remote)
    assert (local.source, local.commit_sha, local.endpoint, local.repo_id) == ("local", None, None, str(folder))
    local_roles = {f.path: (f.role, f.header_bytes) for f in local.files if f.role != "ignored"}
    assert local_roles == {f.path: (f.role, f.header_bytes) for f in remote.files if f.role != "ignored"}


def test_home_and_relative_folders(monkeypatch: pytest.MonkeyPatch, fixtures_dir: Path, tmp_path: Path) -> None:
    materialise(fixtures_dir, "HuggingFaceTB/SmolLM2-135M", tmp_path / "m")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in ("~/m", "./m", "../" + tmp_path.name + "/m"):
        assert len(fetch_snapshot(parse_ref(text)).tensors) == 272


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(RepoNotFoundError, match="not a folder on this machine"):
        fetch_snapshot(parse_ref(str(tmp_path / "nowhere")))
    (tmp_path / "file").write_text("x")
    with pytest.raises(RepoNotFoundError, match="is a file"):
        fetch_snapshot(parse_ref(str(tmp_path / "file")))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(NoSafetensorsError, match="no weights at all"):
        fetch_snapshot(parse_ref(str(tmp_path)))


def test_a_truncated_file(fixtures_dir: Path, tmp_path: Path) -> None:
    folder = materialise(fixtures_dir, "HuggingFaceTB/SmolLM2-135M", tmp_path)
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CorruptHeaderError, match=r"model\.safetensors"):
        fetch_snapshot(parse_ref(str(folder)))
    os.truncate(path, 1000)
    with pytest.raises(CorruptHeaderError, match="the file has 1,000"):
        fetch_snapshot(parse_ref(str(folder)))


def test_a_shard_that_is_missing(fixtures_dir: Path, tmp_path: Path) -> None:
    folder = materialise(fixtures_dir, "mistralai/Mistral-7B-v0.1", tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(EntryNotFoundError, match="model-00002-of-00002"):
        fetch_snapshot(parse_ref(str(folder)))


def test_an_index_that_reaches_out_of_the_folder(fixtures_dir: Path, tmp_path: Path) -> None:
    folder = materialise(fixtures_dir, "mistralai/Mistral-7B-v0.1", tmp_path / "in")
    index = {"weight_map": {"w": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptHeaderError, match="not a safetensors file of the repo"):
        fetch_snapshot(parse_ref(str(folder)))


def test_each_source_refuses_the_others_refs(fake_hub: FakeHub, tmp_path: Path) -> None:
    from hubvram.sources.hub import HubSource
    from hubvram.sources.local import LocalSource

    hub = HubSource(fake_hub.url, token=False)
    with pytest.raises(SettingError, match="folder"):
        hub.resolve(parse_ref(str(tmp_path)))
    hub.close()
    with pytest.raises(SettingError, match="on the Hub"):
        LocalSource().resolve(parse_ref("org/name"))
