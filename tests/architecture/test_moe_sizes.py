"""Mixtures of experts: published totals of large ones, peaks of small ones.

Expected peaks are those of real transformers 5.23 and torch 2.13 code on tensors without data.
"""

from __future__ import annotations

from typing import Any

import pytest
from simulated_rows import build
from small_models import SIMULATED, estimate

GLM_45_AIR: dict[str, Any] = {
    "model_type": "glm4_moe",
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151552,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1,
    "attention_bias": True,
    "use_qk_norm": False,
}
QWEN3_NEXT_80B: dict[str, Any] = {
    "model_type": "qwen3_next",
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "vocab_size": 151936,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "full_attention_interval": 4,
}
LLAMA4_SCOUT: dict[str, Any] = {
    "model_type": "llama4",
    "text_config": {
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "vocab_size": 202048,
    },
    "vision_config": {
        "hidden_size": 1408,
        "num_hidden_layers": 34,
        "num_attention_heads": 16,
        "intermediate_size": 5632,
        "vision_output_dim": 4096,
        "image_size": 336,
        "patch_size": 14,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
    },
}
OLMOE: dict[str, Any] = {
    "model_type": "olmoe",
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 50304,
    "num_experts": 64,
    "num_experts_per_tok": 8,
}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (GLM_45_AIR, 106_852_245_504),
        (QWEN3_NEXT_80B, 79_674_391_296),
        (LLAMA4_SCOUT, 108_641_793_536),
        (OLMOE, 6_919_161_856),
    ],
    ids=["GLM-4.5-Air", "Qwen3-Next-80B-A3B", "Llama-4-Scout-17B-16E", "OLMoE-1B-7B-0924"],
)
def test_published_totals(config: dict[str, Any], parameters: int) -> None:
    """As published; without the prediction layers that transformers does not load (GLM, Qwen3-Next)."""
    assert build(config).total_parameters() == parameters


# Small models run through the real code (transformers 5.23, peft 0.21, torch 2.13) on tensors without data:
# bf16, fused AdamW, clipping, 2 samples of 256 tokens.
SMALL = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000}
SMALL_CELLS = [
    (
        {
            **SMALL,
            "model_type": "granitemoeshared",
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "shared_intermediate_size": 256,
        },
        100.7,
    ),
    (
        {
            **SMALL,
            "model_type": "glm4_moe",
            "intermediate_size": 1024,
            "num_hidden_layers": 3,
            "head_dim": 64,
            "n_routed_experts": 16,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 256,
            "use_qk_norm": True,
            "attention_bias": True,
        },
        185.7,
    ),
    (
        {
            **SMALL,
            "model_type": "phimoe",
            "intermediate_size": 1024,
            "num_hidden_layers": 2,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "lm_head_bias": True,
        },
        235.9,
    ),
    (
        {
            **SMALL,
            "model_type": "qwen2_moe",
            "intermediate_size": 1024,
            "num_hidden_layers": 2,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 256,
            "shared_expert_intermediate_size": 768,
        },
        114.8,
    ),
    (
        {
            "model_type": "qwen3_next",
            "hidden_size": 256,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 1000,
            "head_dim": 64,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 8,
        },
        119.5,
    ),
    (
        {
            "model_type": "llama4_text",
            "hidden_size": 256,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 1000,
            "head_dim": 64,
            "num_local_experts": 4,
            "intermediate_size_mlp": 512,
            "no_rope_layer_interval": 2,
            "interleave_moe_layer_step": 2,
        },
        77.0,
    ),
]


@pytest.mark.parametrize(("config", "mib"), SMALL_CELLS, ids=[str(c["model_type"]) for c, _ in SMALL_CELLS])
def test_small_models(config: dict[str, Any], mib: float) -> None:
    """Full fine-tuning in bf16, peak in MiB to a tenth (rounded), within 0.3 %."""
    e = estimate(
        config,
        "full",
        dtype="bfloat16",
        mixed_precision="no",
        max_grad_norm=1.0,
        seq_len=256,
        batch_size=2,
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        attn_implementation="sdpa",
        stack=SIMULATED,
    )
    assert e.peak_allocated_bytes == pytest.approx(mib * 2**20, rel=3e-3)
