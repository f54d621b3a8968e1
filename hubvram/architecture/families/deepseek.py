"""DeepSeek-V2 and V3: multi-head latent attention, experts beside shared ones, dense first layers.

V3's checkpoint holds FP8 weights with a scale per 128 x 128 block
(``weight_scale_inv``). transformers does not train FP8 weights: they are taken
as loaded in the 16-bit dtype of the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import (
    decoder_layer,
    ends,
    gated_mlp,
    run_gated_mlp,
    tied_head,
)
from hubvram.architecture.families._moe import EVEN, experts_apart, experts_of, run_experts, shared_mlp
from hubvram.architecture.families._rotary import complex_rotary
from hubvram.architecture.families._routers import route_groups
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Stack, Weight
from hubvram.timeline.dtypes import F32

DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "deepseek_v2": {
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "moe_intermediate_size": 1407,
        "first_k_dense_replace": 0,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    },
    "deepseek_v3": {
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": 3,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
    },
}
"""Defaults of transformers' config classes (5.23)."""


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    arch = _build(config, header, legacy=False)
    return replace(arch, legacy=lambda: _build(config, header, legacy=True))


def latent_attention(config: Config, size: Any, hidden: int, heads: int) -> dict[str, Module]:
    """The projections of multi-head latent attention."""
    nope, rope, value = size("qk_nope_head_dim"), size("qk_rope_head_dim"), size("v_head_dim")
    kv_rank = size("kv_lora_rank")
    q_rank = config.raw("q_lora_rank") if "q_lora_rank" in config.data else 1536
    bias = config.flag("attention_bias", default=False)
    modules: dict[str, Module] = {}
    if q_rank:
        modules["q_a_proj"] = Linear("self_attn.q_a_proj", hidden, int(q_rank), bias)
        modules["q_a_norm"] = Norm("self_attn.q_a_layernorm", int(q_rank))
        modules["q_b_proj"] = Linear("self_attn.q_b_proj", int(q_rank), heads * (nope + rope))
    else:
        modules["q_proj"] = Linear("self_attn.q_proj", hidden, heads * (nope + rope))
    modules["kv_a_proj"] = Linear("self_attn.kv_a_proj_with_mqa", hidden, kv_rank + rope, bias)
    modules["kv_a_norm"] = Norm("self_attn.kv_a_layernorm", kv_rank)
    modules["kv_b_proj"] = Linear("self_attn.kv_b_proj", kv_rank, heads * (nope + value))
    modules["o_proj"] = Linear("self_attn.o_proj", heads * value, hidden, bias, role="attn_out")
    return modules


