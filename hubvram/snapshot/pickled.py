"""What a PyTorch checkpoint holds, read off its pickle's opcodes. Nothing is unpickled.

`torch.save` writes a zip file: `data.pkl` describes the tensors, one record
per storage holds the bytes. Before torch 1.6 it was a row of pickles. Either
way the description is a pickle program; here it runs on a machine that knows
lists, dicts and strings, and for which every callable is a name. The few names
that make tensors are understood, all others give an object that is not looked
into: no code of the file, and none that it names, is ever called.

Source: the opcodes of `pickletools`; `torch/serialization.py` and
`torch/_utils.py` of torch 1.4 to 2.9 for the calls and the persistent ids.
"""

from __future__ import annotations

import io
import lzma
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, BinaryIO

from hubvram.errors import CorruptHeaderError, UnsupportedError
from hubvram.snapshot.dtypes import size_in_bytes
from hubvram.snapshot.header import Header
from hubvram.snapshot.limits import MAX_NAME, MAX_TENSORS
from hubvram.snapshot.records import TensorInfo
from hubvram.snapshot.text import one_line, shown

MAX_PICKLE_BYTES = 32_000_000
"""Some 120 bytes a tensor."""
MAX_OPCODES = 2_500_000
"""Some 35 a tensor; for the sake of time and memory."""
_MAX_INT = 2**63 - 1
_MAX_ARGUMENTS = 64
"""Of a call, and sides of a shape. torch's own calls have up to eight."""
_ZIP_FAULTS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, OverflowError, zlib.error, lzma.LZMAError)
"""What zipfile and its decompressors raise for an archive that is none."""
_MAGIC_OF_OLD_FILES = 0x1950A86A20F9469CFC6C
_HINT = "the file is no PyTorch checkpoint as torch.save writes it: try another revision or file"
_STORAGES: Mapping[str, str] = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "UntypedStorage": "U8",
}
_DTYPES: Mapping[str, str] = {
    "float32": "F32",
    "float": "F32",
    "float16": "F16",
    "half": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
}
_WRAPPED = ("state_dict", "model", "module", "model_state_dict", "net")
"""Keys under which training scripts keep the weights."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A global: a module and a name, never looked up."""

    full: str


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    view: tuple[Any, ...]
    """Storage, offset and strides: the same for tensors that share their bytes."""
    storage: _Storage


@dataclass(slots=True)
class _Thing:
    """Whatever else a call would make; a tensor subclass keeps its parts in ``state``."""

    state: Any = None


@dataclass(slots=True)
class _Machine:
    """The pickle machine, on values that do nothing."""

    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[Any, Any] = field(default_factory=dict)

    def run(self, stream: BinaryIO) -> Any:
        """The value of the next pickle in ``stream``; ValueError where it is none."""
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number > MAX_OPCODES:
                raise ValueError(f"its pickle has more than {MAX_OPCODES:,} opcodes")
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSHES:
                self.stack.append(_PUSHES[name](argument))
            else:
                getattr(self, f"_{name.lower()}")(argument)
        raise ValueError("it has no end")

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _nothing(self, _: Any) -> None:
        """An opcode that leaves no trace."""

    _proto = _frame = _nothing

    def _mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._to_mark()

    def _pop_mark(self, _: Any) -> None:
        self._to_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _put(self, where: Any) -> None:
        self.memo[where] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, where: Any) -> None:
        self.stack.append(self.memo[where])

    _binget = _long_binget = _get

    def _tuple(self, _: Any) -> None:
        items = self._to_mark()
        self.stack.append(tuple(items))

    def _list(self, _: Any) -> None:
        items = self._to_mark()
        self.stack.append(items)

    _frozenset = _list

    def _tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        if isinstance(self.stack[-1], list):
            self.stack[-1].append(item)

    def _appends(self, _: Any) -> None:
        items = self._to_mark()
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    _additems = _appends

    def _dict(self, _: Any) -> None:
        items = self._to_mark()
        self.stack.append(_pairs({}, items))

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _pairs(self.stack[-1], [key, value])

    def _setitems(self, _: Any) -> None:
        items = self._to_mark()
        _pairs(self.stack[-1], items)

    def _global(self, argument: Any) -> None:
        self.stack.append(_Name(str(argument).replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        # Put together of anything else, names would double in length with each opcode.
        if not _is_word(name) or not _is_word(module):
            raise ValueError("it names a global by something else than words")
        self.stack.append(_Name(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_call(function, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._reduce(None)

    def _inst(self, _: Any) -> None:
        self._to_mark()
        self.stack.append(_Thing())

    _obj = _inst

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], _Thing):
            self.stack[-1].state = state

    def _binpersid(self, _: Any) -> None:
        self.stack.append(_storage(self.stack.pop()))

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"it has the opcode {name[1:].upper()}, which no checkpoint has")


def _as_is(argument: Any) -> Any:
    return argument


_VALUES = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES"
    " SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
)
_PUSHES: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_VALUES.split(), _as_is),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_SET": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
}


