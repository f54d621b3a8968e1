"""StableLM 2, OLMo 2 and Phi-3 at their real sizes: totals and the peaks of simulated training steps.

Expected peaks and trainable counts are from real transformers 5.23, peft 0.21, bitsandbytes 0.50
and torch 2.13 code on tensors without data; each has its cell's id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulated_rows import build

STABLELM_2: dict[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 4096,
    "model_type": "stablelm",
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "num_key_value_heads": 32,
    "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False,
    "use_qkv_bias": True,
    "vocab_size": 100352,
}
OLMO_2: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}
PHI_3: dict[str, Any] = {
    "attention_dropout": 0.0,
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "resid_pdrop": 0.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "vocab_size": 32064,
}
NAMED_ROWS: list[tuple[str, dict[str, Any], str, int, int, dict[str, Any]]] = [
    ("sim-62dd07993b", STABLELM_2, "full", 16462202368, 1644515328, {"optim": "adamw_torch", "seq_len": 512}),
    (
        "sim-94c4ae1e04",
        STABLELM_2,
        "full",
        32907355648,
        1644515328,
        {"dtype": "float32", "optim": "adamw_torch", "seq_len": 512},
    ),
    (
        "sim-b755ea0159",
        STABLELM_2,
        "qlora",
        3613009920,
        15138816,
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
        "sim-25e75fac9e",
        STABLELM_2,
        "full",
        13181759488,
        1644515328,
        {"batch_size": 4, "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-be8da656f3",
        STABLELM_2,
        "lora",
        11144652800,
        3145728,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-1ad93f1029",
        STABLELM_2,
        "lora",
        15651833856,
        3145728,
        {"optim": "adamw_torch", "seq_len": 4096, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-059a608b7c",
        STABLELM_2,
        "lora",
        9548089344,
        3145728,
        {"batch_size": 4, "optim": "adamw_torch", "padding": True, "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-70c4f6bd92",
        OLMO_2,
        "qlora",
        8844476416,
        39976960,
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
        "sim-0d56af5a5a",
        OLMO_2,
        "lora",
        18133059584,
        39976960,
        {
            "gradient_checkpointing": True,
            "optim": "adamw_torch_fused",
            "seq_len": 2048,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
        },
    ),
    (
        "sim-5b0ecda442",
        OLMO_2,
        "full",
        58414566912,
        7298617344,
        {"attn_implementation": "eager", "batch_size": 2, "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-01f76fed5e",
        OLMO_2,
        "full",
        123398057472,
        7298617344,
        {"dtype": "float32", "mixed_precision": "bf16", "optim": "adamw_torch_fused", "padding": True, "seq_len": 2048},
    ),
    (
        "sim-f4b89c9b56",
        OLMO_2,
        "lora",
        37799430144,
        39976960,
        {
            "batch_size": 4,
            "optim": "adamw_torch",
            "padding": True,
            "seq_len": 512,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
        },
    ),
    (
        "sim-0c8e079c2e",
        PHI_3,
        "qlora",
        3603382784,
        25165824,
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
        "sim-d5640e860d",
        PHI_3,
        "lora",
        11117641728,
        25165824,
        {"optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"}},
    ),
    (
        "sim-ae1f917951",
        PHI_3,
        "full",
        30628352512,
        3821079552,
        {"batch_size": 4, "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-6731bded53",
        PHI_3,
        "full",
        31171098112,
        3821079552,
        {"attn_implementation": "eager", "batch_size": 2, "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-3b16443ba0",
        PHI_3,
        "lora",
        20653432832,
        25165824,
        {
            "batch_size": 4,
            "optim": "adamw_torch",
            "padding": True,
            "seq_len": 512,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
        },
    ),
    (
        "sim-95b113a3e9",
        PHI_3,
        "lora",
        20299831296,
        12582912,
        {
            "dtype": "float32",
            "optim": "adamw_torch",
            "seq_len": 512,
            "peft": {"lora_alpha": 32, "lora_dropout": 0.05, "r": 8, "target_modules": "all-linear"},
        },
    ),
]

TOTALS = [
    (STABLELM_2, 1644515328),
    (OLMO_2, 7298617344),
    (PHI_3, 3821079552),
]
"""As ``model.parameters()`` counts them: tied weights once, no buffers."""


def test_totals(size: tuple[dict[str, Any], int]) -> None:
    config, total = size
    assert build(config).total_parameters() == total


def test_simulated_cells(named_row: Any, check_cell: Callable[..., None]) -> None:
    check_cell(*named_row)
