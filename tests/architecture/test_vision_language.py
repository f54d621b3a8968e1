"""Vision-language models: totals of published headers, a simulated step, batches with and without images."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import SIMULATED, estimate

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header

LLAVA: dict[str, Any] = {
    "model_type": "llava",
    "tie_word_embeddings": False,
    "projector_hidden_act": "gelu",
    "text_config": {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096},
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "torch_dtype": "float16",
}
GEMMA3_4B: dict[str, Any] = {
    "model_type": "gemma3",
    "mm_tokens_per_image": 256,
    "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 896,
        "patch_size": 14,
        "vision_use_head": False,
    },
}
QWEN2_VL_2B: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "max_window_layers": 28,
    "torch_dtype": "bfloat16",
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16},
}
MISTRAL_SMALL: dict[str, Any] = {
    "model_type": "mistral3",
    "spatial_merge_size": 2,
    "multimodal_projector_bias": False,
    "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "mistral",
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131072,
        "sliding_window": None,
    },
    "vision_config": {
        "model_type": "pixtral",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "head_dim": 64,
        "image_size": 1540,
        "patch_size": 14,
    },
}
PLAIN: dict[str, Any] = {
    "dtype": "bfloat16",
    "mixed_precision": "no",
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "stack": SIMULATED,
}
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(LLAVA, 7_063_427_072), (GEMMA3_4B, 4_300_079_472), (QWEN2_VL_2B, 2_208_985_600), (MISTRAL_SMALL, 24_011_361_280)],
    ids=["llava-1.5-7b-hf", "gemma-3-4b-it", "Qwen2-VL-2B-Instruct", "Mistral-Small-3.1-24B"],
)
def test_totals(config: dict[str, Any], parameters: int) -> None:
    """As the published safetensors headers count them."""
    family = families.find(config["model_type"])
    assert family is not None
    assert family.build(Config(config), Header(())).total_parameters() == parameters


def test_llava_lora_with_one_image() -> None:
    """Cell sim-412c2c3510: LoRA on all linear layers, one image, 1024 tokens."""
    e = estimate(LLAVA, "lora", seq_len=1024, optim="adamw_torch", peft=LORA, **PLAIN)
    assert e.trainable_parameters == 47_267_840
    assert e.peak_allocated_bytes == pytest.approx(25_010_181_632, rel=1e-3)


def test_images_cost_activations() -> None:
    """More images, more memory; none at all is the language model's own step plus idle weights."""
    peaks = [
        estimate(LLAVA, "lora", seq_len=1024, peft=LORA, image_tokens=n, **PLAIN).peak_allocated_bytes
        for n in (0, 576, 1152)
    ]
    assert peaks[0] is not None
    assert peaks[1] is not None
    assert peaks[2] is not None
    assert peaks[0] < peaks[1] < peaks[2]
    default = estimate(LLAVA, "lora", seq_len=1024, peft=LORA, **PLAIN).peak_allocated_bytes
    assert default == peaks[1]


def test_unused_tower_has_no_gradient_and_no_state() -> None:
    """Text-only full fine-tuning: AdamW holds two numbers for every parameter but the vision tower's."""
    family = families.find("qwen2_vl")
    assert family is not None
    arch = family.build(Config(QWEN2_VL_2B), Header(()))
    tower = 2_208_985_600 - 1_543_714_304  # all, less Qwen2-1.5B
    e = estimate(QWEN2_VL_2B, "full", seq_len=512, optim="adamw_torch_fused", **PLAIN)
    assert e.trainable_parameters == arch.total_parameters()
    assert e.breakdown is not None
    assert e.breakdown.optimizer_bytes == pytest.approx(2 * 2 * (arch.total_parameters() - tower), rel=1e-4)
    with_images = estimate(QWEN2_VL_2B, "full", seq_len=512, optim="adamw_torch_fused", image_tokens=256, **PLAIN)
    assert with_images.breakdown is not None
    assert with_images.breakdown.optimizer_bytes == pytest.approx(2 * 2 * arch.total_parameters(), rel=1e-4)


def test_gemma3_pools_its_patches() -> None:
    """One image of 4096 patches becomes 256 tokens; without images the tower is idle."""
    one = estimate(GEMMA3_4B, "lora", seq_len=512, peft=LORA, **PLAIN)
    none = estimate(GEMMA3_4B, "lora", seq_len=512, peft=LORA, image_tokens=0, **PLAIN)
    assert one.peak_allocated_bytes is not None
    assert none.peak_allocated_bytes is not None
    kept = 27 * 4096 * 1152 * 2  # one 16-bit tensor per layer and patch, at the least
    assert one.peak_allocated_bytes - none.peak_allocated_bytes > kept


def test_a_language_model_without_description_is_named() -> None:
    """An unknown language model is a clear skip."""
    e = estimate({**LLAVA, "text_config": {"model_type": "nonesuch"}}, "lora", seq_len=64)
    assert e.status == "skipped"
    assert "nonesuch" in (e.reason or "")