def _is_word(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_NAME


def _pairs(target: Any, items: list[Any]) -> Any:
    if isinstance(target, dict):
        target.update((k, v) for k, v in zip(items[::2], items[1::2], strict=False) if isinstance(k, (str, int)))
    return target


def _storage(pid: Any) -> Any:
    """``("storage", class, key, device, elements)``, as both formats have it."""
    if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _Name):
        dtype = _STORAGES.get(pid[1].full.rpartition(".")[2])
        if dtype is not None and _is_word(pid[2]) and type(pid[4]) is int and 0 <= pid[4] <= _MAX_INT:
            return _Storage(dtype, pid[2], pid[4])
    return _Thing()


def _call(function: Any, arguments: Any) -> Any:
    """The result of the calls that make dicts, sizes and tensors; anything else stays a thing."""
    name = function.full if isinstance(function, _Name) else ""
    if not isinstance(arguments, tuple) or len(arguments) > _MAX_ARGUMENTS:
        return _Thing()
    if name == "collections.OrderedDict":
        return {}
    if name == "torch.Size" and arguments:
        sides = arguments[0]
        return tuple(sides) if isinstance(sides, (list, tuple)) and len(sides) <= _MAX_ARGUMENTS else _Thing()
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state") and arguments:
        return arguments[0]
    if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
        made = _call(arguments[0], arguments[2])
        return made if isinstance(made, _Tensor) else _Thing(arguments[3])
    if name.startswith("torch._utils._rebuild_tensor") or name == "torch._utils._rebuild_qtensor":
        return _tensor(arguments)
    return _Thing()


def _tensor(arguments: tuple[Any, ...]) -> Any:
    if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
        return _Thing()
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(shape, tuple) or len(shape) > _MAX_ARGUMENTS:
        raise ValueError("a tensor has a shape that is no tuple of sides")
    numel = 1
    for side in shape:
        # Not shown: a few opcodes make a value whose text fills all memory.
        if type(side) is not int or side < 0:
            raise ValueError("a tensor has a side that is no whole number in its shape")
        numel *= side
        if numel > _MAX_INT:
            raise ValueError("a tensor has a shape whose product overflows")
    dtype = storage.dtype
    named = [_DTYPES.get(a.full.removeprefix("torch.")) for a in arguments[4:] if isinstance(a, _Name)]
    if named and named[0]:
        dtype = named[0]
    plain = isinstance(stride, tuple) and len(stride) == len(shape) and all(type(s) is int for s in stride)
    strides = stride if plain else ()
    return _Tensor(dtype, shape, (storage.key, offset if type(offset) is int else 0, strides), storage)


# -- files -----------------------------------------------------------------------


def read_checkpoint(file: BinaryIO, path: str, repo_id: str | None = None) -> Header:
    """The tensors of a checkpoint.

    Args:
        file: seekable; only the zip directory and the pickle are read.
        path: inside the repo, for the tensors and the messages.
        repo_id: for the messages.

    Raises:
        CorruptHeaderError: if it is not what `torch.save` writes.
        UnsupportedError: if it holds more than `MAX_TENSORS` tensors.
    """
    where = f"{repo_id}: {shown(path)}" if repo_id else shown(path)
    try:
        file.seek(0)
        start = file.read(8)
        file.seek(0)
        records: Mapping[str, int] = {}
        if start[:2] == b"PK":
            root, records = _from_zip(file)
        else:
            root = _from_old(file, start)
        held, notes = _state_dict(root)
        if len(held) > MAX_TENSORS:
            raise UnsupportedError(f"{where} holds more than {MAX_TENSORS:,} tensors", repo_id=repo_id)
        return _header(held, notes, records, path)
    # Warning: pickletools warns of escapes in old strings, which `python -W error` raises.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, EOFError, Warning) as error:
        what = one_line(error) if isinstance(error, ValueError) else f"its pickle is broken ({type(error).__name__})"
        raise CorruptHeaderError(f"{where} cannot be read: {what}", hint=_HINT, repo_id=repo_id) from None


