"""Bases that are stored quantised, or asked for as such."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import LLAMA_2_7B, LLAMA_32_1B, MISTRAL_7B, QWEN_25_05B, estimate, parameters, snapshot

from hubvram import estimator
from hubvram.errors import SettingError, UnsupportedError
from hubvram.plan import quantized
from hubvram.plan.settings import Settings
from hubvram.snapshot.records import TensorInfo
from hubvram.timeline.dtypes import BF16

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
LLAMA_31_8B = {
    **LLAMA_32_1B,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
QWEN3_8B = {
    **LLAMA_31_8B,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
ROTARY = 2 * 512
"""inv_freq and its copy, which no checkpoint holds."""


def stored_as(config: dict[str, Any], quantization: dict[str, Any]) -> dict[str, Any]:
    return {**config, "quantization_config": quantization}


@pytest.mark.parametrize(
    ("config", "quantization", "expected"),
    [
        # sums of the headers of TheBloke/Mistral-7B-v0.1-GPTQ without the biases that AutoGPTQ adds,
        # TheBloke's group of -1 (one scale a row), Qwen/Qwen2.5-0.5B-Instruct-AWQ without its copy of the tied head,
        # unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit
        (MISTRAL_7B, GPTQ, 4_155_778_048),
        (QWEN_25_05B, AWQ, 458_423_296),
        (LLAMA_31_8B, NF4, 5_702_755_328),
    ],
    ids=["gptq", "awq", "bitsandbytes"],
)
def test_a_stored_base_is_as_big_as_its_files(
    config: dict[str, Any], quantization: dict[str, Any], expected: int
) -> None:
    e = estimate(stored_as(config, quantization), "inference")
    assert e.loaded_bytes == expected


def test_fp8_blocks() -> None:
    """Qwen3-8B-FP8: one byte a weight and one fp32 scale for 128 x 128 in the layers' linear modules."""
    e = estimate(stored_as(QWEN3_8B, {"quant_method": "fp8", "weight_block_size": [128, 128]}), "inference")
    linear = 36 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 12288)
    rest = 2 * 151936 * 4096 + 36 * (2 * 4096 + 2 * 128) + 4096
    assert e.loaded_bytes is not None
    small = 36 * 2 * (512 - 256) + ROTARY  # q and k norms of 128 elements take a whole block
    assert e.loaded_bytes == linear + linear // 128**2 * 4 + 2 * rest + small


@pytest.mark.parametrize("quantization", [GPTQ, AWQ, NF4], ids=["gptq", "awq", "nf4"])
def test_training_the_weights_is_skipped(quantization: dict[str, Any]) -> None:
    for method in ("full", "galore", "lisa", "lomo"):
        e = estimate(stored_as(MISTRAL_7B, quantization), method)
        assert e.status == "skipped", method
        assert e.reason is not None
        assert "train LoRA on them, or take the unquantised base" in e.reason
    assert estimate(stored_as(MISTRAL_7B, quantization), "lora_int8").status == "skipped"


@pytest.mark.parametrize("quantization", [GPTQ, AWQ, NF4], ids=["gptq", "awq", "nf4"])
def test_lora_runs_on_it_without_a_flag(quantization: dict[str, Any]) -> None:
    lora = estimate(stored_as(MISTRAL_7B, quantization), "lora")
    assert lora.trainable_parameters == 32 * 16 * (4096 + 4096 + 4096 + 1024)
    plain = estimate(MISTRAL_7B, "lora")
    assert lora.loaded_bytes is not None
    assert plain.loaded_bytes is not None
    assert lora.loaded_bytes < 0.45 * plain.loaded_bytes


def test_a_bitsandbytes_repository_is_a_qlora_base() -> None:
    e = estimate(stored_as(LLAMA_31_8B, NF4), "qlora")
    asked = estimate(LLAMA_31_8B, "qlora")
    assert e.peak_allocated_bytes == asked.peak_allocated_bytes
    assert e.loaded_bytes == asked.loaded_bytes


def test_modules_that_are_stored_unpacked_stay_so() -> None:
    """As in dynamic 4-bit repositories: o_proj of layer 0 is bf16."""
    config = stored_as(LLAMA_2_7B, NF4)
    kept = (TensorInfo("model.layers.0.self_attn.o_proj.weight", "BF16", (4096, 4096), "model.safetensors"),)
    all_packed = estimate(config, "inference")
    with_one = estimate(config, "inference", kept)
    n = 4096 * 4096
    blocks = n // 64
    packed = n // 2 + blocks + blocks // 256 * 4 + 1024 + 512 + 512  # data, absmax, its absmax, tables, offset
    assert with_one.loaded_bytes is not None
    assert all_packed.loaded_bytes is not None
    assert with_one.loaded_bytes - all_packed.loaded_bytes == 2 * n - packed


def test_formats_asked_for() -> None:
    def loaded(method: str) -> int:
        e = estimate(MISTRAL_7B, "lora", quantization={"quant_method": method}, gradient_checkpointing=False)
        assert e.loaded_bytes is not None
        return e.loaded_bytes

    linear = parameters(MISTRAL_7B) - 2 * 32000 * 4096 - 65 * 4096
    rest = estimate(MISTRAL_7B, "lora").loaded_bytes
    assert rest is not None
    rest -= 2 * linear
    assert loaded("hqq") - rest == linear // 2 + 2 * 2 * linear // 64
    assert loaded("fp8") - rest == linear + 4 * linear // 128**2
    rows = 32 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096)
    assert loaded("eetq") - rest == linear + 2 * rows
    assert loaded("aqlm") - rest == linear // 4 + 32 * 7 * 65536 * 8 * 2 + 2 * rows


