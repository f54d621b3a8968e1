"""Dense decoders of real sizes: totals and the peaks of simulated training steps.

Expected peaks and trainable counts are from real transformers 5.23, peft 0.21, bitsandbytes 0.50
and torch 2.13 code on tensors without data; each has its cell's id.
"""

from __future__ import annotations

from typing import Any

import pytest
from small_models import SIMULATED, estimate

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header

GPT2: dict[str, Any] = {
    "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1, "model_type": "gpt2", "n_embd":
    768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "vocab_size": 50257,
}
GPTJ: dict[str, Any] = {
    "activation_function": "gelu_new", "attn_pdrop": 0.0, "embd_pdrop": 0.0, "model_type": "gptj", "n_embd":
    4096, "n_head": 16, "n_layer": 28, "n_positions": 2048, "resid_pdrop": 0.0, "rotary_dim": 64,
    "tie_word_embeddings": False, "vocab_size": 50400,
}
PYTHIA: dict[str, Any] = {
    "hidden_act": "gelu", "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 2048,
    "model_type": "gpt_neox", "num_attention_heads": 16, "num_hidden_layers": 24, "rotary_pct": 0.25,
    "tie_word_embeddings": False, "use_parallel_residual": True, "vocab_size": 50304,
}
OPT: dict[str, Any] = {
    "_remove_final_layer_norm": False, "activation_function": "relu", "attention_dropout": 0.0,
    "do_layer_norm_before": True, "dropout": 0.1, "ffn_dim": 8192, "hidden_size": 2048,
    "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 32, "num_hidden_layers": 24,
    "vocab_size": 50272, "word_embed_proj_dim": 2048,
}
BLOOM: dict[str, Any] = {
    "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "hidden_dropout": 0.0,
    "model_type": "bloom", "n_embed": 2048, "n_layer": 24, "num_attention_heads": 16, "pretraining_tp": 2,
    "seq_length": 4096, "skip_bias_add": True, "skip_bias_add_qkv": False, "vocab_size": 250880,
}
FALCON: dict[str, Any] = {
    "alibi": False, "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "bias": False,
    "hidden_dropout": 0.0, "hidden_size": 4544, "model_type": "falcon", "multi_query": True,
    "new_decoder_architecture": False, "num_attention_heads": 71, "num_hidden_layers": 32, "parallel_attn":
    True, "vocab_size": 65024,
}
GEMMA: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "head_dim": 256, "hidden_act": "gelu", "hidden_size":
    2048, "intermediate_size": 16384, "max_position_embeddings": 8192, "model_type": "gemma",
    "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1, "vocab_size": 256000,
}
GEMMA_2: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "hidden_activation":
    "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 8192,
    "model_type": "gemma2", "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
    "sliding_window": 4096, "vocab_size": 256000,
}
STABLELM_2: dict[str, Any] = {
    "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 4096,
    "model_type": "stablelm", "num_attention_heads": 32, "num_hidden_layers": 24, "num_key_value_heads": 32,
    "partial_rotary_factor": 0.25, "tie_word_embeddings": False, "use_qkv_bias": True, "vocab_size": 100352,
}
OLMO_2: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "olmo2", "num_attention_heads":
    32, "num_hidden_layers": 32, "num_key_value_heads": 32, "tie_word_embeddings": False, "vocab_size": 100352,
}
PHI_3: dict[str, Any] = {
    "attention_dropout": 0.0, "embd_pdrop": 0.0, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size":
    8192, "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers":
    32, "num_key_value_heads": 32, "resid_pdrop": 0.0, "sliding_window": 2047, "tie_word_embeddings": False,
    "attention_bias": False, "vocab_size": 32064,
}
QWEN_3: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size":
    1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type":
    "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}
