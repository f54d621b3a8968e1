"""The header parser: what the format promises holds, and whatever breaks it is refused with the file's name."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubvram.errors import CorruptHeaderError, UnsupportedError
from hubvram.snapshot.dtypes import DTYPE_BITS, size_in_bytes
from hubvram.snapshot.header import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    check_header,
    header_length,
    parse_header,
    parse_json,
)
from hubvram.snapshot.limits import MAX_READ_BYTES

WHOLE_BYTES = sorted(d for d, bits in DTYPE_BITS.items() if bits % 8 == 0)


def tensor(dtype: str, shape: list[Any], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def parse(content: Any, *, size: int | None = None) -> Any:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_header(raw, "model.safetensors", file_size=size, repo_id="org/name")


def refused(content: Any, *, size: int | None = None) -> str:
    with pytest.raises(CorruptHeaderError) as caught:
        parse(content, size=size)
    message = caught.value.message
    assert message.startswith("org/name: 'model.safetensors' is not a valid safetensors file: ")
    assert message.isprintable()
    assert len(message) < 600
    return message


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A valid header and the length of its data section, written in any order of names."""
    names = draw(
        st.lists(st.text(min_size=1, max_size=12).filter(lambda n: n != "__metadata__"), unique=True, max_size=6)
    )
    content: dict[str, Any] = {}
    at = 0
    for name in names:
        dtype = draw(st.sampled_from(WHOLE_BYTES))
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        numel = 1
        for side in shape:
            numel *= side
        end = at + numel * DTYPE_BITS[dtype] // 8
        content[name] = tensor(dtype, shape, at, end)
        at = end
    if draw(st.booleans()):
        content["__metadata__"] = draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
    order = draw(st.permutations(list(content)))
    return {k: content[k] for k in order}, at


@given(headers(), st.integers(0, 16))
def test_every_valid_header_comes_out_as_it_is(header: tuple[dict[str, Any], int], padding: int) -> None:
    content, data = header
    raw = json.dumps(content).encode() + b" " * padding
    found = parse_header(raw, "f", file_size=LENGTH_BYTES + len(raw) + data)
    expected = [(n, t["dtype"], tuple(t["shape"]), "f") for n, t in content.items() if n != "__metadata__"]
    assert list(found.tensors) == expected
    assert found.metadata == content.get("__metadata__", {})
    assert (found.header_bytes, found.data_bytes, found.warnings) == (len(raw), data, ())
    for info in found.tensors:
        numel = 1
        for side in info.shape:
            numel *= side
        assert info.numel == numel


@given(headers(), st.integers(-16, 16).filter(bool))
def test_any_other_file_size_is_refused(header: tuple[dict[str, Any], int], off: int) -> None:
    content, data = header
    raw = json.dumps(content).encode()
    with pytest.raises(CorruptHeaderError, match="bytes, its header promises"):
        parse_header(raw, "f", file_size=LENGTH_BYTES + len(raw) + data + off)


@given(headers())
def test_the_package_of_the_format_agrees(header: tuple[dict[str, Any], int]) -> None:
    """What we accept, the reference reader reads the same (dtypes and shapes; it needs no framework for that)."""
    from safetensors import deserialize

    content, data = header
    raw = json.dumps(content).encode()
    blob = len(raw).to_bytes(8, "little") + raw + bytes(data)
    ours = {t.name: (t.dtype, list(t.shape)) for t in parse_header(raw, "f", file_size=len(blob)).tensors}
    theirs = {name: (t["dtype"], list(t["shape"])) for name, t in deserialize(blob)}
    assert ours == theirs


@given(headers(), st.data())
def test_a_flipped_byte_is_refused_or_agreed_on(header: tuple[dict[str, Any], int], data: st.DataObject) -> None:
    """Damage anywhere: a header, or one clean error; never another exception."""
    raw = bytearray(json.dumps(header[0]).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    outcome = None
    try:
        parse_header(bytes(raw), "f", file_size=LENGTH_BYTES + len(raw) + header[1])
    except CorruptHeaderError as error:
        outcome = error
    assert outcome is None or outcome.message.startswith("'f' is not a valid safetensors file: ")


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
_odd_tensor = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "U8", "F4", "X9"]) | _json},
    optional={
        "shape": st.lists(st.integers(-1, 2**64), max_size=3) | _json,
        "data_offsets": st.lists(st.integers(-1, 64), max_size=3) | _json,
    },
)


