"""Mixtures of experts: totals worked out from the sizes, peaks of simulated training steps.

Expected peaks and trainable counts are from real transformers 5.23, peft 0.21 and
torch 2.13 code on tensors without data; each has its cell's id.
"""

from __future__ import annotations

from typing import Any

import pytest
from simulated_rows import build
from small_models import SIMULATED, estimate, snapshot

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.families import moe
from hubvram.architecture.header import Header
from hubvram.snapshot.records import TensorInfo

MIXTRAL: dict[str, Any] = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN3_30B: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V2_LITE: dict[str, Any] = {
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 102400,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 129280,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "torch_dtype": "bfloat16",
}
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
CELLS = [
    ("sim-6cf07c36c9", MIXTRAL, "full", 467044976128, 46702792704, {"seq_len": 512, "optim": "adamw_torch"}),
    ("sim-1d891c6746", MIXTRAL, "lora", 195971555328, 359665664, {"seq_len": 512, "optim": "adamw_torch"}),
    ("sim-87019f38c3", MIXTRAL, "full", 373805908992, 46702792704, {"seq_len": 512, "batch_size": 4, "ckpt": True}),
    ("sim-e95183cb73", MIXTRAL, "lora", 103862225920, 359665664, {"seq_len": 2048, "ckpt": True}),
    ("sim-f0f803387a", QWEN3_30B, "full", 305338398208, 30532122624, {"seq_len": 512, "optim": "adamw_torch"}),
    ("sim-ae726e3a4b", QWEN3_30B, "lora", 79076662784, 996507648, {"seq_len": 2048, "ckpt": True}),
    (
        "sim-2c7fc2be1c",
        DEEPSEEK_V2_LITE,
        "full",
        125677516288,
        15706484224,
        {"seq_len": 512, "batch_size": 4, "ckpt": True},
    ),
    ("sim-f94e6117ce", DEEPSEEK_V2_LITE, "lora", 39090536960, 358994944, {"seq_len": 2048, "ckpt": True}),
    ("sim-d2d7efe13d", GPT_OSS, "lora", 47207997440, 7962624, {"seq_len": 2048, "ckpt": True, "attn": "eager"}),
    ("sim-6107cbe087", GPT_OSS, "full", 175041862656, 20914757184, {"seq_len": 4096, "ckpt": True, "attn": "eager"}),
]


def settings(given: dict[str, Any], method: str) -> dict[str, Any]:
    """Settings of a cell: bf16 without autocast, clipping, fused AdamW unless it says otherwise."""
    return {
        "dtype": "bfloat16",
        "mixed_precision": "no",
        "max_grad_norm": 1.0,
        "seq_len": given["seq_len"],
        "batch_size": given.get("batch_size", 1),
        "optim": given.get("optim", "adamw_torch_fused"),
        "gradient_checkpointing": given.get("ckpt", False),
        "attn_implementation": given.get("attn", "sdpa"),
        "peft": given.get("peft", LORA) if method != "full" else {},
        "stack": SIMULATED,
    }


@pytest.mark.parametrize(("cell", "config", "method", "peak", "trainable", "given"), CELLS, ids=[c[0] for c in CELLS])
def test_simulated_cells(
    cell: str, config: dict[str, Any], method: str, peak: int, trainable: int, given: dict[str, Any]
) -> None:
    """Within 0.1 % of the simulated step; what is trained is exact."""
    e = estimate(config, method, **settings(given, method))
    assert e.trainable_parameters == trainable
    assert e.peak_allocated_bytes == pytest.approx(peak, rel=1e-3)


def test_mixtral_total_from_sizes() -> None:
    """8 experts of three h x f matrices, a router, attention, two norms, two tables and a last norm."""
    h, f = 4096, 14336
    layer = 8 * 3 * h * f + 8 * h + 2 * h * h + 2 * h * 1024 + 2 * h
    assert build(MIXTRAL).total_parameters() == 32 * layer + 2 * 32000 * h + h


def test_old_and_new_stack_have_the_same_parameters() -> None:
    """Stacking experts moves weights, it adds none; what PEFT sees as linear layers differs."""
    for config in (MIXTRAL, QWEN3_30B, DEEPSEEK_V2_LITE):
        arch = families.find(config["model_type"]).build(Config(config), Header(()))  # type: ignore[union-attr]
        assert arch.legacy is not None
        assert arch.legacy().total_parameters() == arch.total_parameters()
    old = estimate(MIXTRAL, "lora", stack={"transformers": "4.48.1"}, seq_len=512, peft=LORA)
    per_layer = 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024)) + 16 * (4096 + 8) + 8 * 3 * 16 * (4096 + 14336)
    assert old.trainable_parameters == 32 * per_layer