def test_what_an_autograd_function_keeps() -> None:
    """AQLM, HQQ and EETQ save the input of every product, GPTQ, AWQ and FP8 do not."""

    def peak(method: str) -> int:
        e = estimate(
            MISTRAL_7B,
            "lora",
            quantization={"quant_method": method},
            gradient_checkpointing=False,
            seq_len=4096,
            peft={"target_modules": ["q_proj"]},
        )
        assert e.peak_allocated_bytes is not None
        assert e.loaded_bytes is not None
        return e.peak_allocated_bytes - e.loaded_bytes

    assert peak("awq") == pytest.approx(peak("gptq"), rel=1e-3)
    # the norms' outputs (two of 4096 a layer) and the input of down_proj (14336), in bf16
    assert peak("aqlm") - peak("awq") == pytest.approx(31 * 4096 * 2 * (2 * 4096 + 14336), rel=0.1)


def test_formats_that_nothing_can_be_trained_on() -> None:
    e = estimate(MISTRAL_7B, "lora", quantization={"quant_method": "fbgemm_fp8"})
    assert e.status == "skipped"
    assert estimate(MISTRAL_7B, "inference", quantization={"quant_method": "fbgemm_fp8"}).status == "ok"


def test_formats_that_are_dequantised_for_training() -> None:
    config = stored_as(MISTRAL_7B, {"quant_method": "compressed-tensors", "config_groups": {}})
    e = estimate(config, "lora")
    assert e.loaded_bytes == estimate(MISTRAL_7B, "lora").loaded_bytes
    assert e.reason is not None
    assert "decompresses every weight" in e.reason
    assert estimate(config, "full").status == "ok"


def test_an_unknown_format_is_skipped_with_its_name() -> None:
    e = estimate(stored_as(MISTRAL_7B, {"quant_method": "exl3", "bits": 3}), "lora")
    assert e.status == "skipped"
    assert e.reason is not None
    assert "exl3" in e.reason


def test_another_format_than_the_stored_one_is_an_error() -> None:
    with pytest.raises(SettingError, match="asks for bitsandbytes, but the repository's weights are stored as gptq"):
        estimate(stored_as(MISTRAL_7B, GPTQ), "lora", quantization={"load_in_4bit": True})
    with pytest.raises(SettingError, match="quant_method is 'nf5'"):
        estimate(MISTRAL_7B, "lora", quantization={"quant_method": "nf5"})


def test_what_is_read_is_in_the_settings() -> None:
    applied, _ = estimator.estimate(snapshot(stored_as(MISTRAL_7B, {**GPTQ, "group_size": -1})), Settings(), ["lora"])
    assert applied["quantization"] == {"quant_method": "gptq", "bits": 4, "group_size": -1}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, {"bits": 4, "group_size": 64}),
        ({"bits": 8, "group_size": None}, {"quant_method": "gptq", "bits": 8, "group_size": -1}),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 32}, {"quant_method": "gptq", "group_size": 32}),
        (
            {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 2, "group_size": 16}}},
            {"bits": 2, "group_size": 16},
        ),
        (
            {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8, "in_group_size": 8},
            {"num_codebooks": 2, "nbits_per_codebook": 8, "in_group_size": 8},
        ),
        ({"quant_method": "fp8"}, {"weight_block_size": None}),
        ({"load_in_8bit": True}, {"load_in_8bit": True}),
    ],
)
def test_spellings(written: dict[str, Any], read: dict[str, Any]) -> None:
    found = quantized.stored({"quantization_config": written})
    assert found is not None
    assert {**found.settings, **read} == dict(found.settings)


def test_aqlm_two_bits() -> None:
    """One 16-bit code for 8 weights; a codebook of 65536 x 8 half floats; a scale a row."""
    sizes = quantized.FORMATS["aqlm"].sizes(4096, 4096, {}, BF16)
    assert list(sizes) == [4096 * 512 * 2, 65536 * 8 * 2, 4096 * 2]


def test_float8_training_casts_around_every_product() -> None:
    """fp32 masters: no bf16 copies of the weights (two bytes a parameter under bf16), fp8 copies in passing."""
    given: dict[str, Any] = {"dtype": "float32", "gradient_checkpointing": False, "seq_len": 512}
    bf16 = estimate(LLAMA_32_1B, "lomo", mixed_precision="bf16", **given)  # no gradients: the loss is the peak
    fp8 = estimate(LLAMA_32_1B, "lomo", mixed_precision="fp8", **given)
    assert bf16.breakdown is not None
    assert fp8.breakdown is not None
    linear = parameters(LLAMA_32_1B, outside=False) - 16 * 2 * 2048
    saved = bf16.breakdown.activations_bytes - fp8.breakdown.activations_bytes
    assert saved == pytest.approx(2 * linear, rel=0.02)
    assert fp8.reason is not None
    assert "torchao" in fp8.reason


@pytest.mark.parametrize("bits", [0, 17, 10**40, True, "four"])
def test_settings_of_sizes_that_cannot_be(bits: object) -> None:
    with pytest.raises(SettingError, match="bits"):
        estimate(LLAMA_32_1B, "lora", quantization={"quant_method": "gptq", "bits": bits})


@pytest.mark.parametrize("bits", [0, 17, 10**40])
def test_configs_of_sizes_that_cannot_be(bits: int) -> None:
    config = {**LLAMA_32_1B, "quantization_config": {"quant_method": "gptq", "bits": bits}}
    with pytest.raises(UnsupportedError, match="quantization_config"):
        estimate(config, "lora")
