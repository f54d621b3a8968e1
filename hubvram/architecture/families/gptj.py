"""GPT-J and CodeGen: rotary on part of each head, attention and MLP in parallel, scores in fp32, no sdpa."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import tied_head
from hubvram.architecture.families._gpt import pdrops, run_mlp, scores
from hubvram.architecture.families._older import causal_loss
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack, Weight
from hubvram.timeline.dtypes import F32, I64


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    hidden = config.positive("n_embd", "hidden_size", default=4096)
    layers = config.positive("n_layer", "num_hidden_layers", default=28)
    heads = config.positive("n_head", "num_attention_heads", default=16)
    positions = config.positive("n_positions", "max_position_embeddings", default=2048)
    vocab = config.positive("vocab_size", default=50400)
    inner = config.optional("n_inner") or 4 * hidden
    rotary_dim = config.optional("rotary_dim") if "rotary_dim" in config.data else 64
    model_type = config.text("model_type", default="gptj")
    fused = model_type == "codegen"
    block: dict[str, Module] = {"ln_1": Norm("ln_1", hidden, bias=True, kind="layer")}
    if fused:
        block["qkv_proj"] = Linear("attn.qkv_proj", hidden, 3 * hidden)
    else:
        block["k_proj"] = Linear("attn.k_proj", hidden, hidden)
        block["v_proj"] = Linear("attn.v_proj", hidden, hidden)
        block["q_proj"] = Linear("attn.q_proj", hidden, hidden)
    block |= {
        "out_proj": Linear("attn.out_proj", hidden, hidden, role="attn_out"),
        "sincos": Weight("attn.embed_positions", (positions, rotary_dim or hidden), buffer=True, dtype="float32"),
        "fc_in": Linear("mlp.fc_in", hidden, inner, True),
        "fc_out": Linear("mlp.fc_out", inner, hidden, True, role="mlp_out"),
    }
    return Architecture(
        family=model_type,
        model_type=model_type,
        class_name="CodeGenForCausalLM" if fused else "GPTJForCausalLM",
        task="causal",
        modules={
            "embed": Embedding("transformer.wte", vocab, hidden),
            "norm": Norm("transformer.ln_f", hidden, bias=True, kind="layer"),
            "lm_head": Linear("lm_head", hidden, vocab, header.has_bias("lm_head", True), role="head"),
        },
        stacks={"layers": Stack("transformer.h", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=positions,
        tied=tied_head(config),
        facts={
            "act": config.text("activation_function", default="gelu_new"),
            **pdrops(config, 0.0),
            "turned": rotary_dim,
            "fused": fused,
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:  # noqa: C901 - nested functions, each of them simple, count as one
    """GPTJModel.forward: the last hidden states; masks and tables die with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s, hidden = x.shape
    heads, d, rotary_dim = arch.num_attention_heads, arch.head_dim, facts["turned"]
    fused = facts["fused"]
    flash = g.attn == "flash_attention_2" and not fused
    mask = g.causal_mask(b, s, x.dt, batch.padding, implementation=None if flash else "eager")
    embedded = x
    x = g.dropout(x, facts["embd_pdrop"])

    def rotary(x: Any, dt: Any) -> Any:
        """``apply_rotary_pos_emb``: sin and cos are widened at every call."""
        width = x.shape[-1]
        sin = g.ones((1, s, 1, width), dt, "rotary sin")
        cos = g.ones((1, s, 1, width), dt, "rotary cos")
        return g.rotary_one(x, cos, sin)

    def product(q: Any, k: Any, v: Any, mask: Any) -> Any:
        """``_attn``: scores in fp32."""
        q = g.to(q, F32)
        k = g.to(k, F32)
        dt = v.dt
        w = scores(g, q, k, (b, heads, s, k.shape[2]))
        if not fused:
            w = g.scale(w, "scores scale")
        if mask is not None:
            w = g.add(w, mask.tensor)
        if fused:
            w = g.scale(w, "scores scale")
        w = g.softmax(w, None)
        w = g.to(w, dt)
        w = g.dropout(w, facts["attn_pdrop"])
        if b > 1:
            v = g.clone(v, "matmul reshape")
        return g.matmul(w, v, (b, heads, s, d), "attention output")

    def project(m: Any, h: Any) -> Any:
        """CodeGen cuts its fused tensor in four first: each of q, v and k is then copied to be viewed by heads."""
        if not fused:
            return m.q_proj(g, h), m.k_proj(g, h), m.v_proj(g, h), None
        qkv = m.qkv_proj(g, h)
        parts = g.split(qkv, [(b, s, hidden)] * 3)
        q = g.rearranged(parts[0], (b, s, hidden), "split_heads")
        k = g.rearranged(parts[2], (b, s, hidden), "split_heads")
        return q, k, g.rearranged(parts[1], (b, s, hidden), "split_heads"), (qkv, parts)

    def attention(m: Any, h: Any) -> Any:
        q, k, v, kept = project(m, h)
        q, k, v = q.view(b, s, heads, d), k.view(b, s, heads, d), v.view(b, heads, s, d)
        width = m.sincos.shape[1]
        if fused:
            dt, table, ids = F32, None, None
            sincos = g.ones((1, s, width), F32, "sin and cos")
        else:
            dt = k.dt
            table = g.ones(m.sincos.shape, F32, "embed_positions repeat")
            ids = g.ones((1, s, width), I64, "position ids repeat")
            sincos = g.to(g.ones((1, s, width), F32, "sin and cos"), dt)
        if rotary_dim is not None:
            rotated, rest = (b, s, heads, rotary_dim), (b, s, heads, d - rotary_dim)
            k_rot = g.slice(k, rotated)
            k_pass = g.slice(k, rest)
            q_rot = g.slice(q, rotated)
            q_pass = g.slice(q, rest)
            k_rot = rotary(k_rot, dt)
            q_rot = rotary(q_rot, dt)
            k = g.cat([k_rot, k_pass], k.shape)
            q = g.cat([q_rot, q_pass], q.shape)
        else:
            k = rotary(k, dt)
            q = rotary(q, dt)
        k = k.view(b, heads, s, d)
        q = q.view(b, heads, s, d)
        k, v, m_mask = net.with_prefix(g, m, k, v, mask)
        if flash:
            h = g.attention(q, k, v, m_mask, dropout=facts["attn_pdrop"])
        else:
            h = g.clone(product(q, k, v, m_mask)).view(b, s, hidden)
        h = m.out_proj(g, h)
        del table, ids, sincos, kept
        return g.dropout(h, facts["resid_pdrop"])

    def mlp(m: Any, h: Any) -> Any:
        return run_mlp(g, m.fc_in, m.fc_out, h, facts["act"], facts["resid_pdrop"])

    def layer(m: Any, x: Any) -> Any:
        h = g.layer_norm(x, m.ln_1.weight, m.ln_1.bias)
        out = attention(m, h)
        ff = mlp(m, h)
        return g.add(g.add(out, ff), x)

    x = net.run(g, "layers", layer, x)
    del embedded
    return g.layer_norm(x, net.norm.weight, net.norm.bias)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """GPTJForCausalLM.forward."""
    x = decode(g, net, batch)
    return causal_loss(g, net, x, batch, upcast=True)


FAMILY = Family(
    name="gptj",
    model_types=("gptj", "codegen"),
    build=build,
    source="transformers 5.23 models/{gptj,codegen}/modeling_*.py",
    examples=("EleutherAI/gpt-j-6b", "Salesforce/codegen-2B-multi"),
)
