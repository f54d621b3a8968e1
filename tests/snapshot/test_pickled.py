"""PyTorch checkpoints without PyTorch. The files in `pickles/` were written by torch.save of torch 2.14 (a few kB
each): a state dict with every kind of tensor, in both formats, wrapped as training scripts do, and hostile ones."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubvram.errors import CorruptHeaderError, HubvramError
from hubvram.snapshot.pickled import read_checkpoint
from hubvram.sources.binary import pickle_header

FOLDER = Path(__file__).with_name("pickles")
EXPECTED = [
    ("embed.weight", "F32", (3, 4)),
    ("norm.weight", "BF16", (4,)),
    ("ids", "I64", (5,)),
    ("mask", "BOOL", (1, 1, 2, 2)),
    ("half", "F16", (2, 3)),
    ("scalar", "F32", ()),
    ("empty", "F32", (0, 7)),
    ("f8", "F8_E4M3", (2, 4)),
    ("u16", "U16", (3,)),
    ("rows", "F32", (2, 4)),
]
BYTES = 48 + 8 + 40 + 4 + 12 + 4 + 0 + 8 + 6 + 32


def read(name: str):
    with (FOLDER / name).open("rb") as file:
        return read_checkpoint(file, "pytorch_model.bin", "org/name")


def listed(header) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(t.name, t.dtype, t.shape) for t in header.tensors]


def test_a_zip_checkpoint() -> None:
    header = read("zip.bin")
    assert listed(header) == EXPECTED
    assert header.data_bytes == BYTES
    assert header.warnings == ("'pytorch_model.bin': 1 tensors share the bytes of others and are counted once",)
    assert {t.file for t in header.tensors} == {"pytorch_model.bin"}


def test_a_checkpoint_from_before_torch_1_6() -> None:
    header = read("old.bin")
    assert listed(header) == [e for e in EXPECTED if e[0] not in ("f8", "u16")]


def test_weights_below_a_key() -> None:
    header = read("wrapped.bin")
    assert listed(header) == EXPECTED
    assert "'pytorch_model.bin': the weights lie under the key 'state_dict'" in header.warnings
    assert listed(read("training.bin")) == [("w", "F32", (2, 2))], "not the optimizer's"


def test_nothing_is_called(tmp_path: Path) -> None:
    pwned = Path("/tmp/pwned_by_hubvram")  # where the file's code would write
    assert not pwned.exists()
    assert listed(read("evil.bin")) == [("w", "F32", (2, 3))]
    assert not pwned.exists()


def test_a_whole_module_is_no_state_dict() -> None:
    with pytest.raises(CorruptHeaderError, match="no dict of tensors") as caught:
        read("module.bin")
    assert "org/name" in caught.value.message


def in_zip(content: bytes, name: str = "archive/data.pkl", **records: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
        for record, body in records.items():
            archive.writestr(f"archive/data/{record}", body)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is neither a zip"),
        (b"hello", "is neither a zip"),
        (b"version https://git-lfs", "Git LFS"),
        (b"PK\x03\x04 broken", "broken zip"),
        (pickle.dumps({"a": 1}), "not one that torch.save wrote"),
        (in_zip(pickle.dumps({"a": 1})).read(), "no dict of tensors|no tensors"),
        (in_zip(pickle.dumps([1])).read(), "no dict of tensors"),
        (in_zip(b"").read(), "cannot be read"),
        (in_zip(b"\x80\x02}").read(), "cannot be read"),
        (in_zip(b"\x80\x02R.").read(), "pickle is broken"),
        (in_zip(b"x", name="other").read(), "without a data.pkl"),
        (in_zip(b"\x80\x04\x82\x01.").read(), "EXT1"),
    ],
)
def test_what_is_no_checkpoint(content: bytes, words: str) -> None:
    with pytest.raises(CorruptHeaderError, match=words):
        read_checkpoint(io.BytesIO(content), "x.bin", "org/name")


def test_a_record_of_another_size_than_its_tensor() -> None:
    content = (FOLDER / "zip.bin").read_bytes()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            body = old.read(member)
            new.writestr(member.filename, body[:-4] if member.filename.endswith("/data/0") else body)
    with pytest.raises(CorruptHeaderError, match="needs 48 bytes, its record has 44"):
        read_checkpoint(out, "x.bin")


def test_a_zip_bomb() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(70_000_000))
    assert len(file.getvalue()) < 100_000
    with pytest.raises(CorruptHeaderError, match="larger than"):
        read_checkpoint(file, "x.bin")


@pytest.mark.parametrize("name", ["zip.bin", "old.bin", "wrapped.bin"])
def test_by_ranges_only_what_is_needed_is_fetched(name: str) -> None:
    content = (FOLDER / name).read_bytes()
    asked: list[tuple[int, int]] = []

    def fetch(start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(content)
        asked.append((start, stop))
        return content[start:stop]

    assert listed(pickle_header(fetch, len(content), "x.bin", "o/n")) == listed(read(name))
    assert len(asked) == 1, "a small file comes whole"


CORPUS = [p.read_bytes() for p in sorted(FOLDER.glob("*.bin"))]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CORPUS), st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=5))
def test_damaged_files_are_errors_or_tensors(content: bytes, edits: list[tuple[int, bytes]]) -> None:
    damaged = bytearray(content)
    for place, patch in edits:
        damaged[place % len(damaged) : place % len(damaged) + len(patch)] = patch
    try:
        header = read_checkpoint(io.BytesIO(bytes(damaged)), "x.bin", "o/n")
    except HubvramError as error:
        assert error.message.isprintable()  # noqa: PT017 - either outcome is right, this must hold of the one
    else:
        assert header.tensors


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_opcodes(program: bytes) -> None:
    for prefix in (b"\x80\x02", b"\x80\x04}(", b"\x80\x02ccollections\nOrderedDict\n)R("):
        with pytest.raises(HubvramError):
            read_checkpoint(in_zip(prefix + program), "x.bin", "o/n")


def test_endless_programs_end_soon() -> None:
    """A pickle of millions of opcodes, and a directory of a hundred thousand entries: refused or read in seconds."""
    started = time.monotonic()
    for program in (b"}\x94" * 1_300_000, b"(" * 2_600_000, b"N" * 2_600_000):
        content = in_zip(b"\x80\x04" + program).getvalue()
        with pytest.raises(CorruptHeaderError, match="more than 2,500,000 opcodes"):
            read_checkpoint(io.BytesIO(content), "x.bin", "o/n")
    assert time.monotonic() - started < 30
    directory = in_zip(b"N.", **{f"{i:0200}": b"" for i in range(50_000)}).getvalue()
    with pytest.raises(CorruptHeaderError, match="would have to be read"):
        pickle_header(lambda a, b: directory[a:b], len(directory), "x.bin", "o/n")


def _program(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


_TWICE = b"2\x86"  # DUP TUPLE2: a value whose text doubles with every two bytes
_STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
_REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "program",
    [
        # the name of a global out of names of globals
        _program(b"X\x01\x00\x00\x00a" * 80, b"\x93" * 79),
        _program(b"\x8f" * 60, b"\x93" * 59),
        # a storage's key, a side, a dict's key: texts of 2^60 characters
        _program(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nK\x01", _TWICE * 60, b"X\x03\x00\x00\x00cpuK\x01tQ"),
        _program(_REBUILD, b"(", _STORAGE, b"K\x00K\x01", _TWICE * 60, b"\x85))tR"),
        _program(b"}K\x01", _TWICE * 60, b"K\x01s"),
        # a size of many sides, copied again and again
        _program(b"](" + b"K\x01" * 50_000 + b"eq\x000", b"ctorch\nSize\nh\x00\x85R" * 20_000),
    ],
    ids=["names", "sets", "key", "side", "dict", "size"],
)  # fmt: skip
def test_small_programs_that_make_large_values(program: bytes) -> None:
    old = b"".join(pickle.dumps(v, protocol=2) for v in (0x1950A86A20F9469CFC6C, 1001, {})) + program
    start = time.process_time()
    with pytest.raises(CorruptHeaderError):
        read_checkpoint(io.BytesIO(old), "x.bin", "o/n")
    assert time.process_time() - start < 3


def test_dicts_that_hold_one_another_too_often() -> None:
    value: dict[str, object] = {}
    for _ in range(4):
        value = {str(i): value for i in range(100)}
    old = b"".join(pickle.dumps(v, protocol=2) for v in (0x1950A86A20F9469CFC6C, 1001, {}, {"a": value}))
    start = time.process_time()
    with pytest.raises(CorruptHeaderError, match="too often"):
        read_checkpoint(io.BytesIO(old), "x.bin", "o/n")
    assert time.process_time() - start < 10