def _build(config: Config, header: Header, *, legacy: bool) -> Architecture:
    model_type = config.text("model_type", default="deepseek_v3")
    defaults = DEFAULTS[model_type]

    def size(name: str) -> int:
        return config.whole(name, default=defaults.get(name))

    v3 = model_type == "deepseek_v3"
    hidden = config.positive("hidden_size")
    layers = config.positive("num_hidden_layers")
    heads = config.positive("num_attention_heads")
    vocab = config.positive("vocab_size")
    count = config.whole("n_routed_experts", "num_experts", default=defaults["n_routed_experts"])
    width = size("moe_intermediate_size")
    mlp_bias = config.flag("mlp_bias", default=False) and not v3
    block: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden),
        **latent_attention(config, size, hidden, heads),
        "post_norm": Norm("post_attention_layernorm", hidden),
    }
    sparse = {**block, "gate": Weight("mlp.gate.weight", (count, hidden), adaptable=True)}
    if legacy:
        sparse |= experts_apart("mlp.experts", hidden, width, count)
    else:
        sparse |= experts_of("mlp.experts", hidden, width, count)
    if v3:
        sparse["bias"] = Weight("mlp.gate.e_score_correction_bias", (count,), buffer=True)
    sparse |= gated_mlp("mlp.shared_experts", hidden, width * size("n_shared_experts"), "shared_", mlp_bias)
    first = size("first_k_dense_replace")
    dense = {**block, **gated_mlp("mlp", hidden, config.positive("intermediate_size"), "", mlp_bias)}
    blocks = (Block(dense, {"sparse": False}), Block(sparse, {"sparse": True}))
    order = tuple(int(i >= first) for i in range(layers))
    nope, rope, value = size("qk_nope_head_dim"), size("qk_rope_head_dim"), size("v_head_dim")
    return Architecture(
        family="deepseek",
        model_type=model_type,
        class_name=None,
        task="causal",
        modules=ends(hidden, vocab),
        stacks={"layers": Stack("model.layers", blocks, order)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=config.whole("num_key_value_heads", default=heads),
        head_dim=nope + rope,
        max_seq_len=config.optional("max_position_embeddings"),
        tied=tied_head(config),
        assumptions=(EVEN,) if legacy else (),
        facts={
            "act": config.text("hidden_act", default="silu"),
            "v3": v3,
            "interleave": config.flag("rope_interleave", default=True),
            "method": config.text("topk_method", default="greedy"),
            "rotary_dim": rope,
            "nope": nope,
            "value": value,
            "rank": size("kv_lora_rank"),
            "normalise": config.flag("norm_topk_prob", default=v3),
            "k": size("num_experts_per_tok"),
            "experts": count,
            "groups": config.whole("n_group", default=defaults.get("n_group", 1)),
            "best_groups": config.whole("topk_group", default=defaults.get("topk_group", 1)),
            "dropout": config.number("attention_dropout", default=0.0),
            "peft_moe": None if legacy else "qwen2_moe",
            "legacy": legacy,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """DeepseekV3ForCausalLM.forward."""
    x = trunk(g, net, batch)
    return net.causal_loss(g, x, batch)


def trunk(g: Any, net: Any, batch: Any) -> Any:
    """DeepseekV3Model.forward."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s = x.shape[0], x.shape[1]
    mask = g.causal_mask(b, s, x.dt, batch.padding)
    tables = g.rotary_tables(1, s, facts["rotary_dim"], x.dt if facts["v3"] else F32)
    act = facts["act"]

    def attend(m: Any, h: Any) -> Any:
        return attention(g, net, m, h, mask, tables)

    def feed_forward(m: Any, h: Any) -> Any:
        return sparse_block(g, m, h, act, facts) if m.facts["sparse"] else run_gated_mlp(g, m, h, act)

    x = net.run(g, "layers", decoder_layer(g, g.rms_norm, attend, feed_forward), x)
    return g.rms_norm(x, net.norm.weight)


def attention(g: Any, net: Any, m: Any, h: Any, mask: Any, tables: Any) -> Any:
    """``DeepseekV3Attention.forward``."""
    arch, facts = net.arch, net.arch.facts
    heads, nope, rope, value, rank = (
        arch.num_attention_heads,
        facts["nope"],
        facts["rotary_dim"],
        facts["value"],
        facts["rank"],
    )
    b, s, _ = h.shape
    if hasattr(m, "q_a_proj"):
        q = m.q_b_proj(g, g.rms_norm(m.q_a_proj(g, h), m.q_a_norm.weight))
    else:
        q = m.q_proj(g, h)
    q = g.copied_back(q, (b, heads, s, nope + rope))
    q_nope, q_rot = g.split(q, [(b, heads, s, nope), (b, heads, s, rope)])
    compressed = m.kv_a_proj(g, h)
    kv, k_rot = g.split(compressed, [(b, s, rank), (b, 1, s, rope)])
    kv = g.rms_norm(kv, m.kv_a_norm.weight)
    if facts["v3"] and facts["interleave"]:
        q_rot, k_rot = interleaved(g, q_rot, k_rot, *tables)
    elif facts["v3"]:
        q_rot, k_rot = g.rotary(q_rot, k_rot, *tables)
    else:
        q_rot, k_rot = complex_rotary(g, q_rot, k_rot, tables[0])
    query = g.cat((q_nope, q_rot), (b, heads, s, nope + rope))
    key, v = expand_kv(g, m, kv, k_rot, heads, nope, value)
    key, v, mask = net.with_prefix(g, m, key, v, mask)
    return m.o_proj(g, g.attention(query, key, v, mask, dropout=facts["dropout"], bhsd=True))


def expand_kv(g: Any, m: Any, kv: Any, k_rot: Any, heads: int, nope: int, value: int) -> tuple[Any, Any]:
    """Keys and values of all heads from the latent; keys are filled part by part."""
    b, s, _ = kv.shape
    wide = g.copied_back(m.kv_b_proj(g, kv), (b, heads, s, nope + value))
    k_nope, v = g.split(wide, [(b, heads, s, nope), (b, heads, s, value)])
    key = g.fill_parts((k_nope, k_rot), (b, heads, s, nope + k_rot.shape[-1]), "key states")
    return key, v


def interleaved(g: Any, q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """``apply_rotary_pos_emb_interleave``: even and odd slices."""
    half_q, half_k = (*q.shape[:-1], q.shape[-1] // 2), (*k.shape[:-1], k.shape[-1] // 2)
    q1, q2 = g.slice(q, half_q), g.slice(q, half_q)
    k1, k2 = g.slice(k, half_k), g.slice(k, half_k)
    q_out = turned(g, q1, q2, cos, sin, q.shape)
    k_out = turned(g, k1, k2, cos, sin, k.shape)
    return q_out, k_out


def turned(g: Any, x1: Any, x2: Any, cos: Any, sin: Any, shape: tuple[int, ...]) -> Any:
    """``cat([x1 cos - x2 sin, x2 cos + x1 sin])``."""
    first = g.add(g.mul(x1, cos), g.scale(g.mul(x2, sin), "neg"))
    second = g.add(g.mul(x2, cos), g.mul(x1, sin))
    return g.cat([first, second], shape)


def sparse_block(g: Any, m: Any, h: Any, act: str, facts: Mapping[str, Any]) -> Any:
    """``DeepseekV3MoE.forward``: routed experts, then the shared ones on the same input."""
    shape = h.shape
    flat = h.view(-1, shape[-1])
    logits, weights, index = (route_groups if facts["v3"] else route_v2)(g, m, flat, facts)
    out = run_experts(g, m, flat, index, weights, act, facts).view(*shape)
    out = g.add(out, shared_mlp(g, m, h, act))
    del logits
    return out


def route_v2(g: Any, m: Any, flat: Any, facts: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Softmax over experts in fp32, the best k (of the best groups), scaled."""
    opened = g.opened(m.gate)
    logits = g.linear(g.to(flat, F32), g.to(opened.value(g), F32), None, "router")
    scores = g.softmax(logits, F32)
    if facts["method"] == "group_limited_greedy":
        scores = g.scale(scores, "masked_fill")
    weights, index = g.topk(scores, facts["k"])
    return logits, g.scale(weights), index


FAMILY = Family(
    name="deepseek",
    model_types=("deepseek_v2", "deepseek_v3"),
    build=build,
    source="transformers 5.23 models/{deepseek_v2,deepseek_v3}/modeling_*.py",
    examples=("deepseek-ai/DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-V3"),
)
