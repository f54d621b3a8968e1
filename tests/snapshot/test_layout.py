"""Which files hold the model, and why the others do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubvram.errors import CorruptHeaderError, EntryNotFoundError, HubvramError, NoSafetensorsError
from hubvram.snapshot.layout import (
    Layout,
    ListedFile,
    choose,
    describe_files,
    parse_index,
    stated_size,
    total_size_warning,
    why_ignored,
)

INDEX = "model.safetensors.index.json"


def layout(*paths: str) -> Layout:
    return choose([ListedFile(p, 100) for p in paths], "org/name")


def shards(n: int, first: int = 1, last: int | None = None, digits: int = 5) -> list[str]:
    return [
        f"model-{i:0{digits}}-of-{n:0{digits}}.safetensors" for i in range(first, (n if last is None else last) + 1)
    ]


def test_a_single_file() -> None:
    found = layout("config.json", "model.safetensors", "README.md")
    assert (found.kind, found.config) == ("model", "config.json")
    assert found.components[0].single == "model.safetensors"


def test_a_single_file_comes_before_the_index_as_in_transformers() -> None:
    assert layout("model.safetensors", INDEX, *shards(2)).components[0].single == "model.safetensors"


@pytest.mark.parametrize("paths", [shards(3), shards(2, first=0), shards(163, digits=6), shards(1)])
def test_a_whole_series_of_shards(paths: list[str]) -> None:
    (component,) = layout(INDEX, *paths).components
    assert (component.index, component.family) == (INDEX, tuple(paths))


@pytest.mark.parametrize(
    "paths",
    [
        [],
        shards(3)[:2],
        shards(3)[1:],
        shards(2) + shards(3),
        [*shards(2), "model-000001-of-000002.safetensors"],
        ["part-a.safetensors", "part-b.safetensors"],
    ],
)
def test_without_a_whole_series_only_the_index_can_tell(paths: list[str]) -> None:
    assert layout(INDEX, *paths).components[0].family == ()


def test_duplicates_and_variants_are_left_out_with_reasons() -> None:
    paths = [
        "config.json",
        INDEX,
        *shards(2),
        "consolidated.safetensors",
        "consolidated-00001-of-00002.safetensors",
        "original/consolidated.00.pth",
        "original/model.safetensors",
        "model.fp16.safetensors",
        "model.fp16-00001-of-00002.safetensors",
        "model.non_ema.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "tf_model.h5",
        "flax_model.msgpack",
        "m.Q4_K_M.gguf",
        "onnx/model.onnx",
        "other.safetensors",
        "tokenizer.json",
    ]
    found = layout(*paths)
    files = describe_files([ListedFile(p, 1) for p in paths], found, dict.fromkeys(shards(2), (10, 20)))
    roles = {f.path: f.role for f in files}
    assert [p for p, r in roles.items() if r == "weights"] == shards(2)
    assert (roles["config.json"], roles[INDEX]) == ("config", "index")
    reasons = {f.path: f.reason for f in files if f.role == "ignored"}
    assert all(reasons.values())
    for path, word in {
        "consolidated.safetensors": "original format",
        "consolidated-00001-of-00002.safetensors": "original format",
        "original/consolidated.00.pth": "original format",
        "original/model.safetensors": "original format",
        "model.fp16.safetensors": "variant fp16",
        "model.fp16-00001-of-00002.safetensors": "variant fp16",
        "model.non_ema.safetensors.index.json": "variant non_ema",
        "pytorch_model.bin": "pickle",
        "pytorch_model.bin.index.json": "pickle",
        "tf_model.h5": "TensorFlow",
        "flax_model.msgpack": "Flax",
        "m.Q4_K_M.gguf": "GGUF",
        "onnx/model.onnx": "ONNX",
        "other.safetensors": "not part of the layout",
        "tokenizer.json": "no weights",
    }.items():
        assert word in (reasons[path] or ""), path


def test_an_index_beside_a_single_file_is_second() -> None:
    found = layout("model.safetensors", INDEX)
    assert why_ignored(INDEX, found) == "model.safetensors comes first"


def test_an_adapter_and_a_pipeline() -> None:
    adapter = layout("adapter_config.json", "adapter_model.safetensors", "README.md")
    assert (adapter.kind, adapter.config) == ("adapter", "adapter_config.json")
    pipeline = layout(
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "transformer/diffusion_pytorch_model-00001-of-00001.safetensors",
        "scheduler/scheduler_config.json",
        "v1-5-pruned.safetensors",
    )
    assert pipeline.kind == "pipeline"
    assert [c.single or c.index for c in pipeline.components] == [
        "text_encoder/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["a.safetensors", "b.safetensors"], ["'a.safetensors'", "'b.safetensors'", "--file a.safetensors"]),
        (["weights/a.safetensors"], ["'weights/a.safetensors'", "--file weights/a.safetensors"]),
        (["x/model.safetensors", "y/model.safetensors"], ["'x/model.safetensors'", "--file x/model.safetensors"]),
        (["original/consolidated.00.pth"], ["'original/consolidated.00.pth'", "--file original/consolidated.00.pth"]),
        (["a.ckpt", "b.pt", "optimizer.pt"], ["'a.ckpt', 'b.pt'", "--file a.ckpt"]),
        (["tf_model.h5", "flax_model.msgpack"], ["TensorFlow", "Flax"]),
        (["training_args.bin", "README.md"], ["no weights at all"]),
        ([], ["no weights at all"]),
    ],
)
def test_nothing_to_read_says_what_there_is(paths: list[str], words: list[str]) -> None:
    with pytest.raises(NoSafetensorsError) as caught:
        layout(*paths)
    text = f"{caught.value.message} | {caught.value.hint}"
    assert "org/name" in caught.value.message
    assert all(w in text for w in words), text


# -- the index ----------------------------------------------------------------


def index(weight_map: object, **more: object) -> bytes:
    return json.dumps({"metadata": {"total_size": 5}, "weight_map": weight_map, **more}).encode()


def test_an_index() -> None:
    found = parse_index(index({"a": "s2.safetensors", "b": "s1.safetensors", "c": "s2.safetensors"}), INDEX, "org/name")
    assert found.shards == ("s1.safetensors", "s2.safetensors")
    assert found.total_size == 5


def test_shards_are_named_from_the_index_s_folder() -> None:
    found = parse_index(index({"a": "s.safetensors"}), "unet/x.safetensors.index.json", "r", {"unet/s.safetensors"})
    assert found.shards == ("unet/s.safetensors",)


@pytest.mark.parametrize(
    "shard",
    [
        "../s.safetensors",
        "a/../../s.safetensors",
        "/s.safetensors",
        "//host/s.safetensors",
        "https://host/s.safetensors",
        "C:\\s.safetensors",
        "..\\s.safetensors",
        "./s.safetensors",
        "a//s.safetensors",
        "s.safetensors?x=1",
        "s%2e%2e.safetensors",
        "s.bin",
        "s.safetensors\n",
        "\x1b[31ms.safetensors",
        "",
        None,
        3,
        ["s.safetensors"],
        "x" * 2000 + ".safetensors",
    ],
)
def test_shard_names_with_tricks(shard: object) -> None:
    with pytest.raises(CorruptHeaderError) as caught:
        parse_index(index({"w": shard}), INDEX, "org/name")
    assert caught.value.message.isprintable()
    assert "org/name" in caught.value.message


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"\xff", b'{"weight_map":[]}', b'{"weight_map":{}}', b"[" * 99_999])
def test_no_index(raw: bytes) -> None:
    with pytest.raises(CorruptHeaderError, match=r"model\.safetensors\.index\.json"):
        parse_index(raw, INDEX, "org/name")


def test_a_shard_that_is_not_listed() -> None:
    with pytest.raises(EntryNotFoundError, match=r"s\.safetensors"):
        parse_index(index({"a": "s.safetensors"}), INDEX, "org/name", {"other"})


@given(
    st.binary(max_size=100)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: st.dictionaries(st.sampled_from(["weight_map", "metadata", "a"]), x, max_size=3),
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_an_index_or_refused(raw: bytes) -> None:
    outcome: object = None
    try:
        outcome = parse_index(raw, INDEX, "org/name")
    except HubvramError as error:
        outcome = error
    assert outcome is not None


def test_total_size() -> None:
    assert [
        stated_size(m) for m in ({"total_size": 5}, {"total_size": 5.0}, {"total_size": 5.5}, {"total_size": "5"})
    ] == [5, 5, None, None]
    assert [stated_size(m) for m in (None, [], {}, {"total_size": True}, {"total_size": float("inf")})] == [None] * 5
    assert total_size_warning(5, 5, INDEX) is None
    assert total_size_warning(None, 5, INDEX) is None
    warning = total_size_warning(6_000, 5_000, INDEX) or ""
    assert "6,000" in warning
    assert "5,000" in warning


def test_the_fixtures_list_what_they_ignore(fixtures_dir: Path) -> None:
    meta = json.loads((fixtures_dir / "mistralai/Mistral-7B-Instruct-v0.3/meta.json").read_text())
    files = [ListedFile(s["rfilename"], s["size"]) for s in meta["siblings"]]
    found = choose(files, "mistralai/Mistral-7B-Instruct-v0.3")
    assert len(found.components[0].family) == 3
    assert "original format" in why_ignored("consolidated.safetensors", found)