def _from_zip(file: BinaryIO) -> tuple[Any, Mapping[str, int]]:
    """The value of ``data.pkl`` and the size of each record."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            pickles = sorted(
                (m for m in members if m.filename.rpartition("/")[2] == "data.pkl"), key=lambda m: len(m.filename)
            )
            if not pickles:
                raise ValueError("it is a zip file without a data.pkl")
            if max(pickles[0].file_size, pickles[0].compress_size) > MAX_PICKLE_BYTES:
                raise ValueError(f"its pickle is larger than {MAX_PICKLE_BYTES:,} bytes")
            with archive.open(pickles[0]) as member:
                content = member.read(MAX_PICKLE_BYTES)
    except _ZIP_FAULTS as error:
        raise ValueError(f"it is a broken zip file ({shown(error)})") from None
    folder = pickles[0].filename.removesuffix("data.pkl") + "data/"
    sizes = {m.filename.removeprefix(folder): m.file_size for m in members if m.filename.startswith(folder)}
    return _Machine().run(io.BytesIO(content)), sizes


def _from_old(file: BinaryIO, start: bytes) -> Any:
    """The fourth pickle of a file from before torch 1.6: magic, protocol, system, then the object."""
    if start[:1] != b"\x80":
        if start.startswith(b"version "):
            raise ValueError("it is the text of a Git LFS pointer, not the file itself")
        raise ValueError("it is neither a zip file nor a pickle")
    if _Machine().run(file) != _MAGIC_OF_OLD_FILES:
        raise ValueError("it is a pickle, but not one that torch.save wrote")
    _Machine().run(file)
    _Machine().run(file)
    return _Machine().run(file)


def _state_dict(root: Any) -> tuple[dict[str, _Tensor], list[str]]:
    """The tensors by name, out of the wrapping that training scripts add."""
    notes = []
    if isinstance(root, dict) and not any(isinstance(v, _Tensor) for v in root.values()):
        inner = {k: v for k, v in root.items() if isinstance(v, dict)}
        counts = {id(v): _count(v) for v in {id(v): v for v in inner.values()}.values()}  # a dict may stand there twice
        inner = {k: v for k, v in inner.items() if counts[id(v)]}
        key = next((k for k in _WRAPPED if k in inner), None) or max(
            inner, key=lambda k: counts[id(inner[k])], default=None
        )
        if key is not None:
            notes.append(f"the weights lie under the key {shown(key)}")
            root = inner[key]
    if not isinstance(root, dict):
        raise ValueError("it holds no dict of tensors")
    held = dict(_walk(root, "", 0, count(1)))
    if not held:
        raise ValueError("it holds no tensors")
    return held, notes


def _count(value: Mapping[Any, Any]) -> int:
    return sum(isinstance(v, (_Tensor, _Thing)) for v in value.values())


def _walk(value: Mapping[Any, Any], prefix: str, depth: int, steps: Iterator[int]) -> Iterator[tuple[str, _Tensor]]:
    for key, item in value.items():
        # One dict may stand in another a thousand times, and that in a third: what is small can take for ever to walk.
        if next(steps) > MAX_OPCODES:
            raise ValueError("its dicts hold one another too often")
        name = f"{prefix}{key}"
        if len(name) > MAX_NAME:
            raise ValueError(f"a tensor has a name of {len(name):,} characters")
        if isinstance(item, _Tensor):
            yield name, item
        elif isinstance(item, dict) and depth < 4:
            yield from _walk(item, f"{name}.", depth + 1, steps)
        elif isinstance(item, _Thing) and isinstance(item.state, dict) and depth < 4:
            yield from _walk(item.state, f"{name}:", depth + 1, steps)


def _header(held: Mapping[str, _Tensor], notes: list[str], records: Mapping[str, int], path: str) -> Header:
    tensors = []
    seen: set[tuple[Any, ...]] = set()
    shared = total = 0
    for name, tensor in held.items():
        storage = tensor.storage
        need = size_in_bytes(storage.dtype, storage.numel)
        if records and storage.key in records and records[storage.key] != need:
            raise ValueError(f"tensor {shown(name)} needs {need:,} bytes, its record has {records[storage.key]:,}")
        same = (tensor.dtype, tensor.shape, tensor.view)
        if same in seen:
            shared += 1
            continue
        seen.add(same)
        info = TensorInfo(name, tensor.dtype, tensor.shape, path)
        tensors.append(info)
        total += size_in_bytes(tensor.dtype, info.numel) or 0
    if shared:
        notes.append(f"{shared} tensors share the bytes of others and are counted once")
    return Header(tuple(tensors), {}, None, total, tuple(f"{shown(path)}: {n}" for n in notes))
