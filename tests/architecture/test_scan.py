"""State-space models: Mamba, Falcon-Mamba, Jamba, run token by token.

Expected peaks are from real transformers 5.23 and torch 2.13 code on tensors without data.
"""

from __future__ import annotations

from typing import Any

import pytest
from small_models import SIMULATED, estimate

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header

MAMBA_130M: dict[str, Any] = {
    "model_type": "mamba",
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "vocab_size": 50280,
    "state_size": 16,
    "expand": 2,
    "conv_kernel": 4,
    "time_step_rank": 48,
    "residual_in_fp32": True,
    "torch_dtype": "float32",
}
JAMBA: dict[str, Any] = {
    "model_type": "jamba",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 256,
    "torch_dtype": "bfloat16",
}
PLAIN: dict[str, Any] = {
    "dtype": "bfloat16",
    "mixed_precision": "no",
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "stack": SIMULATED,
    "attn_implementation": "eager",
}


def test_mamba_full() -> None:
    """Cell sim-c187b0a138: full fine-tuning, 128 tokens."""
    e = estimate(MAMBA_130M, "full", seq_len=128, optim="adamw_torch", **PLAIN)
    assert e.trainable_parameters == 129_135_360
    assert e.peak_allocated_bytes == pytest.approx(2_102_793_216, rel=1e-3)


def test_states_grow_with_tokens() -> None:
    """Twice the tokens keep twice the states: the fp32 state and its 16-bit copy, and two full discretised tensors."""

    def kept(tokens: int) -> int:
        e = estimate(MAMBA_130M, "full", seq_len=tokens, optim="sgd", **PLAIN)
        assert e.peak_allocated_bytes is not None
        return e.peak_allocated_bytes

    per_token = 24 * 1536 * 16 * (4 + 2 + 3 * 4)  # state, copy, exp(A dt), dt B, dt B x... at the least
    assert kept(256) - kept(128) > 128 * per_token * 0.9


def test_peft_refuses_out_proj() -> None:
    """PEFT raises for LoRA on out_proj and conv1d of Mamba models."""
    e = estimate(MAMBA_130M, "lora", seq_len=64, peft={"target_modules": "all-linear"}, **PLAIN)
    assert e.status == "skipped"
    assert "out_proj" in (e.reason or "")
    e = estimate(MAMBA_130M, "lora", seq_len=64, peft={"r": 8, "target_modules": ["in_proj", "x_proj"]}, **PLAIN)
    assert e.trainable_parameters == 24 * 8 * ((768 + 3072) + (1536 + 80))


def test_jamba_total() -> None:
    """51,570,323,328 parameters, as the published header has them, in both forms of the experts."""
    family = families.find("jamba")
    assert family is not None
    arch = family.build(Config(JAMBA), Header(()))
    assert arch.total_parameters() == 51_570_323_328
    assert arch.legacy is not None
    assert arch.legacy().total_parameters() == 51_570_323_328
    kinds = [arch.stacks["layers"].blocks[k].facts for k in arch.stacks["layers"].order]
    assert [i for i, f in enumerate(kinds) if f["attention"]] == [4, 12, 20, 28]
    assert [i for i, f in enumerate(kinds) if f["sparse"]] == list(range(1, 32, 2))


def test_adapters_on_dt_proj_have_no_state() -> None:
    """The mixer multiplies with dt_proj's plain weight: adapters there count as trainable, and stay untouched."""
    peft = {"r": 8, "target_modules": ["dt_proj", "x_proj"]}
    both = estimate(JAMBA, "lora", seq_len=64, peft=peft, **PLAIN)
    one = estimate(JAMBA, "lora", seq_len=64, peft={**peft, "target_modules": ["x_proj"]}, **PLAIN)
    assert both.trainable_parameters == (one.trainable_parameters or 0) + 28 * 8 * (256 + 8192)
    assert both.breakdown is not None
    assert one.breakdown is not None
    assert both.breakdown.optimizer_bytes == one.breakdown.optimizer_bytes


def test_a_quantised_dt_proj_is_called_in_jamba_and_fails_in_mamba() -> None:
    """``_is_quantized``: Jamba calls dt_proj as a module, adapters and all; Mamba multiplies with packed bytes."""
    given = {**PLAIN, "optim": "adamw_torch"}
    peft = {"r": 8, "target_modules": ["dt_proj", "x_proj"]}
    both = estimate(JAMBA, "qlora", seq_len=64, peft=peft, **given)
    one = estimate(JAMBA, "qlora", seq_len=64, peft={**peft, "target_modules": ["x_proj"]}, **given)
    assert both.breakdown is not None
    assert one.breakdown is not None
    more = both.breakdown.optimizer_bytes - one.breakdown.optimizer_bytes
    assert 0 <= more - 28 * 8 * (256 + 8192) * 2 * 4 < 28 * 2 * 2 * 1024  # two FP32 states, to the block; step counters
    e = estimate(MAMBA_130M, "qlora", seq_len=64, peft={"r": 8, "target_modules": ["in_proj", "x_proj"]}, **given)
    assert e.status == "skipped"
    assert "dt_proj" in (e.reason or "")


def test_mamba2_small() -> None:
    """A small Mamba-2 run through the real code: 93.7 MiB (full, fused AdamW, 2 samples of 256 tokens)."""
    config = {
        "model_type": "mamba2",
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "vocab_size": 1000,
        "state_size": 32,
        "expand": 2,
        "conv_kernel": 4,
        "num_heads": 8,
        "head_dim": 64,
        "n_groups": 2,
        "chunk_size": 64,
    }
    e = estimate(config, "full", seq_len=256, batch_size=2, optim="adamw_torch_fused", **PLAIN)
    assert e.peak_allocated_bytes == pytest.approx(93.7 * 2**20, rel=2e-3)
