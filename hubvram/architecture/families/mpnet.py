"""MPNet: BERT with one relative position bias shared by all layers; attention written out, no sdpa."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import (
    add_norm,
    biased,
    classification_loss,
    embed,
    embedding_modules,
    head_assumption,
    heads_first,
    layer_norm,
    num_labels,
    run_two_layer_head,
    two_layer_head,
)
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Module, Stack


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in MPNetConfig."""
    hidden = config.positive("hidden_size", default=768)
    inner = config.positive("intermediate_size", default=3072)
    layers = config.positive("num_hidden_layers", default=12)
    heads = config.positive("num_attention_heads", default=12)
    vocab = config.positive("vocab_size", default=30527)
    places = config.positive("max_position_embeddings", default=512)
    labels = num_labels(config)
    block: dict[str, Module] = {
        "q": biased("attention.attn.q", hidden, hidden),
        "k": biased("attention.attn.k", hidden, hidden),
        "v": biased("attention.attn.v", hidden, hidden),
        "o": biased("attention.attn.o", hidden, hidden, "attn_out"),
        "attn_norm": layer_norm("attention.LayerNorm", hidden),
        "up": biased("intermediate.dense", hidden, inner),
        "down": biased("output.dense", inner, hidden, "mlp_out"),
        "norm": layer_norm("output.LayerNorm", hidden),
    }
    buckets = config.positive("relative_attention_num_buckets", default=32)
    return Architecture(
        family="mpnet",
        model_type="mpnet",
        class_name=None,
        task="seqcls",
        modules={
            **embedding_modules("mpnet.embeddings", vocab, hidden, places),
            "bias": Embedding("mpnet.encoder.relative_attention_bias", buckets, heads),
            **two_layer_head(hidden, labels),
        },
        # MPNet has no gradient checkpointing in transformers
        stacks={"layers": Stack("mpnet.encoder.layer", (Block(block),), (0,) * layers, checkpointed=False)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=places - 2,
        assumptions=head_assumption(config, labels),
        facts={
            "act": config.text("hidden_act", default="gelu"),
            "dropout": config.number("hidden_dropout_prob", default=0.1),
            "attn_dropout": config.number("attention_probs_dropout_prob", default=0.1),
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """MPNetForSequenceClassification.forward."""
    arch = net.arch
    heads, facts, d = arch.num_attention_heads, arch.facts, arch.head_dim
    dropout = facts["dropout"]
    x = embed(g, net, batch, dropout, from_ids=True)
    b, s, _ = x.shape
    mask = g.float_mask(b, s, s, x.dt, batch.padding)
    bias = g.relative_bias(net.bias.weight, s, s, heads, batch=b)

    def attention(m: Any, h: Any) -> Any:
        q = heads_first(m.q(g, h), heads)
        k = heads_first(m.k(g, h), heads)
        v = heads_first(m.v(g, h), heads)
        if b > 1:
            q, k = g.clone(q, "matmul reshape"), g.clone(k, "matmul reshape")
        scores = g.matmul(q, k, (b, heads, s, s), "attention scores")
        scores = g.scale(scores, "scores scale")
        scores = g.add_(scores, bias)
        if mask is not None:
            scores = g.add(scores, mask.tensor)
        probs = g.softmax(scores, None)
        probs = g.dropout(probs, facts["attn_dropout"])
        if b > 1:
            v = g.clone(v, "matmul reshape")
        out = g.matmul(probs, v, (b, heads, s, d), "attention output")
        out = g.clone(out)
        return m.o(g, out.view(b, s, heads * d))

    def layer(m: Any, x: Any) -> Any:
        h = attention(m, x)
        h = g.layer_norm(g.add(g.dropout(h, dropout), x), m.attn_norm.weight, m.attn_norm.bias)
        inner = g.act(facts["act"], m.up(g, h))
        return add_norm(g, m.down, m.norm, inner, h, dropout)

    x = net.run(g, "layers", layer, x, last_apart=bias.rg)
    return classification_loss(g, net, run_two_layer_head(g, net, x, dropout), batch)


FAMILY = Family(
    name="mpnet",
    model_types=("mpnet",),
    build=build,
    source="transformers 5.23 models/mpnet/modeling_mpnet.py",
    examples=("sentence-transformers/all-mpnet-base-v2",),
)
