"""How many parameters a snapshot holds: as stored, and as the model means them.

Stored counts are the elements in the headers. Quantised checkpoints pack
several weights into one element (GPTQ, AWQ: eight 4-bit values in an I32) and
store scales beside them; there the logical count undoes the packing and leaves
the quantisation's own tensors out.

Sources: the tensor names that AutoGPTQ, AutoAWQ, bitsandbytes and the MXFP4
checkpoints write, as found in published headers; for HQQ `core/quantize.py`
(hqq 0.2), for AQLM `inference.py` (aqlm 1.1), for torchao
`prototype/safetensors` (0.13 to 0.18), for compressed-tensors
`compressors/` (0.11), for ModelOpt its NVFP4 export, for BitNet transformers'
`integrations/bitnet.py`. The same rule as the Hub's own parameter count (eight
values per packed I32, two per packed byte, scales left out), except that
biases which AutoGPTQ invents are left out too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from hubvram.report.record import ParameterCounts
from hubvram.snapshot.dtypes import size_in_bytes
from hubvram.snapshot.header import LENGTH_BYTES
from hubvram.snapshot.kinds import quantisation
from hubvram.snapshot.records import Snapshot, TensorInfo

_ORDINARY = (".weight", ".bias")
_BNB_STATE = frozenset({"absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB", "weight_format"})
_PACKED_COMPANIONS = frozenset({"qzeros", "scales", "g_idx"})
_SCALES = frozenset(
    """weight_scale_inv weight_scale weight_scale_2 weight_global_scale weight_zero_point weight_shape weight_g_idx
    input_scale input_zero_point input_global_scale activation_scale output_scale k_scale v_scale q_scale""".split()  # noqa: SIM905 - one name after the other reads better
)
"""Beside a weight that is quantised to FP8, INT8 or FP4 (transformers, compressed-tensors, ModelOpt)."""
_CACHE_SCALES = frozenset({"k_scale", "v_scale", "q_scale", "output_scale"})
"""Of the key-value cache: one number each, beside no weight."""
_HQQ_STATE = frozenset(
    """nbits group_size shape scale zero axis packing unpack_view_dtype view_as_float quant_scale quant_zero
    compute_dtype offload_meta encoded_state_dict stores_quant_config channel_wise optimize round_zero meta""".split()  # noqa: SIM905 - one name after the other reads better
)
_TORCHAO = re.compile(r"(?P<stem>.*?)(?:\._(?P<weight>weight|bias)_|\.(?P<old>weight|bias):)(?P<part>\w+)")
"""``0._weight_qdata``; before torchao 0.15 ``0.weight:qdata``, and ``0.bias:_data`` for what is not quantised."""
_TORCHAO_HALF_BYTES = ("Int4WeightOnlyConfig", "Float8DynamicActivationInt4WeightConfig", "NVFP4")
_WITHOUT_BIAS = frozenset({"llama", "mistral", "mixtral", "gemma", "gemma2", "yi", "deepseek", "qwen"})
"""Model types whose linear layers have no bias unless the config says so (qwen: `no_bias`, see `_is_invented`)."""


@dataclass(slots=True)
class _Tally:
    """What stored and logical count differ by."""

    packed: Counter[str] = field(default_factory=Counter)
    """Logical weights per kind of packing."""
    packed_stored: int = 0
    """Stored elements that hold them."""
    held_in: set[str] = field(default_factory=set)
    """dtypes of those elements."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Stored elements that are no parameters, per reason."""

    def unpack(self, kind: str, tensor: TensorInfo, weights: int) -> None:
        """Count the elements of ``tensor`` as ``weights`` parameters."""
        self.packed[kind] += weights
        self.packed_stored += tensor.numel
        self.held_in.add(tensor.dtype)


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


@dataclass(frozen=True, slots=True)
class _Repo:
    """What the rules look at."""

    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any]
    quantised: Mapping[str, Any]


