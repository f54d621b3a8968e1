"""GGUF headers: written here by the specification, and damaged in every way."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubvram.errors import CorruptHeaderError, HubvramError
from hubvram.snapshot.dtypes import GGML_BLOCKS, size_in_bytes
from hubvram.snapshot.gguf import TYPES, base_model, read_gguf, summary
from hubvram.sources.binary import gguf_header


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, body: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + body


def array(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def tensor(name: str, sides: tuple[int, ...], kind: int) -> bytes:
    """``sides`` as ggml has them: the innermost first."""
    return text(name) + struct.pack("<I", len(sides)) + struct.pack(f"<{len(sides)}QIQ", *sides, kind, 0)


def gguf(tensors: list[bytes], pairs: list[bytes], version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)


PAIRS = [
    pair("general.architecture", 8, text("llama")),
    pair("general.base_model.0.repo_url", 8, text("https://huggingface.co/org/base")),
    pair("llama.context_length", 4, struct.pack("<I", 4096)),
    pair("llama.rope.freq_base", 6, struct.pack("<f", 10000.0)),
    pair("tokenizer.ggml.tokens", 9, array(8, [text(f"t{i}") for i in range(500)])),
    pair("tokenizer.ggml.scores", 9, array(6, [struct.pack("<f", 0.5)] * 500)),
    pair("tokenizer.chat_template", 8, text("{{ x }}")),
    pair("nested", 9, array(9, [array(4, [struct.pack("<I", 1)])])),
    pair("flag", 7, b"\x01"),
]
TENSORS = [
    tensor("token_embd.weight", (256, 500), 12),
    tensor("blk.0.attn_v.weight", (256, 64), 14),
    tensor("output_norm.weight", (256,), 0),
    tensor("scalar", (), 0),
]
WHOLE = gguf(TENSORS, PAIRS)


def test_tensors_types_and_pairs() -> None:
    header, pairs = read_gguf(io.BytesIO(WHOLE), "m.gguf", "org/name")
    assert [(t.name, t.dtype, t.shape) for t in header.tensors] == [
        ("token_embd.weight", "Q4_K", (500, 256)),
        ("blk.0.attn_v.weight", "Q6_K", (64, 256)),
        ("output_norm.weight", "F32", (256,)),
        ("scalar", "F32", ()),
    ]
    # A block of 256 takes 144 and 210 bytes.
    assert header.data_bytes == 500 * 144 + 64 * 210 + 1024 + 4
    assert sum(size_in_bytes(t.dtype, t.numel) or 0 for t in header.tensors) == header.data_bytes
    assert len(pairs["tokenizer.ggml.tokens"]) == len(pairs["tokenizer.ggml.scores"]) == 64, "the rest is passed over"
    assert base_model(pairs) == "org/base"
    assert set(summary(pairs)) == {
        "general.architecture",
        "general.base_model.0.repo_url",
        "llama.context_length",
        "llama.rope.freq_base",
    }


def test_every_type_has_a_block() -> None:
    assert set(TYPES.values()) == set(GGML_BLOCKS)
    # Bits per weight, as llama.cpp prints them for its types.
    widths = {"Q4_0": 4.5, "Q8_0": 8.5, "Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625}
    for name, bits in {**widths, "IQ4_XS": 4.25, "IQ2_XXS": 2.0625, "MXFP4": 4.25, "F16": 16}.items():
        elements, size = GGML_BLOCKS[name]
        assert size * 8 / elements == bits


@pytest.mark.parametrize(
    ("url", "found"),
    [("https://huggingface.co/a/b", "a/b"), ("https://huggingface.co/a/b/", "a/b"), ("a/b", "a/b"), ("x", None),
     ("https://evil.example/a/b", None), ("", None), (5, None), ("https://huggingface.co/a b/c", None)],
)  # fmt: skip
def test_the_base_model(url: Any, found: str | None) -> None:
    assert base_model({"general.base_model.0.repo_url": url}) == found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ends within"),
        (b"version https://git", "Git LFS"),
        (b"\x00" * 64, "does not begin"),
        (gguf([], [], version=9), "version 9"),
        (gguf([], [], version=0x03000000), "big-endian"),
        (WHOLE[:-5], "ends within"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62), "claims"),
        (gguf([], [pair("a", 8, struct.pack("<Q", 2**60))]), "claims"),
        (gguf([], [pair("a", 9, struct.pack("<IQ", 8, 2**60))]), "claims"),
        (gguf([], [pair("a", 99, b"")]), "type 99"),
        (gguf([tensor("a", (2**40, 2**40), 0)], []), "overflows"),
        (gguf([tensor("a", (100, 4), 12)], []), "not a multiple of 256"),
        (gguf([tensor("a", (1,) * 9, 0)], []), "9 dimensions"),
    ],
)
def test_what_is_no_gguf(content: bytes, words: str) -> None:
    with pytest.raises(CorruptHeaderError, match=words):
        read_gguf(io.BytesIO(content), "m.gguf", "org/name")


def test_a_type_of_the_future_is_counted_and_named() -> None:
    header, _ = read_gguf(io.BytesIO(gguf([tensor("a", (8,), 77)], [])), "m.gguf")
    assert header.tensors[0].numel == 8
    assert "type 77" in header.warnings[0]


def test_deep_lists() -> None:
    body = array(4, [])
    for _ in range(50):
        body = array(9, [body])
    with pytest.raises(CorruptHeaderError):
        read_gguf(io.BytesIO(gguf([], [pair("a", 9, body)])), "m.gguf")


def test_by_ranges_a_large_vocabulary_takes_two() -> None:
    tokens = pair("tokenizer.ggml.tokens", 9, array(8, [text(f"token{i:06}") for i in range(150_000)]))
    content = gguf(TENSORS, [*PAIRS, tokens]) + bytes(20_000_000)
    asked: list[tuple[int, int]] = []

    def fetch(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return content[start:stop]

    header, _ = gguf_header(fetch, len(content), "m.gguf", "o/n")
    assert len(header.tensors) == 4
    assert asked == [(0, 1_048_576), (1_048_576, 1_048_576 + 8_388_608)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_damaged_headers_are_errors_or_tensors(edits: list[tuple[int, bytes]]) -> None:
    damaged = bytearray(WHOLE)
    for place, patch in edits:
        damaged[place : place + len(patch)] = patch
    try:
        header, pairs = read_gguf(io.BytesIO(bytes(damaged)), "m.gguf", "o/n")
    except HubvramError as error:
        assert error.message.isprintable()  # noqa: PT017 - either outcome is right, this must hold of the one
    else:
        assert all(t.numel >= 0 for t in header.tensors)
        base_model(pairs)
        summary(pairs)
