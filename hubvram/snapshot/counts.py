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
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from hubvram.report.record import ParameterCounts
from hubvram.snapshot.dtypes import size_in_bytes
from hubvram.snapshot.header import LENGTH_BYTES
from hubvram.snapshot.records import Snapshot, TensorInfo

_ORDINARY = (".weight", ".bias")
_BNB_STATE = frozenset({"absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB", "weight_format"})
_PACKED_COMPANIONS = frozenset({"qzeros", "scales", "g_idx"})
_FP8_SCALES = frozenset({"weight_scale_inv", "weight_scale", "input_scale", "activation_scale", "output_scale"})
_WITHOUT_BIAS = frozenset({"llama", "mistral", "mixtral", "gemma", "gemma2", "yi", "deepseek", "qwen"})
"""Model types whose linear layers have no bias unless the config says so (qwen: `no_bias`, see `_is_invented`)."""


@dataclass(slots=True)
class _Tally:
    """What stored and logical count differ by."""

    packed: Counter[str] = field(default_factory=Counter)
    """Logical weights per kind of packing."""
    packed_stored: int = 0
    """Stored elements that hold them."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Stored elements that are no parameters, per reason."""

    def unpack(self, kind: str, stored: int, weights: int) -> None:
        """Count ``stored`` elements as ``weights`` parameters."""
        self.packed[kind] += weights
        self.packed_stored += stored


def count_parameters(snapshot: Snapshot) -> ParameterCounts:
    """Exact counts per dtype, stored bytes, and the logical total.

    ``stored_bytes`` is the length of the data sections: from the files where
    they are known, else from dtype and shape.
    """
    kinds = Counter((t[1], t[2]) for t in snapshot.tensors)
    by_dtype: Counter[str] = Counter()
    for (dtype, shape), count in kinds.items():
        by_dtype[dtype] += count * prod(shape)
    total = sum(by_dtype.values())
    tally = _differences(snapshot)
    logical = total - sum(tally.left_out.values()) - tally.packed_stored + sum(tally.packed.values())
    ordered = dict(sorted(by_dtype.items(), key=lambda item: (-item[1], item[0])))
    return ParameterCounts(total, ordered, stored_bytes(snapshot), logical, _note(snapshot.config, tally))


def stored_bytes(snapshot: Snapshot) -> int:
    """Bytes of all tensors on disk, the headers left out."""
    known = {
        f.path: f.size - LENGTH_BYTES - f.header_bytes
        for f in snapshot.files
        if f.role == "weights" and f.size is not None and f.header_bytes is not None
    }
    rest = (t for t in snapshot.tensors if t.file not in known)
    return sum(known.values()) + sum(size_in_bytes(t.dtype, t.numel) or 0 for t in rest)


def _differences(snapshot: Snapshot) -> _Tally:
    """All tensors that are more or less than parameters as they stand."""
    tally = _Tally()
    special = [t for t in snapshot.tensors if not t[0].endswith(_ORDINARY)]
    if not special:
        return tally
    tensors = {t.name: t for t in snapshot.tensors}
    bits = _quant_bits(_quantisation(snapshot.config))
    for tensor in special:
        name = tensor.name
        stem, _, last = name.rpartition(".")
        if last in _FP8_SCALES and f"{stem}.weight" in tensors:
            tally.left_out["scales"] += tensor.numel
        elif last == "qweight":
            tally.unpack(f"{bits}-bit", tensor.numel, tensor.numel * _bits_of(tensor) // bits)
            bias = tensors.get(f"{stem}.bias")
            if bias is not None and _is_invented(bias.name, snapshot.config):
                tally.left_out["zero biases added by the quantiser"] += bias.numel
        elif last in _PACKED_COMPANIONS and f"{stem}.qweight" in tensors:
            tally.left_out["scales and zero points"] += tensor.numel
        elif last in _BNB_STATE or ".quant_state." in name:
            tally.left_out["quantisation state"] += tensor.numel
            weight = tensors.get(stem) if last == "absmax" else None
            if weight is not None:
                # Two 4-bit values to a byte; the storage dtype may be wider than U8.
                tally.unpack("4-bit", weight.numel, weight.numel * _bits_of(weight) // 4)
        elif name.endswith("_blocks") and tensor.dtype == "U8" and f"{name[:-7]}_scales" in tensors:
            tally.unpack("MXFP4", tensor.numel, 2 * tensor.numel)
        elif name.endswith("_scales") and f"{name[:-7]}_blocks" in tensors:
            tally.left_out["scales"] += tensor.numel
    return tally


def _quantisation(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("quantization_config") or config.get("compression_config")
    return found if isinstance(found, Mapping) else {}


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


def _note(config: Mapping[str, Any], tally: _Tally) -> str | None:
    """The sentence for a logical total that differs; None where nothing is packed."""
    method = str(_quantisation(config).get("quant_method", ""))
    parts = []
    if tally.packed:
        kinds = " and ".join(sorted(tally.packed))
        parts.append(f"{sum(tally.packed.values()):,} weights are packed ({kinds}{f', {method}' if method else ''})")
    if tally.left_out:
        reasons = " and ".join(sorted(tally.left_out))
        parts.append(f"{sum(tally.left_out.values()):,} stored elements are {reasons}, not parameters")
    return "; ".join(parts) or None
