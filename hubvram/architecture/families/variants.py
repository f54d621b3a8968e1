"""Decoders that are Llama with differences, as records of the differences.

A `Variant` says what one ``model_type`` does otherwise than Llama;
`families/llama.py` builds and runs them all. Values of ``defaults`` are those of
the configuration class, for config files that leave them out
(``configuration_*.py``, transformers 5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Bias = tuple[str, bool]
"""Config key ("" for none: always the default) and its default."""

NO: Bias = ("", False)
YES: Bias = ("", True)
ATTENTION: Bias = ("attention_bias", False)
MLP: Bias = ("mlp_bias", False)
USE: Bias = ("use_bias", True)

PRE = ("input_layernorm", None, "post_attention_layernorm", None)
POST = (None, "post_attention_layernorm", None, "post_feedforward_layernorm")
BOTH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
ONE = ("input_layernorm", None, None, None)


@dataclass(frozen=True, slots=True)
class Variant:
    """One model type. The defaults of the fields are Llama's."""

    class_name: str
    norm: Literal["rms", "rms_fp32", "rms_cast", "gemma", "layer", "layer1p", "fp32_layer", "cohere"] = "rms"
    """How a norm is written; see ``llama.normalise``."""
    norm_bias: bool = False
    norms: tuple[str | None, str | None, str | None, str | None] = PRE
    """Paths of the norms before and after attention, before and after the MLP."""
    final_norm: str = "model.norm"
    parallel: Literal["", "residual_first", "residual_last", "config"] = ""
    """Attention and MLP on the same input; ``config``: if ``use_parallel_residual``."""
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """One path: a fused projection, cut by slices."""
    out: str = "self_attn.o_proj"
    qkv_bias: Bias = ATTENTION
    out_bias: Bias = ATTENTION
    qk_norm: Literal["", "head", "full", "layer", "each_head", "cohere"] = ""
    qk_norm_if: str = ""
    """Config flag that switches the norms of q and k on."""
    qk_names: tuple[str, str] = ("self_attn.q_norm", "self_attn.k_norm")
    qk_when: Literal["inline", "after", "rope"] = "inline"
    """Right after each projection, after all three, or after the rotation."""
    rotary: Literal["half", "joined", "joined_each", "interleaved", "interleaved_joined", "cohere", "ernie"] = "half"
    rotary_fp32: bool = False
    """cos and sin stay fp32; q and k are cast back after the rotation."""
    partial: float = 1.0
    """Default of ``partial_rotary_factor``."""
    tables: Literal["one", "types"] = "one"
    """``types``: cos and sin for each kind of layer."""
    window: Literal["none", "all", "qwen", "types"] = "none"
    """Which layers have ``sliding_window``."""
    pattern: int = 0
    """Under ``types`` without ``layer_types``: every n-th layer is full (0: none is; negative: the first of n)."""
    rope_only: Literal["", "sliding", "listed"] = ""
    """Layers that rotate: all, those with a window (all if there is none), those of ``no_rope_layers``."""
    mlp: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    mlp_kind: Literal["gated", "fused", "plain"] = "gated"
    mlp_bias: Bias = MLP
    act: str = "silu"
    head_bias: bool = False
    embed_scale: Literal["", "always", "embedding_multiplier"] = ""
    residual_scale: bool = False
    """Branches times ``residual_multiplier``."""
    logit_scale: bool = False
    softcap: bool = False
    """tanh caps of attention scores (eager) and logits, where the config gives them."""
    embed_dropout: str = ""
    attention_dropout: str = "attention_dropout"
    branch_dropout: str = ""
    """Config key of the dropout on attention's and the MLP's output."""
    mlp_dropout: str = ""
    """Config key of the dropout on the MLP's output alone."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = "model"
    embed: str = "embed_tokens"
    stack: str = "layers"
    head: str = "lm_head"
    grouped_qkv: bool = False
    """The fused projection lies by key heads (queries of the group, key, value): the queries are copied together."""
    sdpa: bool = True
    """Whether the class has an sdpa path; eager attention stands in where it has none."""
    optional_norms: tuple[str, ...] = ()
    """Norms that exist only under ``use_post_norm``."""


_GEMMA: Mapping[str, Any] = {"tie_word_embeddings": True, "head_dim": 256, "attention_bias": False}
_GEMMA2: Mapping[str, Any] = {
    **_GEMMA,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "sliding_window": 4096,
}

VARIANTS: Mapping[str, Variant] = {
    "llama": Variant("LlamaForCausalLM"),
    "mistral": Variant(
        "MistralForCausalLM", qkv_bias=NO, out_bias=NO, mlp_bias=NO, window="all", defaults={"sliding_window": 4096}
    ),
    "ministral": Variant(
        "MinistralForCausalLM",
        qkv_bias=NO,
        out_bias=NO,
        mlp_bias=NO,
        window="types",
        defaults={"sliding_window": 4096},
    ),
    "ministral3": Variant("Ministral3ForCausalLM", qkv_bias=NO, out_bias=NO, mlp_bias=NO, window="all"),
    "qwen2": Variant("Qwen2ForCausalLM", qkv_bias=YES, out_bias=NO, mlp_bias=NO, window="qwen"),
    "qwen3": Variant("Qwen3ForCausalLM", mlp_bias=NO, qk_norm="head", window="qwen", defaults={"head_dim": 128}),
    "phi3": Variant(
        "Phi3ForCausalLM",
        qkv=("self_attn.qkv_proj",),
        qkv_bias=NO,
        out_bias=NO,
        rotary="joined_each",
        window="all",
        mlp=("mlp.gate_up_proj", "mlp.down_proj"),
        mlp_kind="fused",
        mlp_bias=NO,
        branch_dropout="resid_pdrop",
    ),
    "phi": Variant(
        "PhiForCausalLM",
        norm="layer",
        norm_bias=True,
        norms=ONE,
        final_norm="model.final_layernorm",
        parallel="residual_last",
        out="self_attn.dense",
        qkv_bias=YES,
        out_bias=YES,
        qk_norm="layer",
        qk_norm_if="qk_layernorm",
        qk_names=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        qk_when="after",
        rotary="joined",
        partial=0.5,
        mlp=("mlp.fc1", "mlp.fc2"),
        mlp_kind="plain",
        mlp_bias=YES,
        act="gelu_new",
        head_bias=True,
        embed_dropout="embd_pdrop",
        branch_dropout="resid_pdrop",
    ),
    "stablelm": Variant(
        "StableLmForCausalLM",
        norm="layer",
        norm_bias=True,
        parallel="config",
        qkv_bias=("use_qkv_bias", False),
        out_bias=NO,
        qk_norm="each_head",
        qk_norm_if="qk_layernorm",
        qk_names=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        qk_when="after",
        rotary="joined",
        partial=0.25,
        mlp_bias=NO,
        mlp_dropout="hidden_dropout",
    ),
    "starcoder2": Variant(
        "Starcoder2ForCausalLM",
        norm="layer",
        norm_bias=True,
        qkv_bias=USE,
        out_bias=USE,
        window="all",
        mlp=("mlp.c_fc", "mlp.c_proj"),
        mlp_kind="plain",
        mlp_bias=USE,
        act="gelu_pytorch_tanh",
        embed_dropout="embedding_dropout",
        branch_dropout="residual_dropout",
        defaults={"tie_word_embeddings": True},
    ),
    "gemma": Variant(
        "GemmaForCausalLM", norm="gemma", mlp_bias=NO, act="gelu_pytorch_tanh", embed_scale="always", defaults=_GEMMA
    ),
    "gemma2": Variant(
        "Gemma2ForCausalLM",
        norm="gemma",
        norms=BOTH,
        mlp_bias=NO,
        act="gelu_pytorch_tanh",
        embed_scale="always",
        window="types",
        pattern=2,
        softcap=True,
        defaults={**_GEMMA2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "vocab_size": 256000},
    ),
    "gemma3_text": Variant(
        "Gemma3ForCausalLM",
        norm="gemma",
        norms=BOTH,
        mlp_bias=NO,
        act="gelu_pytorch_tanh",
        embed_scale="always",
        qk_norm="head",
        qk_when="after",
        window="types",
        pattern=6,
        tables="types",
        softcap=True,
        defaults={**_GEMMA2, "vocab_size": 262208},
    ),
    "vaultgemma": Variant(
        "VaultGemmaForCausalLM",
        norm="gemma",
        norms=("input_layernorm", None, "pre_feedforward_layernorm", None),
        mlp_bias=NO,
        act="gelu_pytorch_tanh",
        embed_scale="always",
        window="types",
        pattern=2,
        softcap=True,
        sdpa=False,
        defaults={**_GEMMA2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "olmo": Variant("OlmoForCausalLM", norm="fp32_layer", mlp_bias=NO, rotary_fp32=True),
    "olmo2": Variant("Olmo2ForCausalLM", norm="rms_fp32", norms=POST, mlp_bias=NO, qk_norm="full", rotary_fp32=True),
    "olmo3": Variant(
        "Olmo3ForCausalLM",
        norm="rms_fp32",
        norms=POST,
        mlp_bias=NO,
        qk_norm="full",
        rotary_fp32=True,
        window="types",
        pattern=4,
        tables="types",
        defaults={"sliding_window": 4096},
    ),
    "cohere": Variant(
        "CohereForCausalLM",
        norm="cohere",
        norms=ONE,
        parallel="residual_first",
        qk_norm="cohere",
        qk_norm_if="use_qk_norm",
        qk_when="after",
        rotary="cohere",
        mlp_bias=NO,
        logit_scale=True,
        defaults={"tie_word_embeddings": True},
    ),
    "cohere2": Variant(
        "Cohere2ForCausalLM",
        norm="cohere",
        norms=ONE,
        parallel="residual_first",
        rotary="cohere",
        mlp_bias=NO,
        logit_scale=True,
        window="types",
        pattern=4,
        rope_only="sliding",
        defaults={"tie_word_embeddings": True, "sliding_window": 4096},
    ),
    "granite": Variant("GraniteForCausalLM", embed_scale="embedding_multiplier", residual_scale=True, logit_scale=True),
    "hyperclovax": Variant(
        "HyperCLOVAXForCausalLM",
        norms=("input_layernorm", "post_norm1", "post_attention_layernorm", "post_norm2"),
        optional_norms=("post_norm1", "post_norm2"),
        embed_scale="embedding_multiplier",
        residual_scale=True,
        logit_scale=True,
    ),
    "smollm3": Variant("SmolLM3ForCausalLM", rope_only="listed", defaults={"tie_word_embeddings": True}),
    "glm": Variant(
        "GlmForCausalLM",
        qkv_bias=("attention_bias", True),
        out_bias=NO,
        rotary="interleaved_joined",
        partial=0.5,
        mlp=("mlp.gate_up_proj", "mlp.down_proj"),
        mlp_kind="fused",
        mlp_bias=NO,
        defaults={"head_dim": 128},
    ),
    "glm4": Variant(
        "Glm4ForCausalLM",
        norms=("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
        qkv_bias=("attention_bias", True),
        out_bias=NO,
        rotary="interleaved_joined",
        partial=0.5,
        mlp=("mlp.gate_up_proj", "mlp.down_proj"),
        mlp_kind="fused",
        mlp_bias=NO,
        defaults={"head_dim": 128},
    ),
    "nemotron": Variant(
        "NemotronForCausalLM",
        norm="layer1p",
        norm_bias=True,
        rotary="joined",
        partial=0.5,
        mlp=("mlp.up_proj", "mlp.down_proj"),
        mlp_kind="plain",
        act="relu2",
    ),
    "exaone4": Variant(
        "Exaone4ForCausalLM",
        norms=POST,
        qkv_bias=NO,
        out_bias=NO,
        mlp_bias=NO,
        qk_norm="head",
        qk_when="after",
        window="types",
        pattern=4,
        rope_only="sliding",
        defaults={"sliding_window": 4096},
    ),
    "seed_oss": Variant(
        "SeedOssForCausalLM",
        qkv_bias=("attention_bias", True),
        out_bias=("attention_out_bias", False),
        branch_dropout="residual_dropout",
        defaults={"head_dim": 128, "attention_dropout": 0.1, "residual_dropout": 0.1},
    ),
    "hunyuan_v1_dense": Variant(
        "HunYuanDenseV1ForCausalLM",
        mlp_bias=NO,
        qk_norm="head",
        qk_when="rope",
        qk_names=("self_attn.query_layernorm", "self_attn.key_layernorm"),
    ),
    "ernie4_5": Variant(
        "Ernie4_5ForCausalLM",
        qkv_bias=("use_bias", False),
        out_bias=("use_bias", False),
        rotary="ernie",
        rotary_fp32=True,
        mlp_bias=("use_bias", False),
        attention_dropout="",
        defaults={"tie_word_embeddings": True, "head_dim": 128},
    ),
    "arcee": Variant("ArceeForCausalLM", mlp=("mlp.up_proj", "mlp.down_proj"), mlp_kind="plain", act="relu2"),
    "helium": Variant(
        "HeliumForCausalLM", norm="rms_cast", rotary="interleaved", out_bias=NO, defaults={"head_dim": 128}
    ),
    "cwm": Variant(
        "CwmForCausalLM",
        qkv_bias=NO,
        out_bias=NO,
        window="types",
        pattern=-4,
        defaults={"sliding_window": 8192, "head_dim": 128},
    ),
    "jais2": Variant(
        "Jais2ForCausalLM",
        norm="layer",
        norm_bias=True,
        qkv_bias=("attention_bias", True),
        out_bias=("attention_bias", True),
        mlp=("mlp.up_proj", "mlp.down_proj"),
        mlp_kind="plain",
        mlp_bias=("mlp_bias", True),
        act="relu2",
    ),
    "apertus": Variant(
        "ApertusForCausalLM",
        norms=("attention_layernorm", None, "feedforward_layernorm", None),
        qk_norm="head",
        qk_when="after",
        mlp=("mlp.up_proj", "mlp.down_proj"),
        mlp_kind="plain",
        mlp_bias=NO,
        act="xielu",
    ),
    "internlm2": Variant(
        "InternLM2ForCausalLM",
        norms=("attention_norm", None, "ffn_norm", None),
        qkv=("attention.wqkv",),
        out="attention.wo",
        qkv_bias=("bias", False),
        out_bias=("bias", False),
        rotary="interleaved",
        mlp=("feed_forward.w1", "feed_forward.w3", "feed_forward.w2"),
        mlp_bias=NO,
        attention_dropout="",
        embed="tok_embeddings",
        head="output",
        grouped_qkv=True,
    ),
    "exaone": Variant(
        "ExaoneForCausalLM",
        norms=("ln_1", None, "ln_2", None),
        final_norm="transformer.ln_f",
        qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        out="attn.attention.out_proj",
        qkv_bias=NO,
        out_bias=NO,
        mlp=("mlp.c_fc_0", "mlp.c_fc_1", "mlp.c_proj"),
        mlp_bias=NO,
        embed_dropout="embed_dropout",
        prefix="transformer",
        embed="wte",
        stack="h",
    ),
}
