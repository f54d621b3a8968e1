"""Qwen3-Next: gated delta rule layers, every fourth one gated attention, experts with a shared one.

The delta rule is transformers' own PyTorch form in chunks of 64 tokens, which
runs unless flash-linear-attention is installed.
"""

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
from hubvram.architecture.families._mamba import causal_conv, conv_weights, masked
from hubvram.architecture.families._moe import EVEN, Reader, routed, sparse_block, sparse_layers
from hubvram.architecture.families._rotary import joined
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Weight
from hubvram.timeline.dtypes import F32

CHUNK = 64
"""Tokens per chunk of the gated delta rule (torch_chunk_gated_delta_rule)."""
SLOW = "The gated delta rule runs in PyTorch, as transformers does without flash-linear-attention."
DEFAULTS = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
    "num_key_value_heads": 2,
    "num_attention_heads": 16,
    "full_attention_interval": 4,
}
"""Qwen3NextConfig (transformers 5.23)."""


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    arch = _build(config, legacy=False)
    return replace(arch, legacy=lambda: _build(config, legacy=True))


def delta_modules(read: Reader, hidden: int) -> dict[str, Module]:
    """``Qwen3NextGatedDeltaNet``."""
    key = read.get("linear_key_head_dim") * read.get("linear_num_key_heads")
    heads, dim = read.get("linear_num_value_heads"), read.get("linear_value_head_dim")
    value = heads * dim
    return {
        "conv": conv_weights("linear_attn.conv1d", 2 * key + value, read.get("linear_conv_kernel_dim"), bias=False),
        "in_qkvz": Linear("linear_attn.in_proj_qkvz", hidden, 2 * key + 2 * value),
        "in_ba": Linear("linear_attn.in_proj_ba", hidden, 2 * heads),
        "dt_bias": Weight("linear_attn.dt_bias", (heads,)),
        "a_log": Weight("linear_attn.A_log", (heads,)),
        "out_norm": Norm("linear_attn.norm", dim),
        "out_proj": Linear("linear_attn.out_proj", value, hidden, role="attn_out"),
    }


