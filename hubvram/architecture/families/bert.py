"""BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA: post-norm encoders with absolute positions."""

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
    plain_attention,
    pooled_head,
    run_pooled_head,
    run_two_layer_head,
    two_layer_head,
)
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Module, Stack

BASES = {"bert": "bert", "electra": "electra"}
"""Attribute of the base model in the task classes; ``roberta`` for all that follow RoBERTa."""


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in transformers' configuration classes."""
    model_type = config.text("model_type", default="bert")
    base = BASES.get(model_type, "roberta")
    electra = base == "electra"
    hidden = config.positive("hidden_size", default=256 if electra else 768)
    inner = config.positive("intermediate_size", default=1024 if electra else 3072)
    layers = config.positive("num_hidden_layers", default=12)
    heads = config.positive("num_attention_heads", default=4 if electra else 12)
    vocab = config.positive("vocab_size", default=50265 if base == "roberta" else 30522)
    width = config.positive("embedding_size", default=128) if electra else hidden
    places = config.positive("max_position_embeddings", default=512)
    labels = num_labels(config)
    dropout = config.number("hidden_dropout_prob", default=0.1)
    block: dict[str, Module] = {
        "query": biased("attention.self.query", hidden, hidden),
        "key": biased("attention.self.key", hidden, hidden),
        "value": biased("attention.self.value", hidden, hidden),
        "attn_out": biased("attention.output.dense", hidden, hidden, "attn_out"),
        "attn_norm": layer_norm("attention.output.LayerNorm", hidden),
        "up": biased("intermediate.dense", hidden, inner),
        "down": biased("output.dense", inner, hidden, "mlp_out"),
        "norm": layer_norm("output.LayerNorm", hidden),
    }
    types = config.positive("type_vocab_size", default=2)
    modules = embedding_modules(f"{base}.embeddings", vocab, width, places, types)
    if width != hidden:
        modules["project"] = biased(f"{base}.embeddings_project", width, hidden)
    modules.update(pooled_head(hidden, labels, base) if base == "bert" else two_layer_head(hidden, labels))
    return Architecture(
        family="bert",
        model_type=model_type,
        class_name=None,
        task="seqcls",
        modules=modules,
        stacks={"layers": Stack(f"{base}.encoder.layer", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=places - 2 if base == "roberta" else places,
        token_dim=width,
        assumptions=head_assumption(config, labels),
        facts={
            "act": config.text("hidden_act", default="gelu"),
            "dropout": dropout,
            "attn_dropout": config.number("attention_probs_dropout_prob", default=0.1),
            "head_dropout": config.number("classifier_dropout", default=dropout),
            "base": base,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """BertForSequenceClassification.forward and its like."""
    arch = net.arch
    facts = arch.facts
    heads, dropout, attn_dropout, act = arch.num_attention_heads, facts["dropout"], facts["attn_dropout"], facts["act"]
    x = embed(g, net, batch, dropout, from_ids=facts["base"] == "roberta")
    if arch.token_dim != arch.hidden_size:
        x = net.project(g, x)
    mask = g.causal_mask(x.shape[0], x.shape[1], x.dt, batch.padding, causal=False)

    def attention(m: Any, h: Any) -> Any:
        q = heads_first(m.query(g, h), heads)
        k = heads_first(m.key(g, h), heads)
        v = heads_first(m.value(g, h), heads)
        k, v, full = net.with_prefix(g, m, k, v, mask)
        return plain_attention(g, q, k, v, full, attn_dropout)

    def layer(m: Any, x: Any) -> Any:
        h = attention(m, x)
        weights = g.returned_weights()
        h = add_norm(g, m.attn_out, m.attn_norm, h, x, dropout)
        inner = g.act(act, m.up(g, h))
        h = add_norm(g, m.down, m.norm, inner, h, dropout)
        del weights
        return h

    x = net.run(g, "layers", layer, x)
    if facts["base"] == "bert":
        logits = run_pooled_head(g, net, x, facts["head_dropout"])
    else:
        logits = run_two_layer_head(g, net, x, facts["head_dropout"], "gelu" if facts["base"] == "electra" else "tanh")
    return classification_loss(g, net, logits, batch)


FAMILY = Family(
    name="bert",
    model_types=("bert", "roberta", "xlm-roberta", "camembert", "electra"),
    build=build,
    source="transformers 5.23 models/{bert,roberta,xlm_roberta,camembert,electra}/modeling_*.py",
    examples=("google-bert/bert-base-uncased", "FacebookAI/xlm-roberta-base", "BAAI/bge-m3"),
)