@given(st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), _odd_tensor | _json, max_size=4))
@settings(max_examples=300)
def test_any_json_is_a_header_or_refused(content: dict[str, Any]) -> None:
    outcome = None
    try:
        found = parse_header(json.dumps(content).encode(), "f")
    except CorruptHeaderError as error:
        outcome = error
    if outcome is None:
        at = 0
        for name, begin, end in sorted((n, *t["data_offsets"]) for n, t in content.items() if n != "__metadata__"):
            assert 0 <= begin <= end, name
            at = max(at, end)
        assert found.data_bytes == at


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused(raw: bytes) -> None:
    outcome: Any = None
    try:
        outcome = parse_header(raw, "f")
    except CorruptHeaderError as error:
        outcome = error
    assert outcome is not None


# -- one promise at a time ----------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (tensor("F32", [-1], 0, 0), "side '-1'"),
        (tensor("F32", [1.0], 0, 4), "side '1.0'"),
        (tensor("F32", [True], 0, 4), "side 'True'"),
        (tensor("F32", ["2"], 0, 8), "side '2'"),
        (tensor("F32", [[2]], 0, 8), "side '[2]'"),
        (tensor("F32", [2**62, 4], 0, 16), "overflows"),
        (tensor("F32", [2**62, 4, 0], 0, 0), "overflows"),
        (tensor("F32", [2**64], 0, 16), "overflows"),
        (tensor("F32", [2], 0, 4), "needs 8"),
        (tensor("BF16", [2], 0, 8), "needs 4"),
        (tensor("F4", [3], 0, 2), "needs 1.5"),
        (tensor("F6_E2M3", [2], 0, 2), "needs 1.5"),
        (tensor("F32", [2], 8, 0), "data_offsets"),
        (tensor("F32", [2], -8, 0), "data_offsets"),
        (tensor("F32", [0], 2**63, 2**63), "data_offsets"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0]}, "not a pair"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}, "not a pair"),
        ({"dtype": "F32", "shape": [2], "data_offsets": "08"}, "not a pair"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]}, "data_offsets"),
        ({"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}, "not a list"),
        ({"dtype": 4, "shape": [2], "data_offsets": [0, 8]}, "dtype"),
        ({"shape": [2], "data_offsets": [0, 8]}, "lacks 'dtype'"),
        ({"dtype": "F32", "data_offsets": [0, 8]}, "lacks 'shape'"),
        ({"dtype": "F32", "shape": [2]}, "lacks 'data_offsets'"),
        ([], "not described by an object"),
        (None, "not described by an object"),
    ],
)
def test_a_tensor_that_breaks_a_promise(entry: Any, word: str) -> None:
    message = refused({"w": entry})
    assert "tensor 'w'" in message
    assert word in message


@pytest.mark.parametrize(
    ("spans", "word"),
    [
        ([(0, 4), (2, 6)], "overlaps"),
        ([(0, 4), (0, 4)], "overlaps"),
        ([(0, 4), (8, 12)], "leaves a hole"),
        ([(4, 8)], "leaves a hole"),
    ],
)
def test_offsets_cover_the_data_once(spans: list[tuple[int, int]], word: str) -> None:
    assert word in refused({f"t{i}": tensor("F32", [1], *span) for i, span in enumerate(spans)})


def test_empty_tensors_and_scalars_take_their_place() -> None:
    found = parse(
        {
            "empty": tensor("F32", [0, 7], 4, 4),
            "scalar": tensor("F32", [], 0, 4),
            "end": tensor("U8", [0], 6, 6),
            "last": tensor("U8", [2], 4, 6),
        }
    )
    assert [t.numel for t in found.tensors] == [0, 1, 0, 2]
    assert found.data_bytes == 6
    assert parse({}, size=10).data_bytes == 0


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "begin with"),
        (b"[]", "begin with"),
        (b' {"a":1}', "begin with"),
        (b"{", "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":1}x', "not JSON"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\xc3\x28"}', "UTF-8"),
        (b'{"\xed\xa0\x80":1}', "UTF-8"),
        (b"\xef\xbb\xbf{}", "begin with"),
        (b'{"a":' + b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b'{"a":' + b"9" * 5_000 + b"}", "not JSON"),
        (b'{"__metadata__":{"a":1}}', "__metadata__"),
        (b'{"__metadata__":[]}', "__metadata__"),
        (b'{"__metadata__":{"a":"b","a":"c"}}', "'a' twice"),
        (
            b'{"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}',
            "'w' twice",
        ),
        (b'{"w":{"dtype":"F32","dtype":"F32","data_offsets":[0,4]}}', "'dtype' twice"),
        (b'{"w":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', "'shape' twice"),
    ],
)
def test_bytes_that_are_no_header(raw: bytes, word: str) -> None:
    assert word in refused(raw)


def test_names_are_shown_safely() -> None:
    message = refused({"\x1b[31mred\u202e\n" + "x" * 500: tensor("F32", [1], 0, 8)})
    assert "\\x1b[31mred" in message
    assert "..." in message


