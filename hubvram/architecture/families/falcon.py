"""Falcon: one or few key heads beside the queries in one projection, sdpa always with a mask, ALiBi in the oldest."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import ends, tied_head
from hubvram.architecture.families._older import causal_loss
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Stack
from hubvram.timeline.dtypes import BF16, F16
from hubvram.timeline.ops.attention import Mask

PREFIX = "transformer.h.0."


def build(config: Config, header: Header) -> Architecture:
    """From config.json, with the names of transformers or of the first releases (``n_head``, ``n_head_kv``)."""
    hidden = config.positive("hidden_size", default=4544)
    layers = config.positive("num_hidden_layers", "n_layer", default=32)
    heads = config.positive("num_attention_heads", "n_head", default=71)
    vocab = config.positive("vocab_size", default=65024)
    inner = config.optional("ffn_hidden_size") or 4 * hidden
    grouped = config.flag("new_decoder_architecture", default=config.raw("n_head_kv") is not None)
    single = config.flag("multi_query", default=True) and not grouped
    parallel = config.flag("parallel_attn", default=True)
    dim = hidden // heads
    kv_heads = 1 if single else config.positive("num_kv_heads", "n_head_kv", default=heads)
    width = (kv_heads * 2 + heads) * dim if grouped or single else 3 * hidden
    norms = config.optional("num_ln_in_parallel_attn") or (2 if grouped else 1)
    bias = config.flag("bias", default=False)

    def linear(path: str, n_in: int, n_out: int, role: Any = "") -> Linear:
        return Linear(path, n_in, n_out, header.has_bias(PREFIX + path, bias), role=role, separate_bias=True)

    block: dict[str, Module] = {
        "qkv": linear("self_attention.query_key_value", hidden, width),
        "dense": linear("self_attention.dense", hidden, hidden, "attn_out"),
        "up": linear("mlp.dense_h_to_4h", hidden, inner),
        "down": linear("mlp.dense_4h_to_h", inner, hidden, "mlp_out"),
    }
    names = ["post_attention_layernorm", "input_layernorm"]
    if parallel:
        names = ["ln_attn", "ln_mlp"] if norms == 2 else ["input_layernorm"]
    for name in names:
        block[name] = Norm(name, hidden, bias=True, kind="layer")
    return Architecture(
        family="falcon",
        model_type=config.text("model_type", default="falcon"),
        class_name="FalconForCausalLM",
        task="causal",
        modules=ends(hidden, vocab, "transformer.word_embeddings", "transformer.ln_f", kind="layer"),
        stacks={"layers": Stack("transformer.h", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim,
        max_seq_len=config.optional("max_position_embeddings") or 2048,
        tied=tied_head(config, default=True),
        facts={
            "act": config.text("activation", default="gelu"),
            "grouped": grouped,
            "single": single,
            "parallel": parallel,
            "two_norms": grouped and parallel and norms == 2,
            "alibi": config.flag("alibi", default=False),
            "rotary_dim": dim,
            "hidden_dropout": config.number("hidden_dropout", default=0.0),
            "attention_dropout": config.number("attention_dropout", default=0.0),
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:  # noqa: C901 - nested functions, each of them simple, count as one
    """FalconModel.forward: the last hidden states; masks and tables die with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s, hidden = x.shape
    heads, d = arch.num_attention_heads, arch.head_dim
    kv_heads = heads if facts["grouped"] else arch.num_key_value_heads
    alibi = g.ones((b * heads, 1, s), x.dt, "alibi") if facts["alibi"] else None
    mask = g.causal_mask(b, s, x.dt, batch.padding, always=True)
    if alibi is not None and mask is not None:
        floats = g.ones((b, 1, s, s), x.dt, "causal mask")
        scaled = g.ones(alibi.shape, x.dt, "alibi scaled")
        mask = Mask(g.ones((b, heads, s, s), x.dt, "alibi mask"), heads)
        del floats, scaled
    cos, sin = g.rotary_tables(1, s, d, x.dt)

    def split_heads(fused: Any) -> tuple[Any, Any, Any]:
        q_shape = (b, heads, s, d)
        if facts["grouped"]:
            kv = (b, arch.num_key_value_heads, s, d)
            q = g.slice(fused, q_shape)
            k = g.index(fused, kv)
            v = g.index(fused, kv)
            groups = heads // arch.num_key_value_heads
            q = g.clone(q, "flatten") if groups > 1 and arch.num_key_value_heads > 1 else q
            return q, g.repeat_kv(k, heads), g.repeat_kv(v, heads)
        if facts["single"]:
            return g.slice(fused, q_shape), g.index(fused, (b, 1, s, d)), g.index(fused, (b, 1, s, d))
        return g.slice(fused, q_shape), g.slice(fused, q_shape), g.slice(fused, q_shape)

    def attention(m: Any, h: Any) -> Any:
        fused = m.qkv(g, h)
        q, k, v = split_heads(fused)
        if alibi is None:
            q, k = g.rotary(q, k, cos, sin)
        k, v, m_mask = net.with_prefix(g, m, k, v, mask)
        if g.attn == "flash_attention_2":
            return m.dense(g, g.attention(q, k, v, None, dropout=facts["attention_dropout"]))
        if g.attn == "sdpa":
            dropout = facts["attention_dropout"] if alibi is not None else 0.0
            out, bshd = g.sdpa(q, k, v, m_mask, causal=m_mask is None, dropout=dropout, gqa=False)
            if not bshd:
                out = g.clone(out)
            out = out.view(b, s, hidden)
            return m.dense(g, out)
        return eager(m, h, q, k, v, m_mask)

    def eager(m: Any, h: Any, q: Any, k: Any, v: Any, m_mask: Any) -> Any:
        shape = (b, heads, s, k.shape[2])
        q, k, v = g.lower(q), g.lower(k), g.lower(v)
        if kv_heads != heads:
            k = g.repeat_kv(k, heads)
        if b > 1:
            q, k = g.clone(q, "matmul reshape"), g.clone(k, "matmul reshape")
        scores = g.matmul(q, k, shape, "attention scores")
        if alibi is None:
            scores = g.scale_(scores)
            probs = g.softmax(g.add(scores, m_mask.tensor), h.dt)
        else:
            scores = g.float(scores) if scores.dt in (F16, BF16) else scores
            logits = g.scale_(g.add(scores, alibi))
            probs = g.softmax(g.add(logits, m_mask.tensor), h.dt)
            probs = g.dropout(probs, facts["attention_dropout"])
        if kv_heads != heads:  # broadcast by matmul itself
            v = g.repeat_kv(v, heads)
        if b > 1:
            v = g.clone(v, "matmul reshape")
        out = g.matmul(probs, v, (b, heads, s, d), "attention output")
        out = g.clone(out).view(b, s, hidden)
        return m.dense(g, out)

    def mlp(m: Any, h: Any) -> Any:
        h = g.act(facts["act"], m.up(g, h))
        return m.down(g, h)

    def norm(m: Any, name: str, h: Any) -> Any:
        table = getattr(m, name)
        return g.layer_norm(h, table.weight, table.bias)

    def layer(m: Any, x: Any) -> Any:
        residual, mlp_in = x, None
        if facts["two_norms"]:
            h = norm(m, "ln_attn", x)
            mlp_in = norm(m, "ln_mlp", x)
        else:
            h = norm(m, "input_layernorm", x)
        out = attention(m, h)
        if mlp_in is None and facts["parallel"]:
            mlp_in = h
        elif mlp_in is None:
            residual = g.add(residual, g.dropout(out, facts["attention_dropout"]))
            mlp_in = norm(m, "post_attention_layernorm", residual)
        ff = mlp(m, mlp_in)
        if facts["grouped"] or facts["parallel"]:
            ff = g.add_(ff, out)
        dropped = g.dropout(ff, facts["hidden_dropout"])
        return g.add(residual, dropped)

    x = net.run(g, "layers", layer, x)
    return g.layer_norm(x, net.norm.weight, net.norm.bias)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """FalconForCausalLM.forward."""
    x = decode(g, net, batch)
    return causal_loss(g, net, x, batch)


FAMILY = Family(
    name="falcon",
    model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
    build=build,
    source="transformers 5.23 models/falcon/modeling_falcon.py",
    examples=("tiiuae/falcon-7b", "tiiuae/falcon-40b", "tiiuae/falcon-rw-1b"),
)
