"""Bases that are stored quantised, or asked for as such: how big they are, how they run, what can be trained on them.

A format is a record in `FORMATS`; `stored` reads a repository's ``quantization_config``. To add one: a record with
the bytes of its tensors for a linear layer and the `Kernel` its product runs, and a branch in `stored` if its
keys have names of their own.

Sources: transformers 5.23 ``quantizers/`` (``is_trainable``, ``integrations/``), autoawq 0.2.9, hqq 0.2.8,
aqlm 1.1.7, and the packages' tensor layouts as stored on the Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hubvram.architecture.modules import Linear, Module, Weight
from hubvram.errors import SettingError, UnsupportedError
from hubvram.snapshot.records import TensorInfo
from hubvram.snapshot.text import shown
from hubvram.timeline.dtypes import DType
from hubvram.timeline.ops.packed import Kernel
from hubvram.timeline.ops.quantized import gptq_bytes

Sizes = Callable[[int, int, Mapping[str, Any], DType], Sequence[int]]
"""(out_features, in_features, settings, compute dtype) -> bytes of each tensor of one weight."""

GPTQ_GROUP = 128
"""Weights per scale where nothing says otherwise (GPTQ's and AWQ's usual group size)."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way of holding a frozen weight."""

    title: str
    sizes: Sizes
    kernel: Kernel
    source: str
    linear: bool = True
    """Whether linear layers are packed."""
    experts: bool = False
    """Whether stacked experts are."""
    dequantised: str | None = None
    """Why training starts from dequantised weights instead, or None."""
    untrainable: str | None = None
    """Why nothing can be trained on it, or None."""
    trained: bool = False
    """The packed weight itself is trained (a method's own format)."""


def _gptq(out: int, n_in: int, quant: Mapping[str, Any], dt: DType) -> Sequence[int]:
    return gptq_bytes(out, n_in, int(quant.get("bits", 4)), int(quant.get("group_size", GPTQ_GROUP)))


