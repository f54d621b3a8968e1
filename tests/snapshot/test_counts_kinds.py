"""Logical counts of the less common packings, worked out from the shapes of the layers they stand for."""

from __future__ import annotations

from typing import Any

import pytest

from hubvram.snapshot.counts import count_parameters
from hubvram.snapshot.records import Snapshot, TensorInfo

OUT, IN = 1024, 4096


def counts(tensors: dict[str, tuple[str, tuple[int, ...]]], quantised: dict[str, Any], **config: Any):
    rows = tuple(TensorInfo(n, d, s, "model.safetensors") for n, (d, s) in tensors.items())
    return count_parameters(
        Snapshot("org/name", "main", None, None, "local", {**config, "quantization_config": quantised}, rows)
    )


HQQ_META = dict.fromkeys(
    ["nbits", "group_size", "axis", "packing", "channel_wise", "compute_dtype", "view_as_float"], ("I32", ())
)


@pytest.mark.parametrize(
    ("bits", "dtype", "stored"),
    [
        (8, "U8", OUT * IN),
        (4, "U8", OUT * IN // 2),
        (2, "U8", OUT * IN // 4),
        (1, "U8", OUT * IN // 8),
        (3, "I32", 64 * 6554),
    ],
)
def test_hqq(bits: int, dtype: str, stored: int) -> None:
    name = "model.layers.0.self_attn.k_proj"
    tensors = {
        f"{name}.W_q": (dtype, (64, stored // 64)),
        f"{name}.scale": ("BF16", (1, OUT * IN // 64)),
        f"{name}.zero": ("BF16", (1, OUT * IN // 64)),
        f"{name}.shape": ("I64", (2,)),
        **{f"{name}.{k}": v for k, v in HQQ_META.items()},
        f"{name}.bias": ("BF16", (OUT,)),
    }
    quantised = {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": bits, "group_size": 64}}}
    found = counts(tensors, quantised)
    # 3 bits: ten to an I32, the last ones empty.
    assert found.logical_total == (64 * 6554 * 10 if bits == 3 else OUT * IN) + OUT
    assert f"packed in {dtype} ({bits}-bit, hqq)" in (found.logical_note or "")


def test_hqq_with_another_width_for_a_layer() -> None:
    tensors = {f"m.layers.0.{n}.W_q": ("U8", (64, 64)) for n in ("self_attn.q_proj", "mlp.up_proj")}
    quantised = {
        "quant_method": "hqq",
        "quant_config": {
            "self_attn.q_proj": {"weight_quant_params": {"nbits": 8}},
            "mlp.up_proj": {"weight_quant_params": {"nbits": 2}},
        },
    }
    assert counts(tensors, quantised).logical_total == 64 * 64 + 4 * 64 * 64


@pytest.mark.parametrize(("books", "group_out", "group_in", "dtype"), [(1, 1, 8, "I16"), (2, 1, 8, "I8")])
def test_aqlm(books: int, group_out: int, group_in: int, dtype: str) -> None:
    tensors = {
        "l.codes": (dtype, (OUT // group_out, IN // group_in, books)),
        "l.codebooks": ("F16", (books, 256, group_out, group_in)),
        "l.scales": ("F16", (OUT // group_out, 1, 1, 1)),
        "norm.weight": ("F16", (IN,)),
    }
    found = counts(tensors, {"quant_method": "aqlm"})
    assert found.logical_total == OUT * IN + IN
    assert "codebook, aqlm" in (found.logical_note or "")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("kind", "dtype", "columns"),
    [
        ("Int4WeightOnlyConfig", "I8", IN // 2),
        ("Int4WeightOnlyConfig", "I32", IN // 8),
        ("Int8WeightOnlyConfig", "I8", IN),
        ("Float8WeightOnlyConfig", "F8_E4M3", IN),
        ("NVFP4InferenceConfig", "U8", IN // 2),
        ("Int8DynamicActivationIntxWeightConfig", "I8", IN),
    ],
)
def test_torchao(kind: str, dtype: str, columns: int, old: bool) -> None:
    name = (lambda part: f"l.weight:{part}") if old else (lambda part: f"l._weight_{part}")
    tensors = {
        name("qdata"): (dtype, (OUT, columns)),
        name("scale"): ("BF16", (IN // 128, OUT)),
        name("zero_point"): ("BF16", (IN // 128, OUT)),
        ("l.bias:_data" if old else "l.bias"): ("BF16", (OUT,)),
    }
    quantised = {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_data": {}}}}
    assert counts(tensors, quantised).logical_total == OUT * IN + OUT


@pytest.mark.parametrize(("bits", "columns"), [(4, IN // 8), (8, IN // 4), (2, IN // 16)])
def test_compressed_tensors_packed(bits: int, columns: int) -> None:
    tensors = {
        "l.weight_packed": ("I32", (OUT, columns)),
        "l.weight_scale": ("BF16", (OUT, IN // 128)),
        "l.weight_zero_point": ("I32", (OUT // 8, IN // 128)),
        "l.weight_shape": ("I64", (2,)),
        "l.weight_g_idx": ("I32", (IN,)),
        "norm.weight": ("BF16", (IN,)),
    }
    groups = {"group_0": {"weights": {"num_bits": bits}, "targets": ["Linear"]}}
    quantised = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    found = counts(tensors, quantised)
    assert found.logical_total == OUT * IN + IN
    assert f"packed in I32 ({bits}-bit, compressed-tensors)" in (found.logical_note or "")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8"])
def test_compressed_tensors_eight_bit(dtype: str) -> None:
    tensors = {
        "l.weight": (dtype, (OUT, IN)),
        "l.weight_scale": ("BF16", (OUT, 1)),
        "l.input_scale": ("BF16", (1,)),
        "a.k_scale": ("BF16", (1,)),
    }
    found = counts(tensors, {"quant_method": "compressed-tensors"})
    assert found.logical_total == OUT * IN
    assert f"{OUT + 2:,} stored elements are scales" in (found.logical_note or "")


def test_compressed_tensors_fp4() -> None:
    tensors = {
        "l.weight_packed": ("U8", (OUT, IN // 2)),
        "l.weight_scale": ("F8_E4M3", (OUT, IN // 16)),
        "l.weight_global_scale": ("F32", (1,)),
        "l.input_global_scale": ("F32", (1,)),
    }
    assert counts(tensors, {"quant_method": "compressed-tensors"}).logical_total == OUT * IN


def test_modelopt_fp4() -> None:
    tensors = {
        "l.weight": ("U8", (OUT, IN // 2)),
        "l.weight_scale": ("F8_E4M3", (OUT, IN // 16)),
        "l.weight_scale_2": ("F32", ()),
        "l.input_scale": ("F32", ()),
    }
    found = counts(tensors, {"quant_method": "modelopt", "quant_algo": "NVFP4"})
    assert found.logical_total == OUT * IN
    assert "NVFP4, modelopt" in (found.logical_note or "")


def test_bitnet() -> None:
    tensors = {"l.weight": ("U8", (OUT // 4, IN)), "l.weight_scale": ("BF16", (1,)), "n.weight": ("BF16", (IN,))}
    found = counts(tensors, {"quant_method": "bitnet"})
    assert found.logical_total == OUT * IN + IN
    assert "1.58-bit" in (found.logical_note or "")


def test_a_quantisation_of_the_text_model() -> None:
    tensors = {"language_model.l.qweight": ("I32", (IN // 4, OUT))}
    rows = tuple(TensorInfo(n, d, s, "f") for n, (d, s) in tensors.items())
    config = {"text_config": {"quantization_config": {"quant_method": "gptq", "bits": 8}}}
    assert count_parameters(Snapshot("o/n", "main", None, None, "local", config, rows)).logical_total == OUT * IN


@pytest.mark.parametrize("value", [None, 5, "x", {"default": 3}, {"default": {"_type": 7}}])
def test_odd_configs(value: Any) -> None:
    tensors = {
        "l._weight_qdata": ("I8", (4, 4)),
        "m.W_q": ("U8", (4, 4)),
        "n.codes": ("I8", (4,)),
        "n.codebooks": ("F16", (4,)),
        "p.weight_packed": ("I32", (4, 4)),
    }
    quantised = {"quant_method": "torchao", "quant_type": value, "quant_config": value, "config_groups": value}
    assert counts(tensors, quantised).logical_total == 16 + 2 * 16 + 4 + 4 + 8 * 16, (
        "what is no codebook counts as it is"
    )
