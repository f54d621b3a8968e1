"""`hubvram.sources`: what the rest of the program calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakehub import GRANTED, FakeHub

from hubvram.errors import OfflineError, RepoNotFoundError
from hubvram.snapshot.counts import count_parameters
from hubvram.sources import fetch_snapshot, is_offline, open_source, parse_ref, resolve_head

pytestmark = pytest.mark.hub


def test_fetch(hub: FakeHub) -> None:
    snapshot = fetch_snapshot(parse_ref("mistralai/Mistral-7B-v0.1"), endpoint=hub.url + "/")
    assert count_parameters(snapshot).by_dtype == {"BF16": 7_241_732_096}
    assert snapshot.endpoint == hub.url
    assert snapshot.source == "hub"
    assert snapshot.requested_revision == "main"
    assert snapshot.config["model_type"] == "mistral"
    assert snapshot.warnings == ()


def test_the_head_first_then_the_rest(hub: FakeHub) -> None:
    ref = parse_ref("mistralai/Mistral-7B-v0.1@main")
    info = resolve_head(ref, endpoint=hub.url)
    assert len(hub.log) == 1
    snapshot = fetch_snapshot(ref, endpoint=hub.url, info=info)
    assert snapshot.commit_sha == info.commit_sha
    assert len(hub.log) == 4


def test_one_source_for_many(hub: FakeHub) -> None:
    refs = [parse_ref(r) for r in ("gpt2", "huggyllama/llama-7b", "HuggingFaceTB/SmolLM2-135M")]
    source = open_source(refs[0], endpoint=hub.url)
    totals = [count_parameters(fetch_snapshot(r, source=source)).total for r in refs]
    source.close()
    assert totals == [137_022_720, 6_738_417_664, 134_515_008]


def test_the_environment_gives_endpoint_and_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", GRANTED)
    assert fetch_snapshot(parse_ref("meta-llama/Llama-3.2-1B")).endpoint == hub.url
    assert {r.headers["authorization"] for r in hub.log} == {f"Bearer {GRANTED}"}
    hub.log.clear()
    fetch_snapshot(parse_ref("gpt2"), token=False)
    assert not any("authorization" in r.headers for r in hub.log)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "on", "YES", "True"])
def test_offline_by_the_environment(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(OfflineError) as caught:
        fetch_snapshot(parse_ref("org/name"), endpoint=hub.url)
    assert caught.value.exit_code == 7
    assert "org/name" in caught.value.message
    assert not hub.log


def test_offline_by_argument(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OfflineError):
        resolve_head(parse_ref("org/name"), endpoint=hub.url, offline=True)
    assert not is_offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not is_offline()


def test_a_folder_that_was_meant(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RepoNotFoundError) as caught:
        fetch_snapshot(parse_ref("my-model"), endpoint=hub.url)
    assert "./my-model" in (caught.value.hint or "")


def test_the_seam_imports_no_http(tmp_path: Path) -> None:
    code = (
        "import sys, hubvram.sources as s; s.parse_ref('org/name@v1'); s.is_offline()\n"
        "print([m for m in ('huggingface_hub','requests','httpx','httpx2','concurrent.futures','http.client')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_the_loopback_hub_runs_by_itself(fixtures_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hubvram.sources.loopback", str(fixtures_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            snapshot = fetch_snapshot(parse_ref("mistralai/Mistral-7B-v0.1"), endpoint=url, token=False)
            assert len(snapshot.tensors) == 291
        finally:
            server.terminate()
