"""Default ``target_modules`` per model type, as PEFT 0.21 has them (``utils/constants.py``): facts as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Names = Sequence[str]
"""Endings of module paths, or (as one string) a regular expression."""
Table = Mapping[str, Names]

_QV = ("q_proj", "v_proj")
_BERT = ("query", "value")
_QKV = ("query_key_value",)
_GEMMA4 = r".*language_model\..*\.(q_proj|v_proj)"
_QVD = ("q_proj", "v_proj", "down_proj")
_KVD = ("k_proj", "v_proj", "down_proj")
_OPT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
_SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj")
_T5 = ("q", "k", "v", "o", "wi", "wo")
_MT5 = ("q", "k", "v", "o", "wi_0", "wi_1", "wo")

LORA: Table = {
    **dict.fromkeys(
        (
            "bart",
            "opt",
            "gptj",
            "gpt_neo",
            "llama",
            "llama4",
            "mistral",
            "mixtral",
            "stablelm",
            "gemma",
            "gemma2",
            "gemma3_text",
            "qwen2",
            "qwen3",
        ),
        _QV,
    ),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "layoutlm"), _BERT),
    **dict.fromkeys(("bloom", "gpt_neox", "chatglm", "RefinedWebModel", "RefinedWeb", "falcon"), _QKV),
    "t5": ("q", "v"),
    "mt5": ("q", "v"),
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "blip-2": ("q", "v", "q_proj", "v_proj"),
    "deberta-v2": ("query_proj", "value_proj"),
    "deberta": ("in_proj",),
    "mpt": ("Wqkv",),
    "btlm": ("c_proj", "c_attn"),
    "codegen": ("qkv_proj",),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "gemma4": _GEMMA4,
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "rwkv": ("key", "value", "receptance", "output"),
    "rwkv7": ("r_proj", "k_proj", "v_proj", "o_proj", "key", "value"),
}
"""LoRA, and every method that copies LoRA's table."""

FOURIERFT: Table = {**LORA, "gpt2": ("mlp.c_proj",), "gpt_bigcode": ("mlp.c_proj",)}
"""FourierFT and C3A."""

VERA: Table = {**LORA, "phi": _QV}
"""VeRA and SHiRA."""

FROD: Table = {**VERA, "vit": _BERT}
PVERA: Table = {**VERA, "dinov2": _BERT}
ADAMSS: Table = {**LORA, "vit": _BERT}
WAVEFT: Table = {
    **{k: v for k, v in LORA.items() if k not in ("rwkv", "rwkv7", "btlm")},
    "gpt2": ("mlp.c_proj",),
    "gpt_bigcode": ("mlp.c_proj",),
}