def _build(config: Config, *, legacy: bool) -> Architecture:
    read = Reader(config, DEFAULTS)
    hidden = config.positive("hidden_size")
    layers = config.positive("num_hidden_layers")
    heads, kv_heads, dim = (read.get(n) for n in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    vocab = config.positive("vocab_size")
    count, width = read.get("num_experts"), read.get("moe_intermediate_size")
    bias = config.flag("attention_bias", default=False)
    norms: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden),
        "post_norm": Norm("post_attention_layernorm", hidden),
    }
    attention: dict[str, Module] = {
        **projections(hidden, heads, kv_heads, dim, bias),
        "q_proj": Linear("self_attn.q_proj", hidden, 2 * heads * dim, bias),  # with the gate of the output
        "q_norm": Norm("self_attn.q_norm", dim),
        "k_norm": Norm("self_attn.k_norm", dim),
    }
    sparse: dict[str, Module] = {
        **gated_mlp("mlp.shared_expert", hidden, read.get("shared_expert_intermediate_size"), "shared_"),
        "shared_gate": Linear("mlp.shared_expert_gate", hidden, 1),
        **routed("mlp.gate", "mlp.experts", hidden, width, count, legacy=legacy),
    }
    is_sparse = sparse_layers(config, read, layers, count)
    dense = gated_mlp("mlp", hidden, config.positive("intermediate_size", default=5632))
    types = config.raw("layer_types")
    every = read.get("full_attention_interval")
    full = [types[i] == "full_attention" if isinstance(types, list) else (i + 1) % every == 0 for i in range(layers)]
    delta = delta_modules(read, hidden)

    def block(key: tuple[bool, bool]) -> Block:
        attends, chooses = key
        parts = {**norms, **(attention if attends else delta), **(sparse if chooses else dense)}
        return Block(parts, {"attention": attends, "sparse": chooses})

    return Architecture(
        family="qwen3_next",
        model_type="qwen3_next",
        class_name=None,
        task="causal",
        modules=ends(hidden, vocab),
        stacks={"layers": stack_of("model.layers", zip(full, is_sparse, strict=True), block)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim,
        max_seq_len=config.optional("max_position_embeddings"),
        tied=tied_head(config),
        assumptions=(SLOW, EVEN) if legacy else (SLOW,),
        facts={
            "act": config.text("hidden_act", default="silu"),
            "rotary_dim": int(dim * config.rope_parameter("partial_rotary_factor", 0.25)),
            "router": "qwen",
            "normalise": config.flag("norm_topk_prob", default=True),
            "k": read.get("num_experts_per_tok"),
            "experts": count,
            "shared": "gated",
            "shared_mlp": False,
            "dropout": config.number("attention_dropout", default=0.0),
            "kernel": read.get("linear_conv_kernel_dim"),
            "key": (read.get("linear_num_key_heads"), read.get("linear_key_head_dim")),
            "value": (read.get("linear_num_value_heads"), read.get("linear_value_head_dim")),
            "peft_moe": None if legacy else "qwen2_moe",
            "legacy": legacy,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """``Qwen3NextForCausalLM.forward``."""
    x = trunk(g, net, batch)
    return net.causal_loss(g, x, batch)


def trunk(g: Any, net: Any, batch: Any) -> Any:
    """``Qwen3NextModel.forward``."""
    facts = net.arch.facts
    x = net.embed_tokens(g, batch)
    b, s = x.shape[0], x.shape[1]
    mask = g.causal_mask(b, s, x.dt, batch.padding)
    tables = g.rotary_tables(1, s, facts["rotary_dim"], x.dt)

    def mix(m: Any, h: Any) -> Any:
        return (
            attention(g, net, m, h, mask, tables) if m.facts["attention"] else delta_net(g, m, h, facts, batch.padding)
        )

    def feed_forward(m: Any, h: Any) -> Any:
        return sparse_block(g, m, h, facts["act"], facts) if m.facts["sparse"] else run_gated_mlp(g, m, h, facts["act"])

    x = net.run(g, "layers", decoder_layer(g, g.rms_norm_gemma, mix, feed_forward), x)
    return g.rms_norm_gemma(x, net.norm.weight)


def attention(g: Any, net: Any, m: Any, h: Any, mask: Any, tables: Any) -> Any:
    """``Qwen3NextAttention.forward``: half of q_proj gates the output."""
    arch, facts = net.arch, net.arch.facts
    b, s, _ = h.shape
    heads, kv_heads, dim = arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim
    q, gate = g.split(m.q_proj(g, h), [(b, s, heads, dim)] * 2)
    gate = g.clone(gate, "reshape").view(b, s, heads * dim)
    q = g.rms_norm_gemma(q, m.q_norm.weight).view(b, heads, s, dim)
    k = g.rms_norm_gemma(m.k_proj(g, h).view(b, s, kv_heads, dim), m.k_norm.weight).view(b, kv_heads, s, dim)
    v = m.v_proj(g, h).view(b, kv_heads, s, dim)
    cos, sin = tables
    q, k = joined(g, q, k, cos, sin, facts["rotary_dim"])
    k, v, mask = net.with_prefix(g, m, k, v, mask)
    out = g.attention(q, k, v, mask, dropout=facts["dropout"], bhsd=True)
    return m.o_proj(g, g.mul(out, g.sigmoid(gate)))


def delta_net(g: Any, m: Any, h: Any, facts: Any, padding: bool) -> Any:
    """``Qwen3NextGatedDeltaNet.forward``."""
    h = masked(g, h, padding)
    b, s, _ = h.shape
    (kh, kd), (vh, vd) = facts["key"], facts["value"]
    key_dim, value_dim = kh * kd, vh * vd
    qkvz, ba = m.in_qkvz(g, h), m.in_ba(g, h)
    q, k, v, z, beta, a = ordered(g, qkvz, ba, b, s, facts)
    q, k = g.clone(q, "reshape"), g.clone(k, "reshape")
    mixed = g.cat((q, k, v), (b, s, 2 * key_dim + value_dim))
    mixed = causal_conv(g, mixed.view(b, 2 * key_dim + value_dim, s), m.conv, facts["kernel"], facts["act"])
    q, k, v = g.split(mixed, [(b, s, kh, kd), (b, s, kh, kd), (b, s, vh, vd)])
    beta = g.sigmoid(beta)
    decay = g.scale(g.exp(g.float(m.a_log)), "neg")
    decay = g.mul(decay, g.softplus(g.add(g.float(a), m.dt_bias)))
    out = delta_rule(g, q, k, v, decay, beta)
    out = gated_norm(g, out, z, m.out_norm.weight)
    return m.out_proj(g, out.view(b, s, value_dim))


def ordered(g: Any, qkvz: Any, ba: Any, b: int, s: int, facts: Any) -> tuple[Any, ...]:
    """``fix_query_key_value_ordering``: parts of each key head; those of several value heads are copied."""
    (kh, kd), (vh, vd) = facts["key"], facts["value"]
    wide = (b, s, vh, vd)
    q, k, v, z = g.split(qkvz, [(b, s, kh, kd), (b, s, kh, kd), wide, wide])
    beta, a = g.split(ba, [(b, s, vh)] * 2)
    v = g.clone(v, "reshape")
    z = g.clone(z, "reshape")
    return q, k, v, z, g.clone(beta, "reshape"), g.clone(a, "reshape")


def gated_norm(g: Any, x: Any, z: Any, w: Any) -> Any:
    """``Qwen3NextRMSNormGated``: normalise, weigh, times silu of the gate in fp32."""
    src = x.dt
    y = g.rms_normalise(g.float(x))
    y = g.mul(w, g.to(y, src))
    return g.to(g.mul(y, g.silu(g.float(z))), src)


def l2norm(g: Any, x: Any) -> Any:
    """``x * rsqrt(sum(x * x) + eps)``."""
    inverse = g.rsqrt(g.add_scalar(g.sum_last(g.mul(x, x))))
    return g.mul(x, inverse)


def padded(g: Any, x: Any, shape: tuple[int, ...]) -> Any:
    """``F.pad`` by any amount, none included: a copy, and a copy of the gradient."""
    return g.expand(x, shape, "pad")


def delta_rule(g: Any, q: Any, k: Any, v: Any, decay: Any, beta: Any) -> Any:
    """``torch_chunk_gated_delta_rule``: chunks by matrix products, then a scan over chunks, all in fp32."""
    dt = q.dt
    b, s, kh, kd = q.shape
    vh, vd = v.shape[2:]
    if kh != vh:
        q = g.expand(q, (b, s, vh, kd), "repeat_interleave")
        k = g.expand(k, (b, s, vh, kd), "repeat_interleave")
    q, k, v = (g.float(x).view(b, vh, s, x.shape[-1]) for x in (q, k, v))
    beta = g.float(beta).view(b, vh, s)
    decay = decay.view(b, vh, s)
    q = l2norm(g, q)
    k = l2norm(g, k)
    q = g.scale(q)
    chunks = -(-s // CHUNK)
    total = chunks * CHUNK
    q, k, v = (padded(g, x, (b, vh, total, x.shape[-1])) for x in (q, k, v))
    beta, decay = (padded(g, x, (b, vh, total)) for x in (beta, decay))
    v_beta = g.mul(v, beta.view(b, vh, total, 1))
    k_beta = g.mul(k, beta.view(b, vh, total, 1))
    rows, square = (b, vh, chunks, CHUNK), (b, vh, chunks, CHUNK, CHUNK)
    q, k, k_beta = (x.view(*rows, kd) for x in (q, k, k_beta))
    v_beta = v_beta.view(*rows, vd)
    cumulative = g.add_scalar(decay.view(*rows))
    pair = g.exp(g.scale(g.outer_sub(cumulative, square), "masked_fill"))
    system = g.mul(g.matmul(k_beta, k, square, "ut system"), pair)
    intra = g.mul(g.matmul(q, k, square, "intra-chunk attention"), pair)
    decayed = g.mul(k_beta, g.exp(cumulative).view(*rows, 1))
    values = g.solve_triangular(system, v_beta)
    k_cumdecay = g.solve_triangular(system, decayed)
    state = g.ones((b, vh, kd, vd), F32, "recurrent state")
    out = g.ones((*rows, vd), F32, "core_attn_out")
    q = g.mul(q, g.exp(cumulative).view(*rows, 1))
    k = g.mul(k, g.exp(g.scale(g.add_scalar(cumulative))).view(*rows, 1))
    chunk_decay = g.exp(g.slice(cumulative, (b, vh, chunks)))
    for _ in range(chunks):
        out, state = chunk_step(g, values, k_cumdecay, q, k, intra, chunk_decay, state, out)
    del state
    out = out.view(b, vh, total, vd)
    if total != s:
        out = g.slice(out, (b, vh, s, vd))
    return g.to(out, dt).view(b, s, vh, vd)


def chunk_step(
    g: Any, values: Any, k_cumdecay: Any, q: Any, k: Any, intra: Any, decay: Any, state: Any, out: Any
) -> tuple[Any, Any]:
    """One chunk: read the state, attend within the chunk, write the state."""
    b, vh, _, rows, vd = values.shape
    kd = q.shape[-1]
    part, keyed, square = (b, vh, rows, vd), (b, vh, rows, kd), (b, vh, rows, rows)
    seen = g.matmul(g.slice(k_cumdecay, keyed), state, part, "state read")
    new = g.add(g.slice(values, part), g.scale(seen, "neg"))
    del seen
    inter = g.matmul(g.slice(q, keyed), state, part, "inter-chunk attention")
    result = g.add(inter, g.matmul(g.slice(intra, square), new, part, "chunk output"))
    out = g.fill_more(out, result, "core_attn_out")
    del inter, result
    written = g.matmul(g.slice(k, keyed), new, state.shape, "state write")
    state = g.add(g.mul(state, g.slice(decay, (b, vh, 1, 1))), written)
    return out, state


FAMILY = Family(
    name="qwen3_next",
    model_types=("qwen3_next",),
    build=build,
    source="transformers 5.23 models/qwen3_next/modeling_qwen3_next.py",
    examples=("Qwen/Qwen3-Next-80B-A3B-Instruct",),
)
