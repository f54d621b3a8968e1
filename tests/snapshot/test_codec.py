"""Snapshots as bytes and back."""

from __future__ import annotations

import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubvram.errors import StoreError
from hubvram.snapshot.codec import decode, encode
from hubvram.snapshot.records import FileInfo, Snapshot, TensorInfo

_text = st.text(max_size=10)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _text,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(_text, x, max_size=3),
    max_leaves=8,
)
_tensor = st.builds(
    TensorInfo,
    _text,
    st.sampled_from(["F32", "BF16", "X"]),
    st.lists(st.integers(0, 2**62), max_size=4).map(tuple),
    _text,
)
_file = st.builds(
    FileInfo,
    path=_text,
    size=st.none() | st.integers(0),
    role=st.sampled_from(["weights", "index", "config", "ignored"]),
    reason=st.none() | _text,
    header_bytes=st.none() | st.integers(0),
    content_hash=st.none() | _text,
)
_snapshot = st.builds(
    Snapshot,
    repo_id=_text,
    requested_revision=_text,
    commit_sha=st.none() | _text,
    endpoint=st.none() | _text,
    source=st.sampled_from(["hub", "cache", "local"]),
    config=st.dictionaries(_text, _json, max_size=4),
    tensors=st.lists(_tensor, max_size=5).map(tuple),
    files=st.lists(_file, max_size=3).map(tuple),
    metadata=st.dictionaries(_text, _json, max_size=3),
    warnings=st.lists(_text, max_size=3).map(tuple),
)


@given(_snapshot)
def test_what_goes_in_comes_out(snapshot: Snapshot) -> None:
    data = encode(snapshot)
    found = decode(data)
    assert found == snapshot
    assert all(type(t) is TensorInfo and type(t.shape) is tuple for t in found.tensors)
    assert encode(found) == data


def _large() -> Snapshot:
    tensors = tuple(
        TensorInfo(
            f"model.layers.{i // 1500}.mlp.experts.{i % 1500}.down_proj.weight",
            "F8_E4M3",
            (7168, 2048),
            f"model-{i // 600:05}.safetensors",
        )
        for i in range(92_000)
    )
    return Snapshot("org/name", "main", "a" * 40, "https://hub", "hub", {"x": float("inf")}, tensors)


def test_ninety_thousand_tensors_are_small_and_quick() -> None:
    snapshot = _large()
    data = encode(snapshot)
    assert len(data) < 1_500_000
    start = time.process_time()
    found = decode(data)
    assert time.process_time() - start < 1
    assert found == snapshot


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HVS1",
        b"HVS0" + zlib.compress(b"{}"),
        b"HVS1" + zlib.compress(b"{}"),
        b"HVS1" + zlib.compress(b"[]"),
        b"HVS1\xff\xff",
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(StoreError) as caught:
        decode(data)
    assert "--refresh" in (caught.value.hint or "")


@given(st.data())
def test_damaged_bytes_are_refused_or_decoded(data: st.DataObject) -> None:
    whole = encode(Snapshot("o/n", "main", None, None, "local", {}, (TensorInfo("a", "F32", (1,), "f"),)))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(StoreError):
        decode(whole[:cut])
    flipped = bytearray(whole)
    flipped[cut] ^= data.draw(st.integers(1, 255))
    outcome: Any = None
    try:
        outcome = decode(bytes(flipped))
    except StoreError as error:
        outcome = error
    assert outcome is not None