ADALORA: Table = {
    "t5": _T5,
    "mt5": _MT5,
    "bart": _OPT,
    "opt": _OPT,
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "bloom": _QKV,
    "gpt_neox": _QKV,
    **dict.fromkeys(("gptj", "gpt_neo", "llama", "llama4", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"), _QV),
    "bert": _BERT,
    "roberta": ("query", "key", "value", "dense"),
    "deberta-v2": ("query_proj", "key_proj", "value_proj", "dense"),
    "deberta": ("in_proj",),
    "gemma4": _GEMMA4,
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
VBLORA: Table = {**ADALORA, "roberta": _BERT}

IA3: Table = {
    "t5": ("k", "v", "wo"),
    "mt5": ("k", "v", "wi_1"),
    "gpt2": ("c_attn", "mlp.c_proj"),
    "gpt_bigcode": ("c_attn", "mlp.c_proj"),
    "bloom": ("query_key_value", "mlp.dense_4h_to_h"),
    "roberta": ("key", "value", "output.dense"),
    "bert": ("key", "value", "output.dense"),
    "deberta-v2": ("key_proj", "value_proj", "output.dense"),
    "deberta": ("in_proj", "output.dense"),
    "opt": ("q_proj", "k_proj", "fc2"),
    "gptj": ("q_proj", "v_proj", "fc_out"),
    **dict.fromkeys(("gpt_neox", "RefinedWebModel", "RefinedWeb", "falcon"), ("query_key_value", "dense_4h_to_h")),
    "gpt_neo": ("q_proj", "v_proj", "c_proj"),
    "bart": ("q_proj", "v_proj", "fc2"),
    "phi": ("q_proj", "v_proj", "fc2"),
    "llama": _KVD,
    "mistral": _KVD,
    "mixtral": ("k_proj", "v_proj", "w2"),
    **dict.fromkeys(("llama4", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"), _QVD),
}
IA3_FEEDFORWARD: Table = {
    "t5": ("wo",),
    "mt5": (),
    "gpt2": ("mlp.c_proj",),
    "gpt_bigcode": ("mlp.c_proj",),
    "bloom": ("mlp.dense_4h_to_h",),
    **dict.fromkeys(("roberta", "bert", "deberta-v2", "deberta"), ("output.dense",)),
    **dict.fromkeys(("opt", "bart", "phi"), ("fc2",)),
    "gptj": ("fc_out",),
    **dict.fromkeys(("gpt_neox", "RefinedWebModel", "RefinedWeb", "falcon"), ("dense_4h_to_h",)),
    "gpt_neo": ("c_proj",),
    "mixtral": ("w2",),
    **dict.fromkeys(("llama", "llama4", "mistral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"), ("down_proj",)),
}
"""Which of IA3's targets scale their input instead of their output."""

BEFT: Table = {
    "t5": ("v",),
    "mt5": ("v",),
    "roberta": ("value",),
    "bert": ("value",),
    "deberta-v2": ("value_proj",),
    **dict.fromkeys(
        (
            "opt",
            "gptj",
            "gpt_neo",
            "bart",
            "llama",
            "llama4",
            "mistral",
            "mixtral",
            "phi",
            "gemma",
            "gemma2",
            "gemma3_text",
            "qwen2",
            "qwen3",
        ),
        ("v_proj",),
    ),
}

OSF: Table = {
    **dict.fromkeys(
        ("llama", "llama4", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "phi"), _SEVEN
    ),
    "gpt2": ("c_attn", "c_proj"),
    "gpt_bigcode": ("c_attn", "c_proj"),
    **dict.fromkeys(("bloom", "gpt_neox", "falcon"), ("query_key_value", "dense_4h_to_h")),
    "opt": _OPT,
    "gptj": ("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"),
}

_GEMMA2_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    "norm",
)
LN_TUNING: Table = {
    **dict.fromkeys(("llama", "mistral", "gemma"), ("input_layernorm", "post_attention_layernorm", "norm")),
    "bloom": ("input_layernorm", "post_attention_layernorm", "ln_f"),
    "falcon": ("input_layernorm", "post_attention_layernorm", "ln_f"),
    "llava": (
        "multi_modal_projector",
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
        "embed_tokens",
        "lm_head",
    ),
    "t5": ("layer_norm", "final_layer_norm"),
    "mt5": ("layer_norm", "final_layer_norm"),
    "bart": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    "gpt2": ("ln_1", "ln_2", "ln_f"),
    "blip-2": ("layernorm", "LayerNorm", "final_layer_norm", "self_attn_layer_norm"),
    "gptj": ("ln_1", "ln_f"),
    "phi": ("input_layernorm", "final_layernorm"),
    "gemma2": _GEMMA2_NORMS,
    "gemma3_text": _GEMMA2_NORMS,
    "qwen2": ("post_attention_layernorm",),
    "qwen3": ("post_attention_layernorm",),
}

OTHERS: Mapping[str, Table] = {
    "ADALORA": ADALORA,
    "ADAMSS": ADAMSS,
    "BEFT": BEFT,
    "C3A": FOURIERFT,
    "FOURIERFT": FOURIERFT,
    "FROD": FROD,
    "IA3": IA3,
    "LN_TUNING": LN_TUNING,
    "OSF": OSF,
    "PVERA": PVERA,
    "SHIRA": VERA,
    "VBLORA": VBLORA,
    "VERA": VERA,
    "WAVEFT": WAVEFT,
}


def table(peft_type: str | None) -> Table:
    """The table of one PEFT type: its own, or LoRA's."""
    return OTHERS.get(peft_type or "", LORA)