def test_three_tensors_named_like_the_fields() -> None:
    content = {n: tensor("U8", [1], i, i + 1) for i, n in enumerate(("dtype", "shape", "data_offsets"))}
    assert [t.name for t in parse(content).tensors] == ["dtype", "shape", "data_offsets"]


def test_more_fields_than_needed_are_fine() -> None:
    assert len(parse({"w": {**tensor("F32", [1], 0, 4), "note": "x"}}).tensors) == 1


def test_an_unknown_dtype_is_counted_with_a_warning() -> None:
    found = parse({"a": tensor("F3_X", [8], 0, 3), "b": tensor("F32", [1], 3, 7)}, size=None)
    assert found.tensors[0].numel == 8
    assert found.data_bytes == 7
    (warning,) = found.warnings
    assert "F3_X" in warning
    assert "model.safetensors" in warning


@pytest.mark.parametrize(("dtype", "bits"), sorted(DTYPE_BITS.items()))
def test_every_dtype_of_the_format(dtype: str, bits: int) -> None:
    found = parse({"w": tensor(dtype, [8, 2], 0, 2 * bits)})
    assert (found.tensors[0].dtype, found.data_bytes, found.warnings) == (dtype, 2 * bits, ())
    assert size_in_bytes(dtype, 16) == 2 * bits


def test_the_table_of_dtypes_is_the_package_s() -> None:
    """Each name of the table stands in the compiled package, which knows no list of its own to ask for."""
    import safetensors

    (binary,) = [p for p in Path(safetensors.__file__).parent.iterdir() if p.suffix in (".so", ".pyd")]
    words = binary.read_bytes()
    if b"F8_E8M0" not in words:
        pytest.skip("an older safetensors than the table")
    assert [d for d in DTYPE_BITS if d.encode() not in words] == []
    assert size_in_bytes("F9", 3) is None


# -- the length ---------------------------------------------------------------


@given(st.binary(max_size=12), st.none() | st.integers(0, 2**40))
def test_any_prefix_gives_a_length_within_bounds_or_is_refused(prefix: bytes, size: int | None) -> None:
    length = 0
    try:
        length = header_length(prefix, "f", file_size=size)
    except (CorruptHeaderError, UnsupportedError):
        return
    assert 2 <= length <= MAX_READ_BYTES
    assert length == int.from_bytes(prefix[:8], "little")
    assert size is None or 8 + length <= size


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER_BYTES + 1, 2**60, 2**64 - 1])
def test_lengths_out_of_bounds(length: int) -> None:
    with pytest.raises(CorruptHeaderError):
        header_length(length.to_bytes(8, "little"), "f")


def test_lengths_in_bounds() -> None:
    for length in (2, 25_000_000, MAX_READ_BYTES):
        assert header_length(length.to_bytes(8, "little"), "f", file_size=8 + length) == length
    with pytest.raises(UnsupportedError, match="32,000,001 bytes, more than"):
        header_length((MAX_READ_BYTES + 1).to_bytes(8, "little"), "f")
    with pytest.raises(CorruptHeaderError, match="the file has 9"):
        header_length((2).to_bytes(8, "little"), "f", file_size=9)


def test_a_page_instead_of_weights() -> None:
    with pytest.raises(CorruptHeaderError, match="web page"):
        header_length(b"<!doctype html>", "f")


# -- from the bulk endpoint ---------------------------------------------------


def test_the_length_follows_from_the_file_size() -> None:
    content = parse_json(json.dumps({"w": tensor("F32", [2], 0, 8)}).encode(), "f")
    assert check_header(content, "f", file_size=8 + 60 + 8).header_bytes == 60
    assert check_header(content, "f").header_bytes is None
    with pytest.raises(CorruptHeaderError):
        check_header(content, "f", file_size=17)


def test_ninety_thousand_tensors_in_well_under_two_seconds() -> None:
    content = {
        f"model.layers.{i // 800}.mlp.experts.{i % 800}.weight": tensor(
            "F8_E4M3", [7168, 2048], i * 14_680_064, (i + 1) * 14_680_064
        )
        for i in range(92_000)
    }
    raw = json.dumps(content, separators=(",", ":")).encode()
    start = time.process_time()
    found = parse_header(raw, "f")
    assert len(found.tensors) == 92_000
    assert time.process_time() - start < 2


def test_far_too_many_tensors_are_refused_before_they_take_memory() -> None:
    raw = b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(200_001)) + b"}"
    with pytest.raises(UnsupportedError, match=r"model\.safetensors.*200,000 tensors"):
        parse(raw)
