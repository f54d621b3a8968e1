"""ALBERT: one set of layer weights, applied again and again."""

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
    run_pooled_head,
)
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Module, Stack
from hubvram.errors import UnsupportedError

_MOST = 60
"""Layers: each is traced by itself here, where other families trace one of each kind. ALBERT has 12 or 24."""


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in AlbertConfig."""
    hidden = config.positive("hidden_size", default=4096)
    inner = config.positive("intermediate_size", default=16384)
    layers = config.positive("num_hidden_layers", default=12)
    if layers > _MOST:
        raise UnsupportedError(f"{config.where}: num_hidden_layers is {layers:,}, more than any ALBERT has.")
    heads = config.positive("num_attention_heads", default=64)
    groups = config.positive("num_hidden_groups", default=1)
    per_group = config.positive("inner_group_num", default=1)
    vocab = config.positive("vocab_size", default=30000)
    width = config.positive("embedding_size", default=128)
    places = config.positive("max_position_embeddings", default=512)
    labels = num_labels(config)
    block: dict[str, Module] = {}
    for i in range(per_group):
        at = f"albert_layers.{i}"
        block.update(
            {
                f"query{i}": biased(f"{at}.attention.query", hidden, hidden),
                f"key{i}": biased(f"{at}.attention.key", hidden, hidden),
                f"value{i}": biased(f"{at}.attention.value", hidden, hidden),
                f"dense{i}": biased(f"{at}.attention.dense", hidden, hidden, "attn_out"),
                f"attn_norm{i}": layer_norm(f"{at}.attention.LayerNorm", hidden),
                f"up{i}": biased(f"{at}.ffn", hidden, inner),
                f"down{i}": biased(f"{at}.ffn_output", inner, hidden, "mlp_out"),
                f"norm{i}": layer_norm(f"{at}.full_layer_layer_norm", hidden),
            }
        )
    types = config.positive("type_vocab_size", default=2)
    return Architecture(
        family="albert",
        model_type="albert",
        class_name=None,
        task="seqcls",
        modules={
            **embedding_modules("albert.embeddings", vocab, width, places, types),
            "project": biased("albert.encoder.embedding_hidden_mapping_in", width, hidden),
            "pooler": biased("albert.pooler", hidden, hidden),
            "classifier": biased("classifier", hidden, labels, "head"),
        },
        # groups of weights; ALBERT has no gradient checkpointing in transformers
        stacks={
            "layers": Stack("albert.encoder.albert_layer_groups", (Block(block),), (0,) * groups, checkpointed=False)
        },
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=places,
        token_dim=width,
        assumptions=head_assumption(config, labels),
        facts={
            "act": config.text("hidden_act", default="gelu_new"),
            "dropout": config.number("hidden_dropout_prob", default=0.0),
            "attn_dropout": config.number("attention_probs_dropout_prob", default=0.0),
            "head_dropout": config.number("classifier_dropout_prob", default=0.1),
            "groups": groups,
            "per_group": per_group,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """AlbertForSequenceClassification.forward: every application is traced, gradients add up in the shared weights."""
    arch = net.arch
    heads, facts = arch.num_attention_heads, arch.facts
    dropout = facts["dropout"]
    x = embed(g, net, batch, dropout, from_ids=False)
    mask = g.causal_mask(x.shape[0], x.shape[1], x.dt, batch.padding, causal=False)
    x = net.project(g, x)

    def attention(m: Any, i: int, h: Any) -> Any:
        q = heads_first(getattr(m, f"query{i}")(g, h), heads)
        k = heads_first(getattr(m, f"key{i}")(g, h), heads)
        v = heads_first(getattr(m, f"value{i}")(g, h), heads)
        out = plain_attention(g, q, k, v, mask, facts["attn_dropout"])
        out = getattr(m, f"dense{i}")(g, out)
        out = g.dropout(out, dropout)
        norm = getattr(m, f"attn_norm{i}")
        return g.layer_norm(g.add(h, out), norm.weight, norm.bias)

    def ffn(m: Any, i: int, h: Any) -> Any:
        out = getattr(m, f"up{i}")(g, h)
        out = g.act(facts["act"], out)
        return getattr(m, f"down{i}")(g, out)

    groups = net.layers("layers")
    per_layer = arch.num_layers / facts["groups"]
    for n in range(arch.num_layers):
        m = groups[int(n / per_layer)]
        for i in range(facts["per_group"]):
            h = attention(m, i, x)
            weights = g.returned_weights()
            out = ffn(m, i, h)
            norm = getattr(m, f"norm{i}")
            x = g.layer_norm(g.add(out, h), norm.weight, norm.bias)
            del h, out, weights
    return classification_loss(g, net, run_pooled_head(g, net, x, facts["head_dropout"]), batch)


FAMILY = Family(
    name="albert",
    model_types=("albert",),
    build=build,
    source="transformers 5.23 models/albert/modeling_albert.py",
    examples=("albert/albert-base-v2",),
)
