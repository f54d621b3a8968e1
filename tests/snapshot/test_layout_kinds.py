"""Layouts that transformers does not find by itself: variants, other names, folders, pickles, GGUF, `--file`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubvram.errors import EntryNotFoundError, HubvramError
from hubvram.snapshot.layout import Layout, ListedFile, choose, why_ignored


def layout(*paths: str, variant: str | None = None, file: str | None = None) -> Layout:
    return choose([ListedFile(p, 100) for p in paths], "org/name", variant=variant, file=file)


def weights(found: Layout) -> list[str]:
    return [p for c in found.components for p in ([c.single] if c.single else c.family or [c.index or ""])]


PLAIN = ["config.json", "model.safetensors", "model.fp16.safetensors", "model.non_ema.safetensors"]


@pytest.mark.parametrize(
    ("variant", "read"),
    [(None, "model.safetensors"), ("fp16", "model.fp16.safetensors"), ("non_ema", "model.non_ema.safetensors")],
)
def test_variants_of_a_single_file(variant: str | None, read: str) -> None:
    assert weights(layout(*PLAIN, variant=variant)) == [read]


def test_a_variant_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(EntryNotFoundError, match="variant 'bf16'") as caught:
        layout(*PLAIN, variant="bf16")
    assert caught.value.hint == "it has: 'fp16', 'non_ema'"
    with pytest.raises(EntryNotFoundError) as caught:
        layout("model.safetensors", variant="fp16")
    assert "leave --variant out" in (caught.value.hint or "")


@pytest.mark.parametrize("index", ["model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"])
def test_a_sharded_variant_by_either_name_of_its_index(index: str) -> None:
    shards = [f"model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    found = layout("model.safetensors", index, *shards, variant="fp16")
    assert (found.components[0].index, found.components[0].family) == (index, tuple(shards))


def test_a_pipeline_takes_the_variant_where_a_folder_has_it() -> None:
    paths = [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "safety_checker/pytorch_model.bin",
    ]
    found = layout(*paths, variant="fp16")
    assert weights(found) == [
        "safety_checker/pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert "safety_checker, vae: no variant 'fp16'" in found.notes[0]
    assert not layout(*paths).notes


@pytest.mark.parametrize(
    ("paths", "read"),
    [
        (["consolidated.safetensors", "params.json"], ["consolidated.safetensors"]),
        (["consolidated.safetensors", "odd.safetensors"], ["odd.safetensors"]),
        (["model.fp16.safetensors"], ["model.fp16.safetensors"]),
        (["model.fp16.safetensors", "llama-7b-4bit.safetensors"], ["llama-7b-4bit.safetensors"]),
        (["gptq_model-4bit-128g.safetensors", "training_args.bin"], ["gptq_model-4bit-128g.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"],
            ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"],
        ),
        (["weights.safetensors.index.json", "a.safetensors", "b.safetensors"], ["weights.safetensors.index.json"]),
        (["sub/model.safetensors", "sub/config.json", "notes.txt"], ["sub/model.safetensors"]),
        (
            ["modules.json", "0_Transformer/model.safetensors", "2_Dense/model.safetensors"],
            ["0_Transformer/model.safetensors"],
        ),
    ],
)
def test_the_only_model_by_another_name_is_read_and_said_so(paths: list[str], read: list[str]) -> None:
    found = layout(*paths)
    assert found.kind == "model"
    assert weights(found) == read
    (note,) = found.notes
    assert "read" in note


def test_the_config_of_a_subfolder() -> None:
    assert layout("sub/model.safetensors", "sub/config.json", "config.json").config == "sub/config.json"
    assert layout("sub/model.safetensors", "config.json").config == "config.json"
    assert layout("sub/model.safetensors").config is None


def test_modules_of_sentence_transformers_beside_the_transformer() -> None:
    found = layout("config.json", "model.safetensors", "modules.json", "2_Dense/model.safetensors")
    assert weights(found) == ["model.safetensors"]
    assert "sentence-transformers module 2_Dense" in why_ignored("2_Dense/model.safetensors", found)


@pytest.mark.parametrize(
    ("paths", "read", "kind"),
    [
        (["pytorch_model.bin", "config.json", "optimizer.bin"], ["pytorch_model.bin"], "model"),
        (["pytorch_model.bin", "some_lora.safetensors"], ["pytorch_model.bin"], "model"),
        (["adapter_model.bin", "adapter_config.json"], ["adapter_model.bin"], "adapter"),
        (["model.ckpt", "scheduler.pt", "training_args.bin"], ["model.ckpt"], "model"),
        (
            [
                "pytorch_model.bin.index.json",
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model-00002-of-00002.bin",
            ],
            ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
            "model",
        ),
    ],
)
def test_pickles(paths: list[str], read: list[str], kind: str) -> None:
    found = layout(*paths)
    assert (weights(found), found.kind, found.format) == (read, kind, "pickle")


@pytest.mark.parametrize(
    ("paths", "read"),
    [
        (["m.gguf"], ["m.gguf"]),
        (["m.Q2_K.gguf", "m.Q4_K_M.gguf", "m.Q8_0.gguf"], ["m.Q4_K_M.gguf"]),
        (["m-q4_k_m.gguf", "m-f16.gguf"], ["m-q4_k_m.gguf"]),
        (["b.Q8_0.gguf", "a.Q5_0.gguf", "mmproj-f16.gguf"], ["a.Q5_0.gguf"]),
        (["mmproj-f16.gguf"], ["mmproj-f16.gguf"]),
        (
            ["Q4_K_M/m-00001-of-00002.gguf", "Q4_K_M/m-00002-of-00002.gguf", "Q8_0/m.gguf"],
            ["Q4_K_M/m-00001-of-00002.gguf", "Q4_K_M/m-00002-of-00002.gguf"],
        ),
    ],
)
def test_gguf(paths: list[str], read: list[str]) -> None:
    found = layout(*paths)
    assert (weights(found), found.format, found.config) == (read, "gguf", None)
    assert bool(found.notes) == (len([p for p in paths if "mmproj" not in p]) > len(read))


@pytest.mark.parametrize(
    ("file", "read", "config"),
    [
        ("consolidated.safetensors", ["consolidated.safetensors"], "config.json"),
        ("./model.fp16.safetensors", ["model.fp16.safetensors"], "config.json"),
        ("x/", ["x/model.safetensors"], "x/config.json"),
        ("x", ["x/model.safetensors"], "x/config.json"),
        (
            "s-00001-of-00002.safetensors",
            ["s-00001-of-00002.safetensors", "s-00002-of-00002.safetensors"],
            "config.json",
        ),
        ("part.safetensors.index.json", ["part.safetensors.index.json"], "config.json"),
        ("m.gguf", ["m.gguf"], None),
        ("pytorch_model.bin", ["pytorch_model.bin"], "config.json"),
        ("last/adapter_model.safetensors", ["last/adapter_model.safetensors"], "last/adapter_config.json"),
        ("last", ["last/adapter_model.safetensors"], "last/adapter_config.json"),
    ],
)
def test_a_file_by_name(file: str, read: list[str], config: str | None) -> None:
    paths = [
        *PLAIN,
        "consolidated.safetensors",
        "x/model.safetensors",
        "x/config.json",
        "s-00001-of-00002.safetensors",
        "s-00002-of-00002.safetensors",
        "part.safetensors.index.json",
        "m.gguf",
        "pytorch_model.bin",
        "last/adapter_model.safetensors",
        "last/adapter_config.json",
    ]
    found = layout(*paths, file=file)
    assert (weights(found), found.config) == (read, config)


@pytest.mark.parametrize(
    ("file", "words"),
    [("modell.safetensors", "did you mean 'model.safetensors'"), ("config.json", "--file takes"), ("../x", "did you")],
)
def test_a_file_that_is_none(file: str, words: str) -> None:
    with pytest.raises(EntryNotFoundError) as caught:
        layout(*PLAIN, file=file)
    assert words in (caught.value.hint or "")


NAMES = st.sampled_from(
    [
        "model.safetensors",
        "model.fp16.safetensors",
        "x-00001-of-00002.safetensors",
        "x-00002-of-00002.safetensors",
        "pytorch_model.bin",
        "adapter_model.bin",
        "a.gguf",
        "model_index.json",
        "unet/model.safetensors",
        "modules.json",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
        "a/b/model.safetensors",
        "config.json",
    ]
)


@given(st.sets(NAMES), st.sampled_from([None, "fp16", "x"]), st.none() | NAMES)
def test_any_listing_has_a_layout_or_an_error(paths: set[str], variant: str | None, file: str | None) -> None:
    try:
        found = choose([ListedFile(p) for p in sorted(paths)], "org/name", variant=variant, file=file)
    except HubvramError:
        return
    read = {p for c in found.components for p in (c.single, c.index, *c.family) if p}
    assert read
    assert read <= paths