def test_qlora_packs_separate_experts_only() -> None:
    """bitsandbytes quantises linear layers: the experts of transformers 4, not the stacked ones of 5."""
    peft = {"r": 16, "target_modules": ["q_proj", "v_proj"]}
    old = estimate(MIXTRAL, "qlora", stack={"transformers": "4.48.1"}, seq_len=512, peft=peft)
    new = estimate(MIXTRAL, "qlora", seq_len=512, peft=peft)
    assert old.loaded_bytes is not None
    assert new.loaded_bytes is not None
    experts = 32 * 8 * 3 * 4096 * 14336
    assert old.loaded_bytes < 0.6 * experts
    assert new.loaded_bytes > 4 * experts  # and cast to fp32 by prepare_model_for_kbit_training


def test_fused_projections_are_targeted_together() -> None:
    """PEFT refuses one of two projections that transformers 5 keeps in one parameter."""
    e = estimate(MIXTRAL, "lora", seq_len=512, peft={"r": 8, "target_modules": ["w1", "q_proj"]})
    assert e.status == "skipped"
    assert "w3" in (e.reason or "")


def test_targets_by_regex_reach_stacked_experts() -> None:
    """A regex of old names finds the stacked parameters, with twice the rank for the fused pair."""
    pattern = r".*\.(gate_proj|up_proj|down_proj)"
    e = estimate(QWEN3_30B, "lora", seq_len=512, peft={"r": 4, "target_modules": pattern})
    per_layer = 8 * 128 * (2048 + 2 * 768) + 4 * 128 * (768 + 2048)
    assert e.trainable_parameters == 48 * per_layer


def test_target_parameters() -> None:
    """Parameters named by the user: one pair of matrices per expert, side by side."""
    peft = {"r": 2, "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    e = estimate(GPT_OSS, "lora", seq_len=256, peft=peft)
    assert e.trainable_parameters == 24 * 2 * (32 * (2880 + 2880) + 2880 + 4096)


def test_experts_take_no_dropout() -> None:
    """PEFT's parameter wrapper raises on lora_dropout."""
    e = estimate(MIXTRAL, "lora", seq_len=512, peft={**LORA, "lora_dropout": 0.1})
    assert e.status == "skipped"
    assert "dropout" in (e.reason or "")


def test_deepseek_v3() -> None:
    """671,026,404,352 parameters are loaded of a checkpoint that also holds a prediction layer."""
    assert build(DEEPSEEK_V3).total_parameters() == 671_026_404_352
    e = estimate(DEEPSEEK_V3, "lora", seq_len=512, peft={"r": 8, "target_modules": ["q_b_proj", "kv_b_proj"]})
    assert e.trainable_parameters == 61 * 8 * ((1536 + 128 * 192) + (512 + 128 * 256))


def test_router_is_never_packed() -> None:
    """Routers stay in 16 bits under nf4 (transformers 4), as every gate does."""
    arch = moe.build(Config(MIXTRAL), Header(())).legacy
    assert arch is not None
    gate = arch().stacks["layers"].blocks[0].modules["gate"]
    assert getattr(gate, "role", "") == "router"


def test_layers_without_experts() -> None:
    """Dense layers first (GLM-4.5), and by step and list (Qwen)."""
    config = {**QWEN3_30B, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    order = moe.build(Config(config), Header(())).stacks["layers"]
    kinds = [order.blocks[k].facts["sparse"] for k in order.order]
    assert kinds[:6] == [False, True, False, False, False, True]


def test_gpt_oss_needs_no_header_for_its_experts() -> None:
    """MXFP4 blocks in the header do not change what is counted."""
    packed = (TensorInfo("model.layers.0.mlp.experts.gate_up_proj_blocks", "U8", (32, 5760, 90, 16), "f"),)
    family = families.find("gpt_oss")
    assert family is not None
    arch = family.build(Config(GPT_OSS), Header(snapshot(GPT_OSS, packed).tensors))
    assert arch.total_parameters() == 20_914_757_184


def test_without_default_targets_everything_linear() -> None:
    """PEFT has no table for qwen3_moe: all-linear is assumed, experts included; parameters alone are enough too."""
    e = estimate(QWEN3_30B, "lora", seq_len=512, peft={"r": 16})
    assert e.trainable_parameters == 996_507_648
    assert "all-linear" in (e.reason or "")
    alone = estimate(QWEN3_30B, "lora", seq_len=512, peft={"r": 4, "target_parameters": ["down_proj"]})
    assert alone.trainable_parameters == 48 * 4 * 128 * (768 + 2048)
