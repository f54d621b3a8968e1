"""Gemma, Gemma 2 and Qwen 3 at their real sizes: totals and the peaks of simulated training steps.

Expected peaks and trainable counts are from real transformers 5.23, peft 0.21, bitsandbytes 0.50
and torch 2.13 code on tensors without data; each has its cell's id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulated_rows import build

GEMMA: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "vocab_size": 256000,
}
GEMMA_2: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
QWEN_3: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
NAMED_ROWS: list[tuple[str, dict[str, Any], str, int, int, dict[str, Any]]] = [
    (
        "sim-496b474014",
        GEMMA,
        "full",
        25078773760,
        2506172416,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 512},
    ),
    (
        "sim-121a313325",
        GEMMA,
        "qlora",
        6075714048,
        19611648,
        {
            "attn_implementation": "eager",
            "gradient_checkpointing": True,
            "mixed_precision": "bf16",
            "optim": "adamw_torch",
            "seq_len": 512,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
            "quantization": {
                "bnb_4bit_compute_dtype": "bfloat16",
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "load_in_4bit": True,
                "prepare_model_for_kbit_training": True,
            },
        },
    ),
    (
        "sim-12d2b31a08",
        GEMMA,
        "full",
        42217239040,
        2506172416,
        {
            "attn_implementation": "eager",
            "dtype": "float32",
            "mixed_precision": "bf16",
            "optim": "adamw_torch_fused",
            "seq_len": 512,
        },
    ),
    (
        "sim-75250d366c",
        GEMMA_2,
        "qlora",
        6816445952,
        20766720,
        {
            "attn_implementation": "eager",
            "gradient_checkpointing": True,
            "mixed_precision": "bf16",
            "optim": "adamw_torch",
            "seq_len": 512,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
            "quantization": {
                "bnb_4bit_compute_dtype": "bfloat16",
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "load_in_4bit": True,
                "prepare_model_for_kbit_training": True,
            },
        },
    ),
    (
        "sim-9c0f01d4cc",
        GEMMA_2,
        "lora",
        13118326784,
        20766720,
        {
            "attn_implementation": "eager",
            "gradient_checkpointing": True,
            "optim": "adamw_torch_fused",
            "seq_len": 2048,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
        },
    ),
    (
        "sim-e179d6bc9a",
        GEMMA_2,
        "lora",
        20912851968,
        3194880,
        {
            "attn_implementation": "eager",
            "batch_size": 4,
            "optim": "adamw_torch",
            "padding": True,
            "seq_len": 512,
            "peft": {"lora_alpha": 32, "r": 16},
        },
    ),
    (
        "sim-0a84c68d2e",
        GEMMA_2,
        "lora",
        13972130816,
        3194880,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-c0e6fc0416",
        GEMMA_2,
        "full",
        31039837184,
        2614341888,
        {"attn_implementation": "eager", "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 4096},
    ),
    ("sim-c05faf518f", QWEN_3, "full", 5977619968, 596049920, {"optim": "adamw_torch", "seq_len": 512}),
    (
        "sim-f72e90e406",
        QWEN_3,
        "full",
        11938047488,
        596049920,
        {"dtype": "float32", "optim": "adamw_torch", "seq_len": 512},
    ),
    (
        "sim-9784e8a7c2",
        QWEN_3,
        "qlora",
        2294386688,
        10092544,
        {
            "gradient_checkpointing": True,
            "mixed_precision": "bf16",
            "optim": "adamw_torch",
            "seq_len": 512,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
            "quantization": {
                "bnb_4bit_compute_dtype": "bfloat16",
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "load_in_4bit": True,
                "prepare_model_for_kbit_training": True,
            },
        },
    ),
    (
        "sim-b163bac7e8",
        QWEN_3,
        "full",
        7462046720,
        596049920,
        {"batch_size": 4, "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-8fca769a56",
        QWEN_3,
        "lora",
        5191380992,
        10092544,
        {
            "gradient_checkpointing": True,
            "optim": "adamw_torch_fused",
            "seq_len": 2048,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
        },
    ),
    (
        "sim-21e49da4e1",
        QWEN_3,
        "lora",
        7623901184,
        2293760,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-b61c9d9422",
        QWEN_3,
        "lora",
        15535419392,
        2293760,
        {"optim": "adamw_torch", "seq_len": 4096, "peft": {"lora_alpha": 32, "r": 16}},
    ),
]

TOTALS = [
    (GEMMA, 2506172416),
    (GEMMA_2, 2614341888),
    (QWEN_3, 596049920),
]
"""As ``model.parameters()`` counts them: tied weights once, no buffers."""


def test_totals(size: tuple[dict[str, Any], int]) -> None:
    config, total = size
    assert build(config).total_parameters() == total


def test_simulated_cells(named_row: Any, check_cell: Callable[..., None]) -> None:
    check_cell(*named_row)
