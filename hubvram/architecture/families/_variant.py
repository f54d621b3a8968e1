"""The record of how one decoder differs from Llama; `variants.VARIANTS` holds them, `llama` builds and runs them."""

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
