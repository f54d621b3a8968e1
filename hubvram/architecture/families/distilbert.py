"""DistilBERT: BERT without token types and pooler."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import (
    biased,
    classification_loss,
    embed,
    embedding_modules,
    head_assumption,
    heads_first,
    layer_norm,
    num_labels,
    plain_attention,
)
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Module, Stack


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in DistilBertConfig."""
    dim = config.positive("dim", "hidden_size", default=768)
    inner = config.positive("hidden_dim", default=4 * 768)
    layers = config.positive("n_layers", "num_hidden_layers", default=6)
    heads = config.positive("n_heads", "num_attention_heads", default=12)
    vocab = config.positive("vocab_size", default=30522)
    places = config.positive("max_position_embeddings", default=512)
    labels = num_labels(config)
    block: dict[str, Module] = {
        "q": biased("attention.q_lin", dim, dim),
        "k": biased("attention.k_lin", dim, dim),
        "v": biased("attention.v_lin", dim, dim),
        "o": biased("attention.out_lin", dim, dim, "attn_out"),
        "attn_norm": layer_norm("sa_layer_norm", dim),
        "up": biased("ffn.lin1", dim, inner),
        "down": biased("ffn.lin2", inner, dim, "mlp_out"),
        "norm": layer_norm("output_layer_norm", dim),
    }
    return Architecture(
        family="distilbert",
        model_type="distilbert",
        class_name=None,
        task="seqcls",
        modules={
            **embedding_modules("distilbert.embeddings", vocab, dim, places),
            "pre_classifier": biased("pre_classifier", dim, dim, "head"),
            "classifier": biased("classifier", dim, labels, "head"),
        },
        stacks={"layers": Stack("distilbert.transformer.layer", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=dim,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=dim // heads,
        max_seq_len=places,
        assumptions=head_assumption(config, labels),
        facts={
            "act": config.text("activation", default="gelu"),
            "dropout": config.number("dropout", default=0.1),
            "attn_dropout": config.number("attention_dropout", default=0.1),
            "head_dropout": config.number("seq_classif_dropout", default=0.2),
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """DistilBertForSequenceClassification.forward."""
    arch = net.arch
    heads, facts = arch.num_attention_heads, arch.facts
    dropout = facts["dropout"]
    x = embed(g, net, batch, dropout, from_ids=False)
    mask = g.causal_mask(x.shape[0], x.shape[1], x.dt, batch.padding, causal=False)

    def attention(m: Any, h: Any) -> Any:
        q = heads_first(m.q(g, h), heads)
        k = heads_first(m.k(g, h), heads)
        v = heads_first(m.v(g, h), heads)
        out = plain_attention(g, q, k, v, mask, facts["attn_dropout"])
        return m.o(g, out)

    def ffn(m: Any, h: Any) -> Any:
        h = m.up(g, h)
        h = g.act(facts["act"], h)
        h = m.down(g, h)
        return g.dropout(h, dropout)

    def layer(m: Any, x: Any) -> Any:
        h = attention(m, x)
        weights = g.returned_weights()
        h = g.layer_norm(g.add(h, x), m.attn_norm.weight, m.attn_norm.bias)
        out = ffn(m, h)
        out = g.layer_norm(g.add(out, h), m.norm.weight, m.norm.bias)
        del weights
        return out

    x = net.run(g, "layers", layer, x)
    pooled = g.slice(x, (x.shape[0], x.shape[2]))
    pooled = net.pre_classifier(g, pooled)
    pooled = g.relu(pooled)
    pooled = g.dropout(pooled, facts["head_dropout"])
    return classification_loss(g, net, net.classifier(g, pooled), batch)


FAMILY = Family(
    name="distilbert",
    model_types=("distilbert",),
    build=build,
    source="transformers 5.23 models/distilbert/modeling_distilbert.py",
    examples=("distilbert/distilbert-base-uncased",),
)
