"""OPT, BLOOM and Falcon at their real sizes: totals and the peaks of simulated training steps.

Expected peaks and trainable counts are from real transformers 5.23, peft 0.21, bitsandbytes 0.50
and torch 2.13 code on tensors without data; each has its cell's id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulated_rows import build

OPT: dict[str, Any] = {
    "_remove_final_layer_norm": False,
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "ffn_dim": 8192,
    "hidden_size": 2048,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "vocab_size": 50272,
    "word_embed_proj_dim": 2048,
}
BLOOM: dict[str, Any] = {
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "model_type": "bloom",
    "n_embed": 2048,
    "n_layer": 24,
    "num_attention_heads": 16,
    "pretraining_tp": 2,
    "seq_length": 4096,
    "skip_bias_add": True,
    "skip_bias_add_qkv": False,
    "vocab_size": 250880,
}
FALCON: dict[str, Any] = {
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "bias": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4544,
    "model_type": "falcon",
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "parallel_attn": True,
    "vocab_size": 65024,
}
NAMED_ROWS: list[tuple[str, dict[str, Any], str, int, int, dict[str, Any]]] = [
    (
        "sim-1ed31315f1",
        OPT,
        "lora",
        3753526272,
        3145728,
        {"optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-f75e6afdf1",
        OPT,
        "qlora",
        1864516608,
        14155776,
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
        "sim-b35a258c26",
        OPT,
        "lora",
        4272227328,
        14155776,
        {
            "gradient_checkpointing": True,
            "optim": "adamw_torch_fused",
            "seq_len": 2048,
            "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"},
        },
    ),
    (
        "sim-d2cf5f1cc9",
        OPT,
        "lora",
        7005463552,
        3145728,
        {"batch_size": 4, "optim": "adamw_torch", "padding": True, "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-b8bd3d8758",
        OPT,
        "full",
        12262886400,
        1315758080,
        {"attn_implementation": "eager", "batch_size": 2, "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-97955acff6",
        OPT,
        "full",
        8367237120,
        1315758080,
        {"gradient_checkpointing": True, "optim": "adamw_bnb_8bit", "seq_len": 1024},
    ),
    (
        "sim-2314dd27a4",
        OPT,
        "full",
        23319882752,
        1315758080,
        {"dtype": "float32", "mixed_precision": "bf16", "optim": "adamw_torch_fused", "padding": True, "seq_len": 2048},
    ),
    (
        "sim-c9c84b573a",
        BLOOM,
        "full",
        17241137664,
        1722408960,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 512},
    ),
    (
        "sim-2547a6a207",
        BLOOM,
        "lora",
        6199632896,
        3145728,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-5a44aad470",
        BLOOM,
        "full",
        16745991680,
        1722408960,
        {
            "attn_implementation": "eager",
            "batch_size": 4,
            "gradient_checkpointing": True,
            "optim": "adamw_torch_fused",
            "seq_len": 512,
        },
    ),
    (
        "sim-61e38ac943",
        BLOOM,
        "full",
        29635145216,
        1722408960,
        {
            "attn_implementation": "eager",
            "dtype": "float32",
            "mixed_precision": "bf16",
            "optim": "adamw_torch_fused",
            "seq_len": 512,
        },
    ),
    (
        "sim-f8e2664711",
        BLOOM,
        "lora",
        10107618304,
        3145728,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    ("sim-711106f006", FALCON, "full", 69234298368, 6921720704, {"optim": "adamw_torch", "seq_len": 512}),
    (
        "sim-9832925608",
        FALCON,
        "full",
        56689515008,
        6921720704,
        {"batch_size": 4, "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-04afff1415",
        FALCON,
        "full",
        111955930624,
        6921720704,
        {"dtype": "float32", "mixed_precision": "bf16", "optim": "adamw_torch_fused", "seq_len": 512},
    ),
    (
        "sim-4cb5a395fe",
        FALCON,
        "lora",
        21837058048,
        4718592,
        {"attn_implementation": "eager", "optim": "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}},
    ),
    (
        "sim-48c1a8a532",
        FALCON,
        "lora",
        191220371456,
        4718592,
        {"optim": "adamw_torch", "seq_len": 4096, "peft": {"lora_alpha": 32, "r": 16}},
    ),
]

TOTALS = [
    (OPT, 1315758080),
    (BLOOM, 1722408960),
    (FALCON, 6921720704),
]
"""As ``model.parameters()`` counts them: tied weights once, no buffers."""


def test_totals(size: tuple[dict[str, Any], int]) -> None:
    config, total = size
    assert build(config).total_parameters() == total


def test_simulated_cells(named_row: Any, check_cell: Callable[..., None]) -> None:
    check_cell(*named_row)
