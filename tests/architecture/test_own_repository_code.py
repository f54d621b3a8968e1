"""Models whose code lives in their own repositories: totals worked out from sizes, and what their loss keeps."""

from __future__ import annotations

from typing import Any

import pytest
from simulated_rows import build
from small_models import estimate

QWEN_7B: dict[str, Any] = {
    "model_type": "qwen",
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "kv_channels": 128,
    "no_bias": True,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "seq_length": 8192,
    "tie_word_embeddings": False,
    "rotary_pct": 1.0,
    "torch_dtype": "bfloat16",
}
CHATGLM3_6B: dict[str, Any] = {
    "model_type": "chatglm",
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "kv_channels": 128,
    "num_layers": 28,
    "num_attention_heads": 32,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "padded_vocab_size": 65024,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "rmsnorm": True,
    "seq_length": 8192,
    "post_layer_norm": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
BAICHUAN2_13B: dict[str, Any] = {
    "model_type": "baichuan",
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "vocab_size": 125696,
    "model_max_length": 4096,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
INTERNLM2_7B: dict[str, Any] = {
    "model_type": "internlm2",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 92544,
    "bias": False,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_qwen_halves_the_intermediate_size() -> None:
    """c_attn with a bias, c_proj, three MLP matrices of half the config's width, two norms."""
    h, f = 4096, 11008
    layer = 3 * h * h + 3 * h + h * h + 3 * h * f + 2 * h
    assert build(QWEN_7B).total_parameters() == 32 * layer + 2 * 151936 * h + h


def test_chatglm_groups() -> None:
    """Two key heads beside 32 queries, a bias there, gate and up in one matrix."""
    h, f, qkv = 4096, 13696, (32 + 2 * 2) * 128
    layer = h * qkv + qkv + h * h + 3 * h * f + 2 * h
    assert build(CHATGLM3_6B).total_parameters() == 28 * layer + 2 * 65024 * h + h


def test_baichuan_packs_queries_keys_and_values() -> None:
    h, f = 5120, 13696
    assert build(BAICHUAN2_13B).total_parameters() == 40 * (4 * h * h + 3 * h * f + 2 * h) + 2 * 125696 * h + h


def test_internlm2_interleaves_them() -> None:
    h, f = 4096, 14336
    assert (
        build(INTERNLM2_7B).total_parameters()
        == 32 * (h * (h + 2 * 1024) + h * h + 3 * h * f + 2 * h) + 2 * 92544 * h + h
    )


@pytest.mark.parametrize(
    ("config", "target", "outputs"),
    [
        (QWEN_7B, "c_attn", 3 * 4096),
        (CHATGLM3_6B, "query_key_value", 36 * 128),
        (BAICHUAN2_13B, "W_pack", 3 * 5120),
        (INTERNLM2_7B, "wqkv", 6144),
    ],
    ids=["qwen", "chatglm", "baichuan", "internlm2"],
)
def test_lora_on_the_fused_projection(config: dict[str, Any], target: str, outputs: int) -> None:
    layers = config.get("num_hidden_layers") or config["num_layers"]
    e = estimate(config, "lora", peft={"r": 8, "target_modules": [target]}, seq_len=512)
    assert e.trainable_parameters == layers * 8 * (config["hidden_size"] + outputs)


def test_alibi_of_baichuan_13b_grows_with_the_square() -> None:
    """A mask of heads x S x S in 16 bits is kept whole, and one with the batch's mask beside it."""
    short, long = (
        estimate(
            BAICHUAN2_13B, "lora", peft={"r": 8, "target_modules": ["W_pack"]}, seq_len=s, gradient_checkpointing=True
        ).peak_allocated_bytes
        for s in (2048, 4096)
    )
    assert short is not None
    assert long is not None
    assert long - short > 2 * 40 * (4096**2 - 2048**2) * 2