def _differences(snapshot: Snapshot) -> _Tally:
    """All tensors that are more or less than parameters as they stand."""
    tally = _Tally()
    special = [t for t in snapshot.tensors if not t[0].endswith(_ORDINARY)]
    if not special:
        return tally
    repo = _Repo({t.name: t for t in snapshot.tensors}, snapshot.config, quantisation(snapshot.config))
    for tensor in special:
        stem, _, last = tensor.name.rpartition(".")
        for rule in (_scaled, _gptq, _bitsandbytes, _mxfp4, _hqq, _aqlm, _torchao):
            if rule(repo, tensor, stem, last, tally):
                break
    return tally


def _scaled(repo: _Repo, tensor: TensorInfo, stem: str, last: str, tally: _Tally) -> bool:
    """Scales beside FP8, INT8 and FP4 weights, and what is packed below them."""
    if last == "weight_packed":
        _unpack_compressed(tensor, repo.quantised, tally)
        return True
    weight = repo.tensors.get(f"{stem}.weight")
    beside = weight is not None or f"{stem}.weight_packed" in repo.tensors
    if last not in _SCALES or not (beside or (last in _CACHE_SCALES and tensor.numel == 1)):
        return False
    tally.left_out["scales"] += tensor.numel
    if weight is not None and weight.dtype == "U8":
        # ModelOpt's NVFP4 has two scales and two values to a byte, BitNet four values of 1.58 bits.
        if last == "weight_scale_2":
            tally.unpack("NVFP4", weight, 2 * weight.numel)
        elif last == "weight_scale" and repo.quantised.get("quant_method") == "bitnet":
            tally.unpack("1.58-bit", weight, 4 * weight.numel)
    return True


