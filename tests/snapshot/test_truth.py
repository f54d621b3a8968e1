"""Exact totals per dtype for every repo of the library of real headers, and for the fixtures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from locations import FIXTURES, SHARED_MODELS

from hubvram.snapshot.assemble import build_snapshot
from hubvram.snapshot.counts import count_parameters
from hubvram.snapshot.header import LENGTH_BYTES, parse_header
from hubvram.snapshot.layout import ListedFile, choose, parse_index
from hubvram.snapshot.records import Snapshot
from hubvram.sources.loopback import load_repo

PUBLISHED_LOGICAL = {
    # Published figures, by the Hub's own rule (huggingface.js's tests); biases that AutoGPTQ adds are in there.
    "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit": 8_030_261_248,
    "openai/gpt-oss-20b": 20_914_757_184,
    "Qwen/Qwen2.5-0.5B-Instruct-AWQ": 630_167_424,
    # The unquantised models: Mistral-7B-v0.1 and Llama-2-70B, the latter with its 80 x 64 inv_freq.
    "TheBloke/Mistral-7B-v0.1-GPTQ": 7_241_732_096,
    "TheBloke/Llama-2-70B-GPTQ": 68_976_648_192 + 80 * 64,
    "TechxGenus/Meta-Llama-3-8B-GPTQ": 8_030_261_248,
    "Qwen/Qwen-14B-Chat-Int4": 14_167_290_880,
    "Qwen/Qwen-7B-Chat-Int4": 7_721_324_544,
    # 8,190,735,360 without the block scales.
    "Qwen/Qwen3-8B-FP8": 8_190_735_360,
}


def read(root: Path, repo_id: str) -> Snapshot:
    """The snapshot of a folder of headers, by the layout that transformers would load."""
    files = load_repo(root / repo_id, repo_id).revisions["main"].files
    listed = [ListedFile(p, c.size) for p, c in files.items()]
    layout = choose(listed, repo_id)
    headers, indexes = {}, {}
    for component in layout.components:
        paths = (component.single,) if component.single else ()
        if component.index:
            indexes[component.index] = parse_index(files[component.index].head, component.index, repo_id, set(files))
            paths = indexes[component.index].shards
        for path in paths:
            content = files[path]
            headers[path] = parse_header(content.head[LENGTH_BYTES:], path, file_size=content.size, repo_id=repo_id)
    return build_snapshot(
        repo_id=repo_id,
        requested_revision="main",
        commit_sha=None,
        endpoint=None,
        source="local",
        layout=layout,
        config=json.loads(files[layout.config].head) if layout.config and files[layout.config].head else {},
        headers=headers,
        indexes=indexes,
        listed=listed,
        metadata={},
    )


def _rows() -> list[dict[str, str]]:
    if SHARED_MODELS is None:
        return []
    with (SHARED_MODELS / "INDEX.csv").open(encoding="utf-8") as file:
        return [r for r in csv.DictReader(file) if r["safetensors_published"] == "yes" and r["params"] != "0"]


ROWS = _rows()
PIPELINES_WITH_VARIANTS = {
    # The index counts every file; one layout is half of SDXL (fp32, no fp16) and the fp32 files of SD 1.5.
    "stabilityai/stable-diffusion-xl-base-1.0": {"F32": 3_468_837_867},
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {"F32": 859_520_964 + 83_653_863 + 123_060_480, "I64": 77},
}


@pytest.mark.skipif(not ROWS, reason="no library of real headers: set HUBVRAM_SHARED_MODELS")
@pytest.mark.parametrize("row", ROWS, ids=[r["repo_id"] for r in ROWS])
def test_every_repo_of_the_library(row: dict[str, str]) -> None:
    assert SHARED_MODELS is not None
    repo = row["repo_id"]
    snapshot = read(SHARED_MODELS, repo)
    counts = count_parameters(snapshot)
    meta = json.loads((SHARED_MODELS / repo / "meta.json").read_text("utf-8"))
    expected = PIPELINES_WITH_VARIANTS.get(repo, meta["header_elements_by_dtype"])
    assert counts.by_dtype == expected
    assert counts.total == sum(expected.values())
    if counts.logical_note is None and repo not in PIPELINES_WITH_VARIANTS:
        # Some rows leave integer buffers out of their figure.
        assert int(row["params"]) in (counts.total, counts.total - expected.get("I64", 0))
    if repo in PUBLISHED_LOGICAL:
        assert counts.logical_total == PUBLISHED_LOGICAL[repo]
    sizes = {s["rfilename"]: s["size"] for s in meta["siblings"]}
    weights = [f for f in snapshot.files if f.role == "weights"]
    assert counts.stored_bytes == sum(sizes[f.path] - 8 - (f.header_bytes or 0) for f in weights)


def test_the_library_is_whole() -> None:
    if SHARED_MODELS is None:
        pytest.skip("no library of real headers: set HUBVRAM_SHARED_MODELS")
    assert len(ROWS) >= 85


@pytest.mark.parametrize(
    "repo", sorted(f"{p.parent.parent.name}/{p.parent.name}" for p in FIXTURES.glob("*/*/meta.json"))
)
def test_the_fixtures_are_sound(repo: str) -> None:
    if repo in ("EleutherAI/gpt-j-6b", "TheBloke/Mistral-7B-v0.1-GGUF"):
        pytest.skip("has no safetensors, on purpose")
    counts = count_parameters(read(FIXTURES, repo))
    assert counts.total > 0
    if repo in PUBLISHED_LOGICAL:
        assert counts.logical_total == PUBLISHED_LOGICAL[repo]
