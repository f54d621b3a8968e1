"""Jamba: Mamba layers with an attention layer now and then, experts in every other one; no positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import (
    decoder_layer,
    ends,
    gated_mlp,
    projections,
    run_gated_mlp,
    stack_of,
    tied_head,
)
from hubvram.architecture.families._mamba import SLOW, conv_weights, idle, mixer_modules, selective_mixer, step_rank
from hubvram.architecture.families._moe import EVEN, routed, run_experts
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Module, Norm


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    arch = _build(config, legacy=False)
    return replace(arch, legacy=lambda: _build(config, legacy=True))


def mamba_modules(config: Config, hidden: int, inner: int, states: int, rank: int) -> dict[str, Module]:
    """``JambaMambaMixer``: Mamba's, with norms on the step, B and C."""
    bias, conv_bias = config.flag("mamba_proj_bias", default=False), config.flag("mamba_conv_bias", default=True)
    conv = conv_weights("mamba.conv1d", inner, config.positive("mamba_d_conv", default=4), conv_bias)
    return {
        **mixer_modules("mamba", hidden, inner, states, rank, conv, bias, "attn_out"),
        "dt_norm": Norm("mamba.dt_layernorm", rank),
        "b_norm": Norm("mamba.b_layernorm", states),
        "c_norm": Norm("mamba.c_layernorm", states),
    }


def _build(config: Config, *, legacy: bool) -> Architecture:
    hidden = config.positive("hidden_size")
    layers = config.positive("num_hidden_layers")
    heads = config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", default=8)
    head_dim = hidden // heads
    vocab = config.positive("vocab_size")
    width = config.positive("intermediate_size")
    count = config.positive("num_experts", default=16)
    inner = config.positive("mamba_expand", default=2) * hidden
    states = config.positive("mamba_d_state", default=16)
    rank = step_rank(config, "mamba_dt_rank", hidden)
    norms: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden),
        "post_norm": Norm("pre_ff_layernorm", hidden),
    }
    attention = projections(hidden, heads, kv_heads, head_dim)
    scan = mamba_modules(config, hidden, inner, states, rank)
    sparse = routed("feed_forward.router", "feed_forward.experts", hidden, width, count, legacy=legacy)
    dense = gated_mlp("feed_forward", hidden, width)
    attn_every, attn_at = config.positive("attn_layer_period", default=8), config.whole("attn_layer_offset", default=4)
    moe_every = config.positive("expert_layer_period", default=2)
    moe_at = config.whole("expert_layer_offset", default=1)
    keys = [(i % attn_every == attn_at, count > 1 and i % moe_every == moe_at) for i in range(layers)]

    def block(key: tuple[bool, bool]) -> Block:
        attends, chooses = key
        parts = {**norms, **(attention if attends else scan), **(sparse if chooses else dense)}
        return Block(parts, {"attention": attends, "sparse": chooses})

    return Architecture(
        family="jamba",
        model_type="jamba",
        class_name=None,
        task="causal",
        modules=ends(hidden, vocab, norm="model.final_layernorm"),
        stacks={"layers": stack_of("model.layers", keys, block)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_seq_len=config.optional("max_position_embeddings"),
        tied=tied_head(config),
        assumptions=(SLOW, EVEN) if legacy else (SLOW,),
        facts={
            "act": config.text("hidden_act", default="silu"),
            "inner": inner,
            "states": states,
            "rank": rank,
            "kernel": config.positive("mamba_d_conv", default=4),
            "k": config.positive("num_experts_per_tok", default=2),
            "experts": count,
            "dropout": config.number("attention_dropout", default=0.0),
            "legacy": legacy,
            "idle": idle,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """JambaForCausalLM.forward."""
    x = trunk(g, net, batch)
    return net.causal_loss(g, x, batch)


def trunk(g: Any, net: Any, batch: Any) -> Any:
    """JambaModel.forward."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s = x.shape[0], x.shape[1]
    mask = g.causal_mask(b, s, x.dt, batch.padding)
    heads, kv_heads, dim = arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim

    def attention(m: Any, h: Any) -> Any:
        q = m.q_proj(g, h).view(b, heads, s, dim)
        k = m.k_proj(g, h).view(b, kv_heads, s, dim)
        v = m.v_proj(g, h).view(b, kv_heads, s, dim)
        k, v, own = net.with_prefix(g, m, k, v, mask)
        return m.o_proj(g, g.attention(q, k, v, own, dropout=facts["dropout"]))

    def mix(m: Any, h: Any) -> Any:
        return attention(m, h) if m.facts["attention"] else mixer(g, m, h, facts, batch.padding)

    def feed_forward(m: Any, h: Any) -> Any:
        return sparse_block(g, m, h, facts) if m.facts["sparse"] else run_gated_mlp(g, m, h, facts["act"])

    x = net.run(g, "layers", decoder_layer(g, g.rms_norm, mix, feed_forward), x)
    return g.rms_norm(x, net.norm.weight)


def sparse_block(g: Any, m: Any, h: Any, facts: Any) -> Any:
    """``JambaSparseMoeBlock.forward``: the best k, not normalised."""
    shape = h.shape
    flat = h.view(-1, shape[-1])
    if facts["legacy"]:
        logits = m.gate(g, flat)
    else:
        logits = g.linear(flat, g.opened(m.gate).value(g), None, "router")
    weights, index = g.softmax_topk(logits, facts["k"], normalise=False, cast=flat.dt)
    out = run_experts(g, m, flat, index, weights, facts["act"], facts)
    del logits
    return out.view(*shape)


def mixer(g: Any, m: Any, h: Any, facts: Any, padding: bool) -> Any:
    """``JambaMambaMixer.forward`` without kernels: Mamba's, with norms on the step, B and C."""

    def normed(step: Any, bb: Any, cc: Any) -> tuple[Any, Any, Any]:
        return g.rms_norm(step, m.dt_norm.weight), g.rms_norm(bb, m.b_norm.weight), g.rms_norm(cc, m.c_norm.weight)

    return selective_mixer(g, m, h, facts, padding, "mamba", normed, calls_packed=True)


FAMILY = Family(
    name="jamba",
    model_types=("jamba",),
    build=build,
    source="transformers 5.23 models/jamba/modeling_jamba.py",
    examples=("ai21labs/Jamba-v0.1",),
)
