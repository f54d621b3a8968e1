"""Parameters as stored and as the model means them; expected numbers worked out here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hubvram.snapshot.counts import count_parameters
from hubvram.snapshot.records import FileInfo, Snapshot, TensorInfo


def snapshot(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], config: Mapping[str, Any] | None = None, **more: Any
) -> Snapshot:
    infos = tuple(TensorInfo(n, d, s, "model.safetensors") for n, (d, s) in tensors.items())
    return Snapshot("org/name", "main", "a" * 40, "https://hub", "hub", config or {}, infos, **more)


def test_a_plain_model() -> None:
    counts = count_parameters(snapshot({"a": ("F32", (2, 3)), "b": ("BF16", (100,)), "c": ("F32", ())}))
    assert counts.total == 107
    assert list(counts.by_dtype.items()) == [("BF16", 100), ("F32", 7)]
    assert counts.stored_bytes == 200 + 28
    assert counts.logical_total == 107
    assert counts.logical_note is None


def test_sub_byte_dtypes() -> None:
    counts = count_parameters(snapshot({"a": ("F4", (6,)), "b": ("F6_E2M3", (4,)), "c": ("F8_E8M0", (1,))}))
    assert counts.total == 11
    assert counts.stored_bytes == 3 + 3 + 1


def test_stored_bytes_come_from_the_file_where_it_is_known() -> None:
    files = (FileInfo("model.safetensors", 8 + 100 + 7, "weights", None, 100),)
    assert count_parameters(snapshot({"a": ("F3_X", (8,))}, files=files)).stored_bytes == 7


def test_gptq_without_biases_of_its_own() -> None:
    """A 4096 x 1024 layer at 4 bits, groups of 128, with the zero bias that AutoGPTQ adds."""
    layer = {
        "model.layers.0.self_attn.k_proj.qweight": ("I32", (512, 1024)),
        "model.layers.0.self_attn.k_proj.qzeros": ("I32", (32, 128)),
        "model.layers.0.self_attn.k_proj.scales": ("F16", (32, 1024)),
        "model.layers.0.self_attn.k_proj.g_idx": ("I32", (4096,)),
        "model.layers.0.self_attn.k_proj.bias": ("F16", (1024,)),
        "model.norm.weight": ("F16", (4096,)),
    }
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    counts = count_parameters(snapshot(layer, {"model_type": "mistral", "quantization_config": quantised}))
    assert counts.total == 512 * 1024 + 32 * 128 + 32 * 1024 + 4096 + 1024 + 4096
    assert counts.logical_total == 4096 * 1024 + 4096
    assert "4-bit, gptq" in (counts.logical_note or "")
    assert "zero biases" in (counts.logical_note or "")
    # Qwen2's attention has biases: there the same tensor is a parameter.
    counts = count_parameters(snapshot(layer, {"model_type": "qwen2", "quantization_config": quantised}))
    assert counts.logical_total == 4096 * 1024 + 1024 + 4096
    # So does a Llama whose config says so.
    config = {"model_type": "llama", "attention_bias": True, "quantization_config": quantised}
    assert count_parameters(snapshot(layer, config)).logical_total == 4096 * 1024 + 1024 + 4096


@pytest.mark.parametrize(
    ("key", "bits", "rows"),
    [("bits", 8, 1024), ("bits", 4, 512), ("w_bit", 4, 512), ("bits", 2, 256), ("bits", 3, 384)],
)
def test_bits_per_packed_weight(key: str, bits: int, rows: int) -> None:
    tensors = {"l.qweight": ("I32", (rows, 64)), "l.scales": ("F16", (32, 64))}
    counts = count_parameters(snapshot(tensors, {"quantization_config": {"quant_method": "gptq", key: bits}}))
    assert counts.logical_total == 4096 * 64


def test_awq() -> None:
    """AutoAWQ packs along the output: 896 x 4864 becomes I32 [896, 608]."""
    tensors = {"m.qweight": ("I32", (896, 608)), "m.qzeros": ("I32", (7, 608)), "m.scales": ("F16", (7, 4864))}
    counts = count_parameters(snapshot(tensors, {"quantization_config": {"quant_method": "awq", "bits": 4}}))
    assert counts.logical_total == 896 * 4864


def test_bitsandbytes_four_bit() -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors = {
        name: ("U8", (8_388_608, 1)),
        f"{name}.absmax": ("U8", (262_144,)),
        f"{name}.quant_map": ("F32", (16,)),
        f"{name}.nested_absmax": ("F32", (1024,)),
        f"{name}.nested_quant_map": ("F32", (256,)),
        f"{name}.quant_state.bitsandbytes__nf4": ("U8", (173,)),
        "model.embed_tokens.weight": ("BF16", (10, 4096)),
    }
    counts = count_parameters(snapshot(tensors))
    assert counts.logical_total == 4096 * 4096 + 40_960
    assert counts.total == 8_388_608 + 262_144 + 16 + 1024 + 256 + 173 + 40_960


def test_bitsandbytes_eight_bit() -> None:
    tensors = {"l.weight": ("I8", (64, 64)), "l.SCB": ("F32", (64,)), "l.weight_format": ("U8", ())}
    assert count_parameters(snapshot(tensors)).logical_total == 64 * 64


def test_mxfp4() -> None:
    """Blocks of 16 bytes hold 32 values; one scale byte per block."""
    tensors = {
        "m.experts.down_proj_blocks": ("U8", (32, 2880, 90, 16)),
        "m.experts.down_proj_scales": ("U8", (32, 2880, 90)),
        "m.experts.down_proj_bias": ("BF16", (32, 2880)),
    }
    counts = count_parameters(snapshot(tensors, {"quantization_config": {"quant_method": "mxfp4"}}))
    assert counts.logical_total == 32 * 2880 * 2880 + 32 * 2880
    assert "MXFP4" in (counts.logical_note or "")


def test_fp8_blocks() -> None:
    tensors = {
        "l.weight": ("F8_E4M3", (256, 512)),
        "l.weight_scale_inv": ("F32", (2, 4)),
        "norm.weight": ("BF16", (512,)),
    }
    counts = count_parameters(snapshot(tensors))
    assert counts.total == 256 * 512 + 8 + 512
    assert counts.logical_total == 256 * 512 + 512
    assert "8 stored elements are scales" in (counts.logical_note or "")


def test_names_that_only_look_like_packing() -> None:
    tensors = {"a.scales": ("F32", (7,)), "b_blocks": ("U8", (3,)), "c.g_idx": ("I32", (2,)), "d_scales": ("F32", (1,))}
    counts = count_parameters(snapshot(tensors))
    assert counts.logical_total == counts.total == 13
    assert counts.logical_note is None


@pytest.mark.parametrize(
    "quantised", [None, [], "gptq", {"bits": "4"}, {"bits": 0}, {"bits": True}, {"quant_method": 7}]
)
def test_odd_quantisation_configs(quantised: Any) -> None:
    counts = count_parameters(snapshot({"l.qweight": ("I32", (8, 8))}, {"quantization_config": quantised}))
    assert counts.logical_total == 8 * 8 * 8