def _gptq(repo: _Repo, tensor: TensorInfo, stem: str, last: str, tally: _Tally) -> bool:
    """GPTQ and AWQ."""
    if last == "qweight":
        bits = _quant_bits(repo.quantised)
        tally.unpack(f"{bits}-bit", tensor, tensor.numel * _bits_of(tensor) // bits)
        bias = repo.tensors.get(f"{stem}.bias")
        if bias is not None and _is_invented(bias.name, repo.config):
            tally.left_out["zero biases added by the quantiser"] += bias.numel
        return True
    if last not in _PACKED_COMPANIONS or f"{stem}.qweight" not in repo.tensors:
        return False
    tally.left_out["scales and zero points"] += tensor.numel
    return True


def _bitsandbytes(repo: _Repo, tensor: TensorInfo, stem: str, last: str, tally: _Tally) -> bool:
    if last not in _BNB_STATE and ".quant_state." not in tensor.name:
        return False
    tally.left_out["quantisation state"] += tensor.numel
    weight = repo.tensors.get(stem) if last == "absmax" else None
    if weight is not None:
        # Two 4-bit values to a byte; the storage dtype may be wider than U8.
        tally.unpack("4-bit", weight, weight.numel * _bits_of(weight) // 4)
    return True


def _mxfp4(repo: _Repo, tensor: TensorInfo, stem: str, last: str, tally: _Tally) -> bool:
    name = tensor.name
    if name.endswith("_blocks") and tensor.dtype == "U8" and f"{name[:-7]}_scales" in repo.tensors:
        tally.unpack("MXFP4", tensor, 2 * tensor.numel)
        return True
    if not name.endswith("_scales") or f"{name[:-7]}_blocks" not in repo.tensors:
        return False
    tally.left_out["scales"] += tensor.numel
    return True


def _hqq(repo: _Repo, tensor: TensorInfo, stem: str, last: str, tally: _Tally) -> bool:
    if last == "W_q":
        width = _hqq_bits(stem, repo.quantised)
        # Ten 3-bit values to an I32; every other width fills its elements.
        each = 10 if width == 3 else _bits_of(tensor) // width
        tally.unpack(f"{width}-bit", tensor, tensor.numel * each)
        return True
    if last not in _HQQ_STATE or f"{stem}.W_q" not in repo.tensors:
        return False
    tally.left_out["quantisation state"] += tensor.numel
    return True


def _aqlm(repo: _Repo, tensor: TensorInfo, stem: str, last: str, tally: _Tally) -> bool:
    """``codes`` [out / g, in / h, books] of ``codebooks`` [books, 2^bits, g, h]: out x in weights."""
    codes, books = repo.tensors.get(f"{stem}.codes"), repo.tensors.get(f"{stem}.codebooks")
    if codes is None or books is None or len(codes.shape) != 3 or len(books.shape) != 4:
        return False
    if last == "codes":
        tally.unpack("codebook", codes, codes.shape[0] * codes.shape[1] * books.shape[2] * books.shape[3])
        return True
    if last not in ("codebooks", "scales"):
        return False
    tally.left_out["codebooks and scales"] += tensor.numel
    return True


def _torchao(repo: _Repo, tensor: TensorInfo, stem: str, last: str, tally: _Tally) -> bool:
    """``qdata`` of a tensor subclass, whose width follows from the config's type, and what stands beside it."""
    match = _TORCHAO.fullmatch(tensor.name)
    if match is None or repo.quantised.get("quant_method") != "torchao":
        return False
    part = match["part"]
    if part in ("qdata", "int_data", "packed_weight"):
        if tensor.dtype == "I32":
            tally.unpack("4-bit", tensor, 8 * tensor.numel)
        elif tensor.dtype in ("I8", "U8") and _torchao_type(repo.quantised).startswith(_TORCHAO_HALF_BYTES):
            tally.unpack("4-bit", tensor, 2 * tensor.numel)
    elif part != "_data":
        tally.left_out["scales and zero points"] += tensor.numel
    return True


def _unpack_compressed(tensor: TensorInfo, quantised: Mapping[str, Any], tally: _Tally) -> None:
    """``weight_packed``: integers in I32, as many as fit whole; FP4 by two in a byte."""
    if tensor.dtype == "U8":
        tally.unpack("FP4", tensor, 2 * tensor.numel)
        return
    groups = quantised.get("config_groups")
    widths = set()
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        widths.add(weights.get("num_bits") if isinstance(weights, Mapping) else None)
    (width,) = widths if len(widths) == 1 else (4,)
    width = width if type(width) is int and 1 <= width <= 8 else 4
    tally.unpack(f"{width}-bit", tensor, tensor.numel * (_bits_of(tensor) // width))


def _torchao_type(quantised: Mapping[str, Any]) -> str:
    found = quantised.get("quant_type")
    default = found.get("default", found) if isinstance(found, Mapping) else found
    name = default.get("_type") if isinstance(default, Mapping) else default
    return name if isinstance(name, str) else ""


def _hqq_bits(stem: str, quantised: Mapping[str, Any]) -> int:
    """Bits of one layer: by the layer's name in ``quant_config`` where it has one, else for all."""
    config = quantised.get("quant_config")
    config = config if isinstance(config, Mapping) else {}
    own = next((v for k, v in config.items() if isinstance(v, Mapping) and stem.endswith(f".{k}")), None)
    for where in (own, config):
        params = where.get("weight_quant_params") if isinstance(where, Mapping) else None
        bits = params.get("nbits") if isinstance(params, Mapping) else None
        if type(bits) is int and bits in (1, 2, 3, 4, 8):
            return bits
    return 4


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
    method = str(quantisation(config).get("quant_method", ""))
    parts = []
    if tally.packed:
        kinds = " and ".join(sorted(tally.packed))
        held = " and ".join(sorted(tally.held_in))
        meant = f"{kinds}{f', {method}' if method else ''}"
        parts.append(f"{sum(tally.packed.values()):,} weights are packed in {held} ({meant})")
    if tally.left_out:
        reasons = " and ".join(sorted(tally.left_out))
        parts.append(f"{sum(tally.left_out.values()):,} stored elements are {reasons}, not parameters")
    return "; ".join(parts) or None
