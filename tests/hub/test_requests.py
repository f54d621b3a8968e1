"""What goes over the wire for each kind of repo: how many requests, which bytes."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from fakehub import FakeHub
from helpers import fetch, source

from hubvram.snapshot.counts import count_parameters
from hubvram.sources import chunks
from hubvram.sources.loopback import Content
from hubvram.sources.refs import parse_ref

pytestmark = pytest.mark.hub

SINGLE = {
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "openai-community/gpt2": 137_022_720,
    "EleutherAI/pythia-1.4b": 1_515_311_488,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "TheBloke/Mistral-7B-v0.1-GPTQ": 1_198_788_608,
    "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit": 4_650_177_823,
    "distil-whisper/distil-large-v3": 756_405_760,
    "alignment-handbook/zephyr-7b-sft-qlora": 13_631_488,
}
SHARDED = {
    "mistralai/Mistral-7B-v0.1": (7_241_732_096, 2),
    "mistralai/Mistral-7B-Instruct-v0.3": (7_248_023_552, 3),
    "huggyllama/llama-7b": (6_738_417_664, 2),
    "huggyllama/llama-30b": (32_528_947_456, 7),
    "meta-llama/Llama-2-13b-hf": (13_015_866_880, 3),
    "meta-llama/Llama-2-70b-hf": (68_976_653_312, 15),
    "meta-llama/Llama-3.1-8B": (8_030_261_248, 4),
    "openai/gpt-oss-20b": (11_956_805_184, 3),
    "Qwen/Qwen3-8B-FP8": (8_191_159_296, 2),
}


def _headers_total(hub: FakeHub, repo: str, files: list[str]) -> int:
    found = hub.inner.repo(repo)
    assert found is not None
    return sum(len(found.revisions["main"].files[f].head) for f in files)


@pytest.mark.parametrize(("repo", "total"), SINGLE.items())
def test_a_single_file_takes_three_requests(hub: FakeHub, repo: str, total: int) -> None:
    snapshot = fetch(hub, repo)
    assert count_parameters(snapshot).total == total
    assert len(hub.log) == 3
    (ranged,) = hub.requests(r"\.safetensors$")
    assert ranged.status == 206
    assert ranged.range is not None


@pytest.mark.parametrize(("repo", "expected"), SHARDED.items())
def test_a_sharded_model_takes_four_requests_and_no_weights(hub: FakeHub, repo: str, expected: tuple[int, int]) -> None:
    snapshot = fetch(hub, repo)
    assert count_parameters(snapshot).total == expected[0]
    assert len(hub.log) == 4
    assert hub.weight_bytes == 0
    weights = [f for f in snapshot.files if f.role == "weights"]
    assert len(weights) == expected[1]
    # The bulk answer has no lengths: they follow from the listing.
    assert all(f.header_bytes and f.size and f.content_hash for f in weights)


@pytest.mark.parametrize(("repo", "expected"), SHARDED.items())
@pytest.mark.parametrize("status", [404, 500])
def test_without_the_bulk_endpoint_each_shard_takes_one(
    hub: FakeHub, repo: str, expected: tuple[int, int], status: int
) -> None:
    hub.fault("safetensors-metadata", status)
    snapshot = fetch(hub, repo)
    assert count_parameters(snapshot).total == expected[0]
    assert len(hub.log) == expected[1] + 3
    assert len(hub.requests("safetensors-metadata")) == 1


@pytest.mark.parametrize(("repo", "expected"), SHARDED.items())
def test_at_a_commit_the_index_is_read_and_the_chunks_fit(hub: FakeHub, repo: str, expected: tuple[int, int]) -> None:
    found = hub.inner.repo(repo)
    assert found is not None
    snapshot = fetch(hub, repo, revision=found.revisions["main"].sha)
    assert count_parameters(snapshot).total == expected[0]
    assert len(hub.log) == expected[1] + 3
    assert not hub.requests("safetensors-metadata")
    # Names in the index give the length almost exactly: a quarter more than the headers at most.
    weights = [f.path for f in snapshot.files if f.role == "weights"]
    assert _headers_total(hub, repo, weights) <= hub.weight_bytes
    assert hub.weight_bytes <= 1.25 * _headers_total(hub, repo, weights) + 300 * len(weights)


def test_everything_is_read_at_the_commit_by_get_and_config_once(hub: FakeHub) -> None:
    hub.inner.bulk = False
    snapshot = fetch(hub, "mistralai/Mistral-7B-v0.1")
    assert {r.method for r in hub.log} == {"GET"}
    assert len(hub.requests(r"config\.json")) == 1
    assert snapshot.commit_sha
    assert all(f"/resolve/{snapshot.commit_sha}/" in r.path for r in hub.requests("/resolve/"))
    assert {r.status for r in hub.requests(r"\.safetensors$")} == {206}


def test_a_source_asks_for_a_missing_bulk_endpoint_once(hub: FakeHub) -> None:
    hub.inner.bulk = False
    opened = source(hub)
    for repo in ("mistralai/Mistral-7B-v0.1", "huggyllama/llama-7b"):
        ref = parse_ref(repo)
        opened.snapshot(ref, opened.resolve(ref))
    opened.close()
    assert len(hub.requests("safetensors-metadata")) == 1


def test_a_head_that_moves_while_the_bulk_answer_is_read(hub: FakeHub) -> None:
    def moved(answer, _request):
        content = json.loads(b"".join(answer.chunks()))
        body = json.dumps({**content, "sha": "f" * 40}).encode()
        return answer._replace(body=Content(body, len(body)))

    hub.bend("expand=sha", moved)
    snapshot = fetch(hub, "mistralai/Mistral-7B-v0.1")
    assert count_parameters(snapshot).total == 7_241_732_096
    assert {r.status for r in hub.requests(r"\.safetensors$")} == {206}, "the headers at the commit were read instead"


@pytest.mark.parametrize("how", ["other model", "no json", "a shard less", "wrong commit"])
def test_a_bulk_answer_that_does_not_fit_is_not_taken(hub: FakeHub, how: str) -> None:
    def bent(answer, _request):
        content = json.loads(b"".join(answer.chunks()))
        fields = dict(answer.headers)
        if how == "other model":
            content["headers"]["model-00001-of-00002.safetensors"] = {
                "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
            }
        elif how == "a shard less":
            del content["headers"]["model-00001-of-00002.safetensors"]
        elif how == "wrong commit":
            fields["X-Repo-Commit"] = "e" * 40
        body = b"<html>" if how == "no json" else json.dumps(content).encode()
        return answer._replace(headers=fields, body=Content(body, len(body)))

    hub.bend("safetensors-metadata", bent)
    snapshot = fetch(hub, "mistralai/Mistral-7B-v0.1")
    assert count_parameters(snapshot).total == 7_241_732_096
    assert len(hub.requests(r"\.safetensors$")) == 2


def test_a_stated_commit_saves_the_second_look(hub: FakeHub) -> None:
    found = hub.inner.repo("mistralai/Mistral-7B-v0.1")
    assert found is not None
    sha = found.revisions["main"].sha
    hub.bend("safetensors-metadata", lambda a, _r: a._replace(headers={**a.headers, "X-Repo-Commit": sha}))
    fetch(hub, "mistralai/Mistral-7B-v0.1")
    assert len(hub.log) == 3


def test_a_renamed_repo_is_followed_under_its_new_name(hub: FakeHub) -> None:
    snapshot = fetch(hub, "gpt2")
    assert snapshot.repo_id == "openai-community/gpt2"
    assert [r.status for r in hub.log] == [307, 200, 200, 206]


@pytest.mark.parametrize("repo", ["TheBloke/Mistral-7B-v0.1-GPTQ", "mistralai/Mistral-7B-v0.1"])
def test_a_server_that_ignores_ranges_sends_the_header_and_little_more(fake_hub: FakeHub, repo: str) -> None:
    fake_hub.inner.bulk = False
    fake_hub.ignore_range()
    snapshot = fetch(fake_hub, repo)
    weights = [f for f in snapshot.files if f.role == "weights"]
    # The client hangs up; what the sockets hold by then has left the server. The files have gigabytes.
    assert sum(f.size or 0 for f in weights) > 3e9
    assert fake_hub.weight_bytes < 40e6
    assert all(f.header_bytes for f in weights)


def test_a_header_larger_than_the_guess_takes_one_request_more(hub: FakeHub) -> None:
    tensors = {f"t{i:06}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(20_000)}
    raw = json.dumps(tensors).encode()
    head = len(raw).to_bytes(8, "little") + raw
    hub.file("HuggingFaceTB/SmolLM2-135M", "model.safetensors", Content(head, len(head) + 20_000))
    snapshot = fetch(hub, "HuggingFaceTB/SmolLM2-135M")
    assert len(snapshot.tensors) == 20_000
    assert len(hub.log) == 4
    assert hub.weight_bytes == len(head), "the rest of the header, and not a byte of the data"


@pytest.mark.parametrize("off", range(-9, 10))
def test_headers_that_end_around_the_first_chunk(hub: FakeHub, off: int) -> None:
    """The guess for SmolLM2 is known; a header that ends just before or behind it is read alike."""
    found = hub.inner.repo("HuggingFaceTB/SmolLM2-135M")
    assert found is not None
    first = chunks.from_config(json.loads(found.revisions["main"].files["config.json"].head))
    entry = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    raw = entry + b" " * (first + off - len(entry) - 1) + b"}"
    assert len(raw) == first + off
    content = Content(len(raw).to_bytes(8, "little") + raw, 8 + len(raw) + 8)
    hub.file("HuggingFaceTB/SmolLM2-135M", "model.safetensors", content)
    snapshot = fetch(hub, "HuggingFaceTB/SmolLM2-135M")
    assert [(t.name, t.shape) for t in snapshot.tensors] == [("a", (2,))]
    assert len(hub.log) == (3 if off <= 0 else 4)


def test_the_first_chunk_against_a_blind_one(shared_models: Path) -> None:
    """Over all published single files of the library: no second request, and fewer bytes than 100 kB each."""
    asked = blind = 0
    with (shared_models / "INDEX.csv").open(encoding="utf-8") as file:
        repos = [row["repo_id"] for row in csv.DictReader(file)]
    files = [r for r in repos if (shared_models / r / "headers" / "model.safetensors.json.gz").is_file()]
    assert len(files) > 30
    for repo in files:
        length = len(gzip.decompress((shared_models / repo / "headers" / "model.safetensors.json.gz").read_bytes())) + 8
        config = json.loads((shared_models / repo / "config.json").read_text("utf-8"))
        first = chunks.from_config(config)
        assert first >= length, repo
        asked += first
        blind += max(100_000, length)
    assert asked < 0.75 * blind


def test_the_chunk_per_shard_from_the_names(shared_models: Path) -> None:
    for path in sorted(shared_models.glob("*/*/model.safetensors.index.json")):
        shards: dict[str, list[str]] = {}
        for tensor, shard in json.loads(path.read_text("utf-8"))["weight_map"].items():
            shards.setdefault(shard, []).append(tensor)
        for shard, names in shards.items():
            length = len(gzip.decompress((path.parent / "headers" / f"{shard}.json.gz").read_bytes())) + 8
            assert length <= chunks.from_names(names), (path.parent.name, shard)
