"""BLOOM: ALiBi added by baddbmm, eager attention only, LayerNorm on the embeddings, a GELU of its own."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import tied_head
from hubvram.architecture.families._older import causal_loss
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack
from hubvram.timeline.dtypes import F32


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    hidden = config.positive("hidden_size", "n_embed", default=64)
    layers = config.positive("n_layer", "num_hidden_layers", default=2)
    heads = config.positive("n_head", "num_attention_heads", default=8)
    vocab = config.positive("vocab_size", default=250880)
    block: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden, bias=True, kind="layer"),
        "qkv": Linear("self_attention.query_key_value", hidden, 3 * hidden, True),
        "dense": Linear("self_attention.dense", hidden, hidden, True, role="attn_out"),
        "post_norm": Norm("post_attention_layernorm", hidden, bias=True, kind="layer"),
        "up": Linear("mlp.dense_h_to_4h", hidden, 4 * hidden, True),
        "down": Linear("mlp.dense_4h_to_h", 4 * hidden, hidden, True, role="mlp_out"),
    }
    return Architecture(
        family="bloom",
        model_type="bloom",
        class_name="BloomForCausalLM",
        task="causal",
        modules={
            "embed": Embedding("transformer.word_embeddings", vocab, hidden),
            "embed_norm": Norm("transformer.word_embeddings_layernorm", hidden, bias=True, kind="layer"),
            "norm": Norm("transformer.ln_f", hidden, bias=True, kind="layer"),
            "lm_head": Linear("lm_head", hidden, vocab, role="head"),
        },
        stacks={"layers": Stack("transformer.h", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=config.optional("seq_length", "max_position_embeddings"),
        tied=tied_head(config, default=True),
        facts={
            "post": config.flag("apply_residual_connection_post_layernorm", default=False),
            "hidden_dropout": config.number("hidden_dropout", default=0.0),
            "attention_dropout": config.number("attention_dropout", default=0.0),
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """BloomModel.forward: the last hidden states; masks and tables die with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    embedded = x
    b, s, hidden = x.shape
    heads, d = arch.num_attention_heads, arch.head_dim
    x = g.layer_norm(x, net.embed_norm.weight, net.embed_norm.bias)
    alibi = g.ones((b * heads, 1, s), x.dt, "alibi")
    mask = g.causal_mask(b, s, embedded.dt, batch.padding, implementation="eager")

    def attention(m: Any, h: Any, residual: Any) -> Any:
        fused = m.qkv(g, h)
        q = g.slice(fused, (b, heads, s, d))
        k = g.slice(fused, (b, heads, s, d))
        v = g.slice(fused, (b, heads, s, d))
        k, v, m_mask = net.with_prefix(g, m, k, v, mask)
        tokens = k.shape[2]
        if b > 1:  # heads and batch cannot be viewed as one side of what was cut from the fused tensor
            q = g.clone(q, "reshape")
            if tokens == s:
                k = g.clone(k, "reshape")
                v = g.clone(v, "reshape")
        bias = g.lower(alibi)
        scores = g.scores_on_bias(q, k, (b, heads, s, tokens), "attention scores")
        del bias
        weights = scores
        if m_mask is not None:
            weights = g.add(scores, m_mask.tensor)
        probs = g.to(g.softmax(weights, F32), q.dt)
        probs = g.dropout(probs, facts["attention_dropout"])
        context = g.matmul(probs, v, (b, heads, s, d), "attention output")
        context = g.clone(context).view(b, s, hidden)
        out = m.dense(g, context)
        return dropout_add(out, residual)

    def dropout_add(x: Any, residual: Any) -> Any:
        out = g.dropout(x, facts["hidden_dropout"])
        return g.add(residual, out)

    def mlp(m: Any, h: Any, residual: Any) -> Any:
        h = g.gelu_bloom(m.up(g, h))
        out = m.down(g, h)
        return dropout_add(out, residual)

    def layer(m: Any, x: Any) -> Any:
        h = g.layer_norm(x, m.input_norm.weight, m.input_norm.bias)
        residual = h if facts["post"] else x
        out = attention(m, h, residual)
        h = g.layer_norm(out, m.post_norm.weight, m.post_norm.bias)
        residual = h if facts["post"] else out
        return mlp(m, h, residual)

    x = net.run(g, "layers", layer, x)
    del embedded
    return g.layer_norm(x, net.norm.weight, net.norm.bias)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """BloomForCausalLM.forward."""
    x = decode(g, net, batch)
    return causal_loss(g, net, x, batch)


FAMILY = Family(
    name="bloom",
    model_types=("bloom",),
    build=build,
    source="transformers 5.23 models/bloom/modeling_bloom.py",
    examples=("bigscience/bloom-1b7", "bigscience/bloomz-7b1"),
)
