"""GPT-2, GPT-J and Pythia at their real sizes: totals and the peaks of simulated training steps.

Expected peaks and trainable counts are from real transformers 5.23, peft 0.21, bitsandbytes 0.50
and torch 2.13 code on tensors without data; each has its cell's id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulated_rows import build

GPT2: dict[str, Any] = {
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "model_type": "gpt2",
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "vocab_size": 50257,
}
GPTJ: dict[str, Any] = {
    "activation_function": "gelu_new",
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "model_type": "gptj",
    "n_embd": 4096,
    "n_head": 16,
    "n_layer": 28,
    "n_positions": 2048,
    "resid_pdrop": 0.0,
    "rotary_dim": 64,
    "tie_word_embeddings": False,
    "vocab_size": 50400,
}
PYTHIA: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
NAMED_ROWS: list[tuple[str, dict[str, Any], str, int, int, dict[str, Any]]] = [
    (
        "sim-e97e152564",
        GPT2,
        "qlora",
        655539712,
        2359296,
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
        "sim-165123b98d",
        GPT2,
        "lora",
        1575075328,
        2359296,
        {
            "gradient_checkpointing": True,
            "optim": "adamw_torch_fused",
            "seq_len": 2048,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
        },
    ),
    (
        "sim-b0bb95ed22",
        GPT2,
        "qlora",
        1185474560,
        9437184,
        {
            "optim": "adamw_torch",
            "seq_len": 512,
            "peft": {"lora_alpha": 32, "r": 64, "target_modules": "all-linear"},
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
        "sim-e9cc046604",
        GPT2,
        "lora",
        2480205312,
        589824,
        {"batch_size": 4, "optim": "adamw_torch", "padding": True, "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-a058d0715f",
        GPT2,
        "lora",
        2099514880,
        589824,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-169c057ca4",
        GPT2,
        "full",
        2310314496,
        124439808,
        {"attn_implementation": "eager", "batch_size": 2, "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-d4a2909d38",
        GPT2,
        "full",
        1159812608,
        124439808,
        {"gradient_checkpointing": True, "optim": "adamw_bnb_8bit", "seq_len": 1024},
    ),
    (
        "sim-7813c91e4e",
        GPT2,
        "full",
        4729110016,
        124439808,
        {"dtype": "float32", "mixed_precision": "bf16", "optim": "adamw_torch_fused", "padding": True, "seq_len": 2048},
    ),
    (
        "sim-f3f544ebca",
        GPTJ,
        "qlora",
        5979974144,
        33030144,
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
        "sim-211371fd9b",
        GPTJ,
        "full",
        48481400320,
        6050882784,
        {
            "attn_implementation": "eager",
            "batch_size": 4,
            "gradient_checkpointing": True,
            "optim": "adamw_torch_fused",
            "seq_len": 512,
        },
    ),
    (
        "sim-dd2c674836",
        GPTJ,
        "lora",
        14304669184,
        33030144,
        {
            "attn_implementation": "eager",
            "gradient_checkpointing": True,
            "optim": "adamw_torch_fused",
            "seq_len": 2048,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
        },
    ),
    ("sim-a6f6024fd1", PYTHIA, "full", 14163527168, 1414647808, {"optim": "adamw_torch", "seq_len": 512}),
    (
        "sim-865da40a56",
        PYTHIA,
        "lora",
        3840940032,
        3145728,
        {"optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-492f9d2d29",
        PYTHIA,
        "lora",
        4443744256,
        12582912,
        {
            "gradient_checkpointing": True,
            "optim": "adamw_torch_fused",
            "seq_len": 2048,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
        },
    ),
    (
        "sim-28fe749a8a",
        PYTHIA,
        "full",
        22655758336,
        1414647808,
        {"dtype": "float32", "mixed_precision": "bf16", "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-029ab4179e",
        PYTHIA,
        "qlora",
        4104304640,
        50331648,
        {
            "optim": "adamw_torch",
            "seq_len": 512,
            "peft": {"lora_alpha": 32, "r": 64, "target_modules": "all-linear"},
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
        "sim-4d994534e1",
        PYTHIA,
        "lora",
        7111428096,
        3145728,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-b8c9cee7eb",
        PYTHIA,
        "full",
        11849994240,
        1414647808,
        {"attn_implementation": "eager", "batch_size": 2, "optim": "adamw_torch_fused", "seq_len": 512},
    ),
]

TOTALS = [
    (GPT2, 124439808),
    (GPTJ, 6050882784),
    (PYTHIA, 1414647808),
]
"""As ``model.parameters()`` counts them: tied weights once, no buffers."""


def test_totals(size: tuple[dict[str, Any], int]) -> None:
    config, total = size
    assert build(config).total_parameters() == total


def test_simulated_cells(named_row: Any, check_cell: Callable[..., None]) -> None:
    check_cell(*named_row)