CELLS: list[tuple[str, dict[str, Any], str, int, int, dict[str, Any]]] = [
    ("sim-e97e152564", GPT2, "qlora", 655539712, 2359296, {"gradient_checkpointing": True, "mixed_precision":
     "bf16", "optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16, "target_modules":
     "all-linear"}, "quantization": {"bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_type": "nf4",
     "bnb_4bit_use_double_quant": True, "load_in_4bit": True, "prepare_model_for_kbit_training": True}}),
    ("sim-165123b98d", GPT2, "lora", 1575075328, 2359296, {"gradient_checkpointing": True, "optim":
     "adamw_torch_fused", "seq_len": 2048, "peft": {"lora_alpha": 32, "r": 16, "target_modules":
     "all-linear"}}),
    ("sim-b0bb95ed22", GPT2, "qlora", 1185474560, 9437184, {"optim": "adamw_torch", "seq_len": 512, "peft":
     {"lora_alpha": 32, "r": 64, "target_modules": "all-linear"}, "quantization": {"bnb_4bit_compute_dtype":
     "bfloat16", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "load_in_4bit": True,
     "prepare_model_for_kbit_training": True}}),
    ("sim-e9cc046604", GPT2, "lora", 2480205312, 589824, {"batch_size": 4, "optim": "adamw_torch", "padding":
     True, "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-a058d0715f", GPT2, "lora", 2099514880, 589824, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-169c057ca4", GPT2, "full", 2310314496, 124439808, {"attn_implementation": "eager", "batch_size": 2,
     "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-d4a2909d38", GPT2, "full", 1159812608, 124439808, {"gradient_checkpointing": True, "optim":
     "adamw_bnb_8bit", "seq_len": 1024}),
    ("sim-7813c91e4e", GPT2, "full", 4729110016, 124439808, {"dtype": "float32", "mixed_precision": "bf16",
     "optim": "adamw_torch_fused", "padding": True, "seq_len": 2048}),
    ("sim-f3f544ebca", GPTJ, "qlora", 5979974144, 33030144, {"attn_implementation": "eager",
     "gradient_checkpointing": True, "mixed_precision": "bf16", "optim": "adamw_torch", "seq_len": 512, "peft":
     {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"}, "quantization": {"bnb_4bit_compute_dtype":
     "bfloat16", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "load_in_4bit": True,
     "prepare_model_for_kbit_training": True}}),
    ("sim-211371fd9b", GPTJ, "full", 48481400320, 6050882784, {"attn_implementation": "eager", "batch_size": 4,
     "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-dd2c674836", GPTJ, "lora", 14304669184, 33030144, {"attn_implementation": "eager",
     "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 2048, "peft": {"lora_alpha": 32,
     "r": 16, "target_modules": "all-linear"}}),
    ("sim-a6f6024fd1", PYTHIA, "full", 14163527168, 1414647808, {"optim": "adamw_torch", "seq_len": 512}),
    ("sim-865da40a56", PYTHIA, "lora", 3840940032, 3145728, {"optim": "adamw_torch", "seq_len": 512, "peft":
     {"lora_alpha": 32, "r": 16}}),
    ("sim-492f9d2d29", PYTHIA, "lora", 4443744256, 12582912, {"gradient_checkpointing": True, "optim":
     "adamw_torch_fused", "seq_len": 2048, "peft": {"lora_alpha": 32, "r": 16, "target_modules":
     "all-linear"}}),
    ("sim-28fe749a8a", PYTHIA, "full", 22655758336, 1414647808, {"dtype": "float32", "mixed_precision": "bf16",
     "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-029ab4179e", PYTHIA, "qlora", 4104304640, 50331648, {"optim": "adamw_torch", "seq_len": 512, "peft":
     {"lora_alpha": 32, "r": 64, "target_modules": "all-linear"}, "quantization": {"bnb_4bit_compute_dtype":
     "bfloat16", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "load_in_4bit": True,
     "prepare_model_for_kbit_training": True}}),
    ("sim-4d994534e1", PYTHIA, "lora", 7111428096, 3145728, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-b8c9cee7eb", PYTHIA, "full", 11849994240, 1414647808, {"attn_implementation": "eager", "batch_size":
     2, "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-1ed31315f1", OPT, "lora", 3753526272, 3145728, {"optim": "adamw_torch", "seq_len": 512, "peft":
     {"lora_alpha": 32, "r": 16}}),
    ("sim-f75e6afdf1", OPT, "qlora", 1864516608, 14155776, {"gradient_checkpointing": True, "mixed_precision":
     "bf16", "optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16, "target_modules":
     "all-linear"}, "quantization": {"bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_type": "nf4",
     "bnb_4bit_use_double_quant": True, "load_in_4bit": True, "prepare_model_for_kbit_training": True}}),
    ("sim-b35a258c26", OPT, "lora", 4272227328, 14155776, {"gradient_checkpointing": True, "optim":
     "adamw_torch_fused", "seq_len": 2048, "peft": {"lora_alpha": 32, "r": 16, "target_modules":
     "all-linear"}}),
    ("sim-d2cf5f1cc9", OPT, "lora", 7005463552, 3145728, {"batch_size": 4, "optim": "adamw_torch", "padding":
     True, "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-b8bd3d8758", OPT, "full", 12262886400, 1315758080, {"attn_implementation": "eager", "batch_size": 2,
     "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-97955acff6", OPT, "full", 8367237120, 1315758080, {"gradient_checkpointing": True, "optim":
     "adamw_bnb_8bit", "seq_len": 1024}),
    ("sim-2314dd27a4", OPT, "full", 23319882752, 1315758080, {"dtype": "float32", "mixed_precision": "bf16",
     "optim": "adamw_torch_fused", "padding": True, "seq_len": 2048}),
    ("sim-c9c84b573a", BLOOM, "full", 17241137664, 1722408960, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 512}),
    ("sim-2547a6a207", BLOOM, "lora", 6199632896, 3145728, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-5a44aad470", BLOOM, "full", 16745991680, 1722408960, {"attn_implementation": "eager", "batch_size":
     4, "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-61e38ac943", BLOOM, "full", 29635145216, 1722408960, {"attn_implementation": "eager", "dtype":
     "float32", "mixed_precision": "bf16", "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-f8e2664711", BLOOM, "lora", 10107618304, 3145728, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-711106f006", FALCON, "full", 69234298368, 6921720704, {"optim": "adamw_torch", "seq_len": 512}),
    ("sim-9832925608", FALCON, "full", 56689515008, 6921720704, {"batch_size": 4, "gradient_checkpointing":
     True, "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-04afff1415", FALCON, "full", 111955930624, 6921720704, {"dtype": "float32", "mixed_precision":
     "bf16", "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-4cb5a395fe", FALCON, "lora", 21837058048, 4718592, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-48c1a8a532", FALCON, "lora", 191220371456, 4718592, {"optim": "adamw_torch", "seq_len": 4096, "peft":
     {"lora_alpha": 32, "r": 16}}),
    ("sim-496b474014", GEMMA, "full", 25078773760, 2506172416, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 512}),
    ("sim-121a313325", GEMMA, "qlora", 6075714048, 19611648, {"attn_implementation": "eager",
     "gradient_checkpointing": True, "mixed_precision": "bf16", "optim": "adamw_torch", "seq_len": 512, "peft":
     {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"}, "quantization": {"bnb_4bit_compute_dtype":
     "bfloat16", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "load_in_4bit": True,
     "prepare_model_for_kbit_training": True}}),
    ("sim-12d2b31a08", GEMMA, "full", 42217239040, 2506172416, {"attn_implementation": "eager", "dtype":
     "float32", "mixed_precision": "bf16", "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-75250d366c", GEMMA_2, "qlora", 6816445952, 20766720, {"attn_implementation": "eager",
     "gradient_checkpointing": True, "mixed_precision": "bf16", "optim": "adamw_torch", "seq_len": 512, "peft":
     {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"}, "quantization": {"bnb_4bit_compute_dtype":
     "bfloat16", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "load_in_4bit": True,
     "prepare_model_for_kbit_training": True}}),
    ("sim-9c0f01d4cc", GEMMA_2, "lora", 13118326784, 20766720, {"attn_implementation": "eager",
     "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 2048, "peft": {"lora_alpha": 32,
     "r": 16, "target_modules": "all-linear"}}),
    ("sim-e179d6bc9a", GEMMA_2, "lora", 20912851968, 3194880, {"attn_implementation": "eager", "batch_size": 4,
     "optim": "adamw_torch", "padding": True, "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-0a84c68d2e", GEMMA_2, "lora", 13972130816, 3194880, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-c0e6fc0416", GEMMA_2, "full", 31039837184, 2614341888, {"attn_implementation": "eager",
     "gradient_checkpointing": True, "optim": "adamw_torch_fused", "seq_len": 4096}),
    ("sim-62dd07993b", STABLELM_2, "full", 16462202368, 1644515328, {"optim": "adamw_torch", "seq_len": 512}),
    ("sim-94c4ae1e04", STABLELM_2, "full", 32907355648, 1644515328, {"dtype": "float32", "optim":
     "adamw_torch", "seq_len": 512}),
    ("sim-b755ea0159", STABLELM_2, "qlora", 3613009920, 15138816, {"gradient_checkpointing": True,
     "mixed_precision": "bf16", "optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16,
     "target_modules": "all-linear"}, "quantization": {"bnb_4bit_compute_dtype": "bfloat16",
     "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "load_in_4bit": True,
     "prepare_model_for_kbit_training": True}}),
    ("sim-25e75fac9e", STABLELM_2, "full", 13181759488, 1644515328, {"batch_size": 4, "gradient_checkpointing":
     True, "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-be8da656f3", STABLELM_2, "lora", 11144652800, 3145728, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-1ad93f1029", STABLELM_2, "lora", 15651833856, 3145728, {"optim": "adamw_torch", "seq_len": 4096,
     "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-059a608b7c", STABLELM_2, "lora", 9548089344, 3145728, {"batch_size": 4, "optim": "adamw_torch",
     "padding": True, "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-70c4f6bd92", OLMO_2, "qlora", 8844476416, 39976960, {"gradient_checkpointing": True,
     "mixed_precision": "bf16", "optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16,
     "target_modules": "all-linear"}, "quantization": {"bnb_4bit_compute_dtype": "bfloat16",
     "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "load_in_4bit": True,
     "prepare_model_for_kbit_training": True}}),
    ("sim-0d56af5a5a", OLMO_2, "lora", 18133059584, 39976960, {"gradient_checkpointing": True, "optim":
     "adamw_torch_fused", "seq_len": 2048, "peft": {"lora_alpha": 32, "r": 16, "target_modules":
     "all-linear"}}),
    ("sim-5b0ecda442", OLMO_2, "full", 58414566912, 7298617344, {"attn_implementation": "eager", "batch_size":
     2, "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-01f76fed5e", OLMO_2, "full", 123398057472, 7298617344, {"dtype": "float32", "mixed_precision":
     "bf16", "optim": "adamw_torch_fused", "padding": True, "seq_len": 2048}),
    ("sim-f4b89c9b56", OLMO_2, "lora", 37799430144, 39976960, {"batch_size": 4, "optim": "adamw_torch",
     "padding": True, "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"}}),
    ("sim-0c8e079c2e", PHI_3, "qlora", 3603382784, 25165824, {"gradient_checkpointing": True,
     "mixed_precision": "bf16", "optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16,
     "target_modules": "all-linear"}, "quantization": {"bnb_4bit_compute_dtype": "bfloat16",
     "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "load_in_4bit": True,
     "prepare_model_for_kbit_training": True}}),
    ("sim-d5640e860d", PHI_3, "lora", 11117641728, 25165824, {"optim": "adamw_torch", "seq_len": 512, "peft":
     {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"}}),
    ("sim-ae1f917951", PHI_3, "full", 30628352512, 3821079552, {"batch_size": 4, "gradient_checkpointing":
     True, "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-6731bded53", PHI_3, "full", 31171098112, 3821079552, {"attn_implementation": "eager", "batch_size":
     2, "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-3b16443ba0", PHI_3, "lora", 20653432832, 25165824, {"batch_size": 4, "optim": "adamw_torch",
     "padding": True, "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16, "target_modules": "all-linear"}}),
    ("sim-95b113a3e9", PHI_3, "lora", 20299831296, 12582912, {"dtype": "float32", "optim": "adamw_torch",
     "seq_len": 512, "peft": {"lora_alpha": 32, "lora_dropout": 0.05, "r": 8, "target_modules": "all-linear"}}),
    ("sim-c05faf518f", QWEN_3, "full", 5977619968, 596049920, {"optim": "adamw_torch", "seq_len": 512}),
    ("sim-f72e90e406", QWEN_3, "full", 11938047488, 596049920, {"dtype": "float32", "optim": "adamw_torch",
     "seq_len": 512}),
    ("sim-9784e8a7c2", QWEN_3, "qlora", 2294386688, 10092544, {"gradient_checkpointing": True,
     "mixed_precision": "bf16", "optim": "adamw_torch", "seq_len": 512, "peft": {"lora_alpha": 32, "r": 16,
     "target_modules": "all-linear"}, "quantization": {"bnb_4bit_compute_dtype": "bfloat16",
     "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "load_in_4bit": True,
     "prepare_model_for_kbit_training": True}}),
    ("sim-b163bac7e8", QWEN_3, "full", 7462046720, 596049920, {"batch_size": 4, "gradient_checkpointing": True,
     "optim": "adamw_torch_fused", "seq_len": 512}),
    ("sim-8fca769a56", QWEN_3, "lora", 5191380992, 10092544, {"gradient_checkpointing": True, "optim":
     "adamw_torch_fused", "seq_len": 2048, "peft": {"lora_alpha": 32, "r": 16, "target_modules":
     "all-linear"}}),
    ("sim-21e49da4e1", QWEN_3, "lora", 7623901184, 2293760, {"attn_implementation": "eager", "optim":
     "adamw_torch", "seq_len": 1024, "peft": {"lora_alpha": 32, "r": 16}}),
    ("sim-b61c9d9422", QWEN_3, "lora", 15535419392, 2293760, {"optim": "adamw_torch", "seq_len": 4096, "peft":
     {"lora_alpha": 32, "r": 16}}),
]

TOTALS = [
    (PYTHIA, 1414647808),
    (FALCON, 6921720704),
    (BLOOM, 1722408960),
    (GEMMA, 2506172416),
    (GPTJ, 6050882784),
    (GPT2, 124439808),
    (OPT, 1315758080),
    (QWEN_3, 596049920),
    (STABLELM_2, 1644515328),
    (PHI_3, 3821079552),
    (OLMO_2, 7298617344),
    (GEMMA_2, 2614341888),
]
"""As ``model.parameters()`` counts them: tied weights once, no buffers."""


@pytest.mark.parametrize(("config", "total"), TOTALS, ids=[c["model_type"] for c, _ in TOTALS])
def test_totals(config: dict[str, Any], total: int) -> None:
    family = families.find(config["model_type"])
    assert family is not None
    assert family.build(Config(config), Header(())).total_parameters() == total


@pytest.mark.parametrize(("cell", "config", "method", "peak", "trainable", "given"), CELLS, ids=[c[0] for c in CELLS])
def test_simulated_cells(
    cell: str, config: dict[str, Any], method: str, peak: int, trainable: int, given: dict[str, Any]
) -> None:
    """Within 0.1 % of the simulated step; what is trained is exact."""
    settings: dict[str, Any] = {
        "dtype": "bfloat16", "mixed_precision": "no", "attn_implementation": "sdpa", "gradient_checkpointing": False,
        "batch_size": 1,
    }
    e = estimate(config, method, max_grad_norm=1.0, stack=SIMULATED, **{**settings, **given})
    assert e.trainable_parameters == trainable
    assert e.peak_allocated_bytes == pytest.approx(peak, rel=1e-3)
