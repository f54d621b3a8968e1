"""How many parameters a snapshot holds: as stored, and as the model means them.

Stored counts are the elements in the headers. Quantised checkpoints pack
several weights into one element (GPTQ, AWQ: eight 4-bit values in an I32) and
store scales beside them; there the logical count undoes the packing and leaves
the quantisation's own tensors out.

Sources: the tensor names that AutoGPTQ, AutoAWQ, bitsandbytes and the MXFP4
checkpoints write, as found in published headers; the same rule as the Hub's
own parameter count (eight values per packed I32, two per packed byte, scales
left out), except that biases which AutoGPTQ invents are left out too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hubvram.report.record import ParameterCounts
from hubvram.snapshot.dtypes import size_in_bytes
from hubvram.snapshot.header import LENGTH_BYTES
from hubvram.snapshot.records import Snapshot, TensorInfo

_BNB_STATE = (
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".SCB",
    ".weight_format",
)
_PACKED_COMPANIONS = (".qzeros", ".scales", ".g_idx", ".qweight_type")
_FP8_SCALES = (".weight_scale_inv", ".weight_scale", ".input_scale", ".activation_scale", ".k_scale", ".v_scale")
_WITHOUT_BIAS = frozenset({"llama", "mistral", "mixtral", "gemma", "gemma2", "yi", "deepseek", "qwen"})
"""Model types whose linear layers have no bias unless the config says so (qwen: `no_bias`, see `_is_invented`)."""


@dataclass(slots=True)
class _Tally:
    """Running logical count."""

    logical: int = 0
    packed: Counter[str] = field(default_factory=Counter)
    """Logical weights per kind of packing."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Stored elements not counted, per reason."""


def count_parameters(snapshot: Snapshot) -> ParameterCounts:
    """Exact counts per dtype, stored bytes, and the logical total.

    ``stored_bytes`` is the length of the data sections: from offsets where the
    files are known, else from dtype and shape.
    """
    by_dtype: Counter[str] = Counter()
    for tensor in snapshot.tensors:
        by_dtype[tensor.dtype] += tensor.numel
    total = sum(by_dtype.values())
    logical, note = _logical(snapshot)
    ordered = dict(sorted(by_dtype.items(), key=lambda item: (-item[1], item[0])))
    return ParameterCounts(total, ordered, stored_bytes(snapshot), logical, note)


def stored_bytes(snapshot: Snapshot) -> int:
    """Bytes of all tensors on disk, the headers left out."""
    known = {
        f.path: f.size - LENGTH_BYTES - f.header_bytes
        for f in snapshot.files
        if f.role == "weights" and f.size is not None and f.header_bytes is not None
    }
    rest = (t for t in snapshot.tensors if t.file not in known)
    return sum(known.values()) + sum(size_in_bytes(t.dtype, t.numel) or 0 for t in rest)


def _logical(snapshot: Snapshot) -> tuple[int, str | None]:
    """Logical total and the sentence that explains it (None where nothing is packed)."""
    config = snapshot.config
    quantised = config.get("quantization_config") or config.get("compression_config")
    quantised = quantised if isinstance(quantised, Mapping) else {}
    method = str(quantised.get("quant_method", ""))
    names = {t.name for t in snapshot.tensors}
    packed = {n.removesuffix(".qweight") for n in names if n.endswith(".qweight")}
    tally = _Tally()
    for tensor in snapshot.tensors:
        _add(tensor, tally, names, packed, quantised, config)
    if not tally.packed and not tally.left_out:
        return tally.logical, None
    return tally.logical, _note(method, tally)


def _add(
    tensor: TensorInfo,
    tally: _Tally,
    names: set[str],
    packed: set[str],
    quantised: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    name, numel = tensor.name, tensor.numel
    stem, _, last = name.rpartition(".")
    if last == "qweight":
        values = numel * _bits_of(tensor) // _quant_bits(quantised)
        tally.logical += values
        tally.packed[f"{_quant_bits(quantised)}-bit"] += values
    elif stem in packed and name.endswith(_PACKED_COMPANIONS):
        tally.left_out["scales and zero points"] += numel
    elif stem in packed and last == "bias" and _is_invented(name, config):
        tally.left_out["zero biases added by the quantiser"] += numel
    elif name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in names and tensor.dtype == "U8":
        tally.logical += 2 * numel
        tally.packed["MXFP4"] += 2 * numel
    elif name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in names:
        tally.left_out["scales"] += numel
    elif name.endswith(_BNB_STATE) or ".quant_state." in name:
        tally.left_out["quantisation state"] += numel
    elif f"{name}.absmax" in names:
        # Two 4-bit values to a byte; the storage dtype may be wider than U8.
        values = numel * _bits_of(tensor) // 4
        tally.logical += values
        tally.packed["4-bit"] += values
    elif name.endswith(_FP8_SCALES) and _scaled(name) in names:
        tally.left_out["scales"] += numel
    else:
        tally.logical += numel


def _scaled(name: str) -> str:
    """The weight that an FP8 scale belongs to."""
    return f"{name.rpartition('.')[0]}.weight"


def _bits_of(tensor: TensorInfo) -> int:
    return (size_in_bytes(tensor.dtype, 1) or 1) * 8


def _quant_bits(quantised: Mapping[str, Any]) -> int:
    """Bits per packed weight, as GPTQ (``bits``) and AWQ (``w_bit``) call it; 4 where not said."""
    for key in ("bits", "w_bit"):
        bits = quantised.get(key)
        if type(bits) is int and bits in (2, 3, 4, 8):
            return bits
    return 4


def _is_invented(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a bias beside packed weights exists only because AutoGPTQ gives every layer one."""
    model_type = config.get("model_type")
    if model_type not in _WITHOUT_BIAS:
        return False
    if model_type == "qwen":
        return config.get("no_bias") is True and not name.endswith(".c_attn.bias")
    key = "attention_bias" if ("attn" in name or "attention" in name) else "mlp_bias"
    return config.get(key) is not True


def _note(method: str, tally: _Tally) -> str:
    parts = []
    if tally.packed:
        kinds = " and ".join(_unique(tally.packed))
        parts.append(f"{sum(tally.packed.values()):,} weights are packed ({kinds}{f', {method}' if method else ''})")
    if tally.left_out:
        reasons = " and ".join(_unique(tally.left_out))
        parts.append(f"{sum(tally.left_out.values()):,} stored elements are {reasons}, not parameters")
    return "; ".join(parts)


def _unique(names: Iterable[str]) -> list[str]:
    return sorted(set(names))