def _awq(out: int, n_in: int, quant: Mapping[str, Any], dt: DType) -> Sequence[int]:
    bits, group = int(quant.get("bits", 4)), int(quant.get("group_size", GPTQ_GROUP))
    groups = -(-n_in // group) if group > 0 else 1
    return n_in * out * bits // 8, groups * out * bits // 8, groups * out * 2


def _hqq(out: int, n_in: int, quant: Mapping[str, Any], dt: DType) -> Sequence[int]:
    bits, group = int(quant.get("bits", 4)), int(quant.get("group_size", 64))
    n = n_in * out
    groups = -(-n // group)
    data = -(-n // 10) * 4 if bits == 3 else n * bits // 8  # 3 bits: ten to an int32
    return data, groups * dt.size, groups * dt.size


def _aqlm(out: int, n_in: int, quant: Mapping[str, Any], dt: DType) -> Sequence[int]:
    books, bits = int(quant.get("num_codebooks", 1)), int(quant.get("nbits_per_codebook", 16))
    group, out_group = int(quant.get("in_group_size", 8)), int(quant.get("out_group_size", 1))
    code = 1 if bits <= 8 else 2
    rows = out // out_group
    return (rows * (n_in // group) * books * code, books * 2**bits * out_group * group * dt.size, rows * dt.size)


def _eetq(out: int, n_in: int, quant: Mapping[str, Any], dt: DType) -> Sequence[int]:
    return n_in * out, out * 2


def _fp8(out: int, n_in: int, quant: Mapping[str, Any], dt: DType) -> Sequence[int]:
    block = quant.get("weight_block_size", (128, 128))
    if not block:
        return n_in * out, 4
    return n_in * out, -(-out // int(block[0])) * -(-n_in // int(block[1])) * 4


def _fp8_rows(out: int, n_in: int, quant: Mapping[str, Any], dt: DType) -> Sequence[int]:
    return n_in * out, out * 4


def _mxfp4(out: int, n_in: int, quant: Mapping[str, Any], dt: DType) -> Sequence[int]:
    return n_in * out // 2, n_in * out // 32


def _q_galore(out: int, n_in: int, quant: Mapping[str, Any], dt: DType) -> Sequence[int]:
    groups = -(-n_in * out // 256)
    return n_in * out, groups * dt.size, groups * dt.size


FORMATS: Mapping[str, Format] = {
    "gptq": Format("GPTQ", _gptq, Kernel(), "gptqmodel 7.7: qweight, scales, qzeros, g_idx"),
    "awq": Format("AWQ", _awq, Kernel(), "autoawq 0.2.9 / gptqmodel 7.7, gemm layout: qweight, qzeros, scales"),
    "hqq": Format(
        "HQQ",
        _hqq,
        Kernel(forward=3, backward=3, keeps_input=True),
        "hqq 0.2.8 core/quantize.py: W_q, scale, zero in the compute dtype",
    ),
    "aqlm": Format(
        "AQLM", _aqlm, Kernel(keeps_input=True), "aqlm 1.1.7 inference.py QuantizedLinear: codes, codebooks, scales"
    ),
    "eetq": Format(
        "EETQ",
        _eetq,
        Kernel(forward=0, keeps_input=True, identity=True),
        "transformers 5.23 integrations/eetq.py: int8 weight, fp16 scale a row",
    ),
    "fp8": Format(
        "FP8",
        _fp8,
        Kernel(forward=0, quantised_input=True),
        "transformers 5.23 integrations/finegrained_fp8.py: weight, weight_scale_inv (one fp32 for 128 x 128)",
        experts=True,
    ),
    "fbgemm_fp8": Format(
        "FBGEMM FP8",
        _fp8_rows,
        Kernel(forward=0, quantised_input=True),
        "transformers 5.23 integrations/fbgemm_fp8.py: weight, one scale a row",
        untrainable="transformers trains nothing on FBGEMM FP8 weights (FbgemmFp8HfQuantizer.is_trainable)",
    ),
    "mxfp4": Format(
        "MXFP4",
        _mxfp4,
        Kernel(forward=0),
        "transformers 5.23 integrations/mxfp4.py: blocks of 32 with a one-byte scale, experts only",
        linear=False,
        experts=True,
        dequantised="transformers trains nothing on MXFP4 weights: Mxfp4Config(dequantize=True)",
    ),
    "compressed-tensors": Format(
        "compressed-tensors",
        _fp8_rows,
        Kernel(),
        "transformers 5.23 quantizers/quantizer_compressed_tensors.py",
        linear=False,
        dequantised="compressed-tensors decompresses every weight at the first forward pass",
    ),
    "q_galore": Format(
        "8-bit integers",
        _q_galore,
        Kernel(),
        "q-galore-torch 1.0: weight, scale and zero point for 256",
        trained=True,
    ),
}
"""By transformers' ``quant_method``; bitsandbytes has its own ops (``timeline/ops/quantized.py``)."""

BITSANDBYTES_TITLES = {"4bit": "4-bit (bitsandbytes)", "8bit": "LLM.int8"}


def title(packed: str) -> str:
    """A name for people."""
    return BITSANDBYTES_TITLES.get(packed) or FORMATS[packed].title


def packs(packed: str, module: Module) -> bool:
    """Whether a format packs this module's weight."""
    form = FORMATS.get(packed)
    if isinstance(module, Linear):
        plain = module.kind in ("Linear", "Conv1D") and module.role not in ("head", "router")
        return plain and (form is None or form.linear)
    if isinstance(module, Weight) and form is not None and form.experts:
        return len(module.shape) == 3 and not module.buffer and module.dtype is None
    return False


def sizes(packed: str, module: Linear | Weight, quant: Mapping[str, Any], dt: DType) -> list[int]:
    """Bytes of each tensor that holds one packed weight (stacked experts together)."""
    form = FORMATS[packed]
    if isinstance(module, Linear):
        return list(form.sizes(module.out_features, module.in_features, quant, dt))
    experts, rows, columns = module.shape
    return [experts * size for size in form.sizes(rows, columns, quant, dt)]


@dataclass(frozen=True, slots=True)
class Stored:
    """What a repository says of its weights' format."""

    settings: Mapping[str, Any]
    """Keys of ``Settings.quantization``."""
    unknown: str | None = None
    """A ``quant_method`` that is not modelled."""
    floating: frozenset[str] = field(default_factory=frozenset)
    """Paths of modules whose weights are stored unpacked although the format packs others."""

    def keeps(self, path: str) -> bool:
        """Whether the module at ``path`` is stored unpacked."""
        return bool(self.floating) and (path in self.floating or path.split(".", 1)[-1] in self.floating)


PACKED_DTYPES = frozenset({"U8", "I8", "I32", "F8_E4M3", "F8_E5M2"})


LIMITS: Mapping[str, tuple[int, int]] = {
    "bits": (1, 16),
    "group_size": (-1, 2**20),
    "num_codebooks": (1, 64),
    "nbits_per_codebook": (1, 16),
    "in_group_size": (1, 2**20),
    "out_group_size": (1, 2**20),
}
"""Least and most of the keys that decide sizes: wider than any kernel takes, narrow enough to compute with."""


def check(quant: Mapping[str, Any]) -> None:
    """Sizes that can be.

    Raises:
        SettingError: a value outside `LIMITS`.
    """
    for key, (least, most) in LIMITS.items():
        value = quant.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise SettingError(
                f"quantization {key} is {shown(value)}: it must be a whole number from {least} to {most}."
            )


def stored(config: Mapping[str, Any], tensors: Iterable[TensorInfo] = ()) -> Stored | None:
    """The format of a repository's weights; None where they are plain.

    Args:
        config: config.json.
        tensors: the header's, to see which modules are stored unpacked.

    Raises:
        UnsupportedError: sizes that describe no format.
    """
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping):
            quant = part.get("quantization_config") or part.get("compression_config")
            if isinstance(quant, Mapping):
                return _read(quant, tensors)
    return None


def merged(own: Stored, given: Mapping[str, Any]) -> dict[str, Any]:
    """A repository's format under what was asked for.

    Raises:
        SettingError: another format was asked for.
    """
    theirs = own.settings.get("quant_method") or ("bitsandbytes" if own.settings else None)
    asked = given.get("quant_method")
    if asked is None and (given.get("load_in_4bit") or given.get("load_in_8bit")):
        asked = "bitsandbytes"
    if theirs and asked and asked != theirs:
        raise SettingError(
            f"quantization asks for {asked}, but the repository's weights are stored as {theirs}.",
            hint="Take the unquantised repository.",
        )
    return {**own.settings, **given}


def _read(quant: Mapping[str, Any], tensors: Iterable[TensorInfo]) -> Stored:
    method = str(quant.get("quant_method") or _guess(quant)).lower().replace("_", "-")
    floating = frozenset(
        t.name.removesuffix(".weight")
        for t in tensors
        if t.dtype not in PACKED_DTYPES and t.name.endswith(".weight") and len(t.shape) == 2
    )
    if method == "bitsandbytes":
        return Stored(_bitsandbytes(quant), floating=floating)
    if method in ("auto-round", "autoround", "intel/auto-round"):
        method = "awq" if "awq" in str(quant.get("packing_format", "")) else "gptq"
    names = {"fbgemm-fp8": "fbgemm_fp8", "finegrained-fp8": "fp8"}
    method = names.get(method, method)
    if method not in FORMATS or FORMATS[method].trained:
        return Stored({}, unknown=method)
    keys = _keys(method, quant)
    try:
        check(keys)
    except SettingError as error:
        raise UnsupportedError(f"quantization_config cannot be read: {error.message}") from error
    return Stored({"quant_method": method, **keys}, floating=floating)


def _guess(quant: Mapping[str, Any]) -> str:
    if quant.get("load_in_4bit") or quant.get("load_in_8bit"):
        return "bitsandbytes"
    return "gptq" if "bits" in quant else "unknown"


def _bitsandbytes(quant: Mapping[str, Any]) -> dict[str, Any]:
    if quant.get("load_in_8bit"):
        return {"load_in_8bit": True}
    given = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quant.get("bnb_4bit_quant_type", "fp4"),
        "bnb_4bit_use_double_quant": bool(quant.get("bnb_4bit_use_double_quant", False)),
    }
    compute = str(quant.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
    return {**given, "bnb_4bit_compute_dtype": compute}


def _keys(method: str, quant: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that decide sizes, under the names that ``Settings.quantization`` has."""
    if method in ("gptq", "awq"):
        bits = quant.get("bits", quant.get("w_bit", 4))
        group = quant.get("group_size", quant.get("q_group_size", GPTQ_GROUP))
        return {"bits": int(bits), "group_size": int(group) if group is not None else -1}
    if method == "hqq":
        weights = quant.get("quant_config", quant)
        weights = weights.get("weight_quant_params", weights) if isinstance(weights, Mapping) else {}
        group = weights.get("group_size", 64)
        return {"bits": int(weights.get("nbits", 4)), "group_size": int(group) if group else 64}
    if method == "aqlm":
        names = ("num_codebooks", "nbits_per_codebook", "in_group_size", "out_group_size")
        return {name: int(quant[name]) for name in names if name in quant}
    if method == "fp8":
        block = quant.get("weight_block_size")
        return {"weight_block_size": [int(side) for side in block] if block else None}
    return {}
