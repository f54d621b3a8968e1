"""Every variant of a decoder at a small size: the peak lies inside a layer, so each op of the layer counts.

Expected: the highest point of a step of the real code on tensors without data (transformers 5.23,
peft 0.21, torch 2.13), batch 2, 512 tokens, bf16, fused AdamW, clipping; full fine-tuning without
and LoRA (r 16, all linear layers) with gradient checkpointing.
"""

from __future__ import annotations

from typing import Any

import pytest
from small_models import SIMULATED, estimate

# name, attention, config, peak and parameters of full fine-tuning, peak and parameters of LoRA
VARIANTS: list[tuple[str, str, dict[str, Any], int, int, int, int]] = [
    ("mistral-gqa", "sdpa", {"model_type": "mistral", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 1000,
     "sliding_window": 256}, 524731904, 47145984, 230536192, 1163264),
    ("ministral", "sdpa", {"model_type": "ministral", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 1000,
     "head_dim": 64, "sliding_window": 256}, 524731904, 47145984, 230536192, 1163264),
    ("qwen2-sw", "sdpa", {"model_type": "qwen2", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 1000,
     "sliding_window": 256, "use_sliding_window": True, "max_window_layers": 1}, 520580608, 47152128, 230548480,
     1163264),
    ("phi4mini", "sdpa", {"model_type": "phi3", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000,
     "partial_rotary_factor": 0.75, "tie_word_embeddings": True, "resid_pdrop": 0.1, "embd_pdrop": 0.1,
     "attention_dropout": 0.1}, 547875840, 48219136, 229753856, 999424),
    ("stablelm-par", "sdpa", {"model_type": "stablelm", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000,
     "partial_rotary_factor": 0.25, "use_parallel_residual": True, "qk_layernorm": True, "hidden_dropout": 0.1},
     474097664, 47152128, 218811392, 1163264),
    ("vaultgemma", "eager", {"model_type": "vaultgemma", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000, "head_dim":
     128, "sliding_window": 256}, 680484352, 48219136, 265392640, 1196032),
    ("olmo", "sdpa", {"model_type": "olmo", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1000}, 535974912,
     53428224, 243338240, 1261568),
    ("olmo-clip", "sdpa", {"model_type": "olmo", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000, "clip_qkv":
     8.0, "tie_word_embeddings": True}, 513053184, 48209920, 234212352, 1196032),
    ("olmo3", "sdpa", {"model_type": "olmo3", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1000,
     "sliding_window": 256}, 646191616, 53445632, 251561984, 1261568),
    ("cohere", "sdpa", {"model_type": "cohere", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1000}, 543736832,
     52409344, 241030144, 1261568),
    ("cohere-qk", "sdpa", {"model_type": "cohere", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000,
     "use_qk_norm": True}, 556538880, 46123008, 234663936, 1163264),
    ("cohere2", "sdpa", {"model_type": "cohere2", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128, "sliding_window": 256}, 505988096, 46117888, 227644416, 1163264),
    ("granite", "sdpa", {"model_type": "granite", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000,
     "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.01, "logits_scaling":
     8.0, "attention_dropout": 0.1}, 507954688, 47145984, 228275200, 1163264),
    ("hyperclovax", "sdpa", {"model_type": "hyperclovax", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128}, 558372352, 47154176, 235701248, 1163264),
    ("smollm3", "sdpa", {"model_type": "smollm3", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000}, 501810176,
     46121984, 224130048, 1163264),
    ("glm", "sdpa", {"model_type": "glm", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers":
     4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim": 128}, 516646400,
     47152128, 238441472, 1097728),
    ("glm4", "sdpa", {"model_type": "glm4", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128}, 567064064, 47160320, 236364800, 1097728),
    ("nemotron", "sdpa", {"model_type": "nemotron", "hidden_size": 1024, "intermediate_size": 4096,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128}, 461795328, 46106624, 211917824, 1081344),
    ("exaone4", "sdpa", {"model_type": "exaone4", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000,
     "sliding_window": 256}, 552175104, 47147008, 234001408, 1163264),
    ("seed_oss", "sdpa", {"model_type": "seed_oss", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128}, 516386304, 47152128, 225731584, 1163264),
    ("hunyuan", "sdpa", {"model_type": "hunyuan_v1_dense", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128}, 539592192, 47147008, 231465984, 1163264),
    ("ernie", "sdpa", {"model_type": "ernie4_5", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128}, 503645184, 46121984, 224916480, 1163264),
    ("arcee", "sdpa", {"model_type": "arcee", "hidden_size": 1024, "intermediate_size": 4096,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128}, 486981120, 46097408, 220406784, 1081344),
    ("helium", "sdpa", {"model_type": "helium", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128}, 525551104, 47145984, 226448384, 1163264),
    ("cwm", "sdpa", {"model_type": "cwm", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers":
     4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim": 128,
     "sliding_window": 256}, 520537600, 47145984, 230634496, 1163264),
    ("jais2", "sdpa", {"model_type": "jais2", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128}, 359317504, 35646464, 176051200, 917504),
    ("apertus", "sdpa", {"model_type": "apertus", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000}, 507895808,
     35612680, 204077056, 917504),
    ("gemma3", "sdpa", {"model_type": "gemma3_text", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     256, "sliding_window": 256}, 783431168, 56617984, 282340864, 1327104),
    ("qwen3", "sdpa", {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 2816,
     "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "head_dim":
     128, "attention_bias": True}, 539661824, 47157248, 231486464, 1163264),
    ("neox-serial", "sdpa", {"model_type": "gpt_neox", "hidden_size": 1024, "intermediate_size": 4096,
     "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 1000, "rotary_pct": 1.0,
     "use_parallel_residual": False, "hidden_dropout": 0.1, "attention_dropout": 0.1}, 522954752, 52434944,
     223185920, 1048576),
    ("phi-qk", "sdpa", {"model_type": "phi", "hidden_size": 1024, "intermediate_size": 4096,
     "num_hidden_layers": 4, "num_attention_heads": 16, "vocab_size": 1000, "partial_rotary_factor": 0.5,
     "qk_layernorm": True, "embd_pdrop": 0.1}, 606738944, 52428776, 255390720, 1179648),
    ("falcon7", "sdpa", {"model_type": "falcon", "hidden_size": 1024, "num_hidden_layers": 4,
     "num_attention_heads": 16, "vocab_size": 1000, "multi_query": True, "parallel_attn": True}, 658050560,
     43501568, 276089856, 925696),
    ("falcon40", "sdpa", {"model_type": "falcon", "hidden_size": 1024, "num_hidden_layers": 4,
     "num_attention_heads": 16, "vocab_size": 1000, "new_decoder_architecture": True, "num_kv_heads": 4},
     438988288, 45082624, 206352384, 950272),
    ("falcon11", "sdpa", {"model_type": "falcon", "hidden_size": 1024, "num_hidden_layers": 4,
     "num_attention_heads": 16, "vocab_size": 1000, "new_decoder_architecture": True, "num_kv_heads": 4,
     "num_ln_in_parallel_attn": 1}, 430579200, 45074432, 204230656, 950272),
    ("falconrw", "sdpa", {"model_type": "falcon", "hidden_size": 1024, "num_hidden_layers": 4,
     "num_attention_heads": 16, "vocab_size": 1000, "multi_query": False, "parallel_attn": False, "alibi": True,
     "bias": True}, 497804800, 51410944, 237784064, 1048576),
    ("bigcode", "sdpa", {"model_type": "gpt_bigcode", "n_embd": 1024, "n_layer": 4, "n_head": 16, "vocab_size":
     1000, "n_positions": 2048}, 445336576, 45636096, 206045184, 925696),
    ("bigcode-mha", "sdpa", {"model_type": "gpt_bigcode", "n_embd": 1024, "n_layer": 4, "n_head": 16,
     "vocab_size": 1000, "n_positions": 2048, "multi_query": False}, 508294144, 53508096, 227194880, 1048576),
    ("neo", "eager", {"model_type": "gpt_neo", "hidden_size": 1024, "num_layers": 4, "num_heads": 16,
     "attention_types": [[["global", "local"], 2]], "vocab_size": 1000, "resid_dropout": 0.1}, 872866816,
     53495808, 327382016, 1179648),
    ("codegen", "eager", {"model_type": "codegen", "n_embd": 1024, "n_layer": 4, "n_head": 16, "vocab_size":
     1000, "rotary_dim": 32}, 834860544, 52411368, 299183104, 1048576),
    ("mpt", "eager", {"model_type": "mpt", "d_model": 1024, "n_layers": 4, "n_heads": 16, "vocab_size": 1000},
     745226240, 51364864, 289090560, 1048576),
    ("gptj", "eager", {"model_type": "gptj", "n_embd": 1024, "n_layer": 4, "n_head": 16, "vocab_size": 1000,
     "rotary_dim": 32}, 834340352, 52411368, 309152768, 1179648),
    ("gpt2", "sdpa", {"model_type": "gpt2", "n_embd": 1024, "n_layer": 4, "n_head": 16, "vocab_size": 1000},
     604763136, 52459520, 246073344, 1048576),
    ("gpt2-up", "sdpa", {"model_type": "gpt2", "n_embd": 1024, "n_layer": 4, "n_head": 16, "vocab_size": 1000,
     "reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True}, 604763136, 52459520, 246073344,
     1048576),
    ("opt350", "sdpa", {"model_type": "opt", "hidden_size": 1024, "ffn_dim": 4096, "num_hidden_layers": 4,
     "num_attention_heads": 16, "word_embed_proj_dim": 512, "vocab_size": 1000, "do_layer_norm_before": False},
     477987840, 54044672, 231063552, 1228800),
    ("bloom", "eager", {"model_type": "bloom", "hidden_size": 1024, "n_layer": 4, "n_head": 16, "vocab_size":
     1000, "apply_residual_connection_post_layernorm": True, "hidden_dropout": 0.1, "attention_dropout": 0.1},
     778583552, 51412992, 291718144, 1048576),
]


@pytest.mark.parametrize(
    ("name", "attention", "config", "full", "parameters", "lora", "trainable"), VARIANTS, ids=[v[0] for v in VARIANTS]
)
def test_variant(
    name: str, attention: str, config: dict[str, Any], full: int, parameters: int, lora: int, trainable: int
) -> None:
    """Within 0.05 % of the simulated step; what is trained is exact."""
    settings: dict[str, Any] = {
        "dtype": "bfloat16", "mixed_precision": "no", "attn_implementation": attention, "batch_size": 2,
        "seq_len": 512, "optim": "adamw_torch_fused", "max_grad_norm": 1.0, "stack": SIMULATED,
    }
    e = estimate(config, "full", gradient_checkpointing=False, **settings)
    assert e.trainable_parameters == parameters
    assert e.peak_allocated_bytes == pytest.approx(full, rel=5e-4)
    peft = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    e = estimate(config, "lora", gradient_checkpointing=True, peft=peft, **settings)
    assert e.trainable_parameters == trainable
    assert e.peak_allocated_bytes == pytest.approx(lora, rel=5e-4)
