"""OPT: learned positions, LayerNorm before or after, plain MLP with ReLU, projections around 350m's small tables."""

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
    hidden = config.positive("hidden_size", default=768)
    inner = config.positive("ffn_dim", default=3072)
    layers = config.positive("num_hidden_layers", default=12)
    heads = config.positive("num_attention_heads", default=12)
    vocab = config.positive("vocab_size", default=50272)
    width = config.optional("word_embed_proj_dim") or hidden
    positions = config.positive("max_position_embeddings", default=2048)
    bias = config.flag("enable_bias", default=True)
    affine = config.flag("layer_norm_elementwise_affine", default=True)
    before = config.flag("do_layer_norm_before", default=True)
    block: dict[str, Module] = {
        "k_proj": Linear("self_attn.k_proj", hidden, hidden, bias),
        "v_proj": Linear("self_attn.v_proj", hidden, hidden, bias),
        "q_proj": Linear("self_attn.q_proj", hidden, hidden, bias),
        "out_proj": Linear("self_attn.out_proj", hidden, hidden, bias, role="attn_out"),
        "attn_norm": Norm("self_attn_layer_norm", hidden, bias=affine, weight=affine, kind="layer"),
        "fc1": Linear("fc1", hidden, inner, bias),
        "fc2": Linear("fc2", inner, hidden, bias, role="mlp_out"),
        "final_norm": Norm("final_layer_norm", hidden, bias=affine, weight=affine, kind="layer"),
    }
    modules: dict[str, Module] = {
        "embed": Embedding("model.decoder.embed_tokens", vocab, width),
        "positions": Embedding("model.decoder.embed_positions", positions + 2, hidden),
    }
    if width != hidden:
        modules["project_out"] = Linear("model.decoder.project_out", hidden, width)
        modules["project_in"] = Linear("model.decoder.project_in", width, hidden)
    if before and not config.flag("_remove_final_layer_norm", default=False):
        modules["norm"] = Norm("model.decoder.final_layer_norm", hidden, bias=affine, weight=affine, kind="layer")
    modules["lm_head"] = Linear("lm_head", width, vocab, role="head")
    return Architecture(
        family="opt",
        model_type="opt",
        class_name="OPTForCausalLM",
        task="causal",
        modules=modules,
        stacks={"layers": Stack("model.decoder.layers", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=positions,
        tied=tied_head(config, default=True),
        token_dim=width,
        facts={
            "act": config.text("activation_function", default="relu"),
            "before": before,
            "dropout": config.number("dropout", default=0.1),
            "attention_dropout": config.number("attention_dropout", default=0.0),
            "projected": width != hidden,
            "normed": "norm" in modules,
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """OPTDecoder.forward: the last hidden states; masks and tables die with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s = x.shape[0], x.shape[1]
    heads, d = arch.num_attention_heads, arch.head_dim
    dense = g.ones((b, s), F32, "attention mask of ones")
    ids = g.ids(b, s)
    mask = g.causal_mask(b, s, x.dt, batch.padding)
    positions = g.embedding(g.ids(b, s), net.positions.weight, "embed_positions")
    if facts["projected"]:
        x = net.project_in(g, x)
    embedded = x
    x = g.add(x, positions)

    def attention(m: Any, h: Any) -> Any:
        q = g.scale(m.q_proj(g, h), "query scale").view(b, heads, s, d)
        k = m.k_proj(g, h)
        v = m.v_proj(g, h)
        k = k.view(b, heads, s, d)
        v = v.view(b, heads, s, d)
        k, v, m_mask = net.with_prefix(g, m, k, v, mask)
        return m.out_proj(g, g.attention(q, k, v, m_mask, dropout=facts["attention_dropout"]))

    def layer(m: Any, x: Any) -> Any:
        h = x
        if facts["before"]:
            h = g.layer_norm(h, m.attn_norm.weight, m.attn_norm.bias)
        h = attention(m, h)
        h = g.dropout(h, facts["dropout"])
        h = g.add(x, h)
        if not facts["before"]:
            h = g.layer_norm(h, m.attn_norm.weight, m.attn_norm.bias)
        x = h
        if facts["before"]:
            h = g.layer_norm(h, m.final_norm.weight, m.final_norm.bias)
        h = m.fc1(g, h)
        h = g.act(facts["act"], h)
        h = m.fc2(g, h)
        h = g.dropout(h, facts["dropout"])
        h = g.add(x, h)
        if not facts["before"]:
            h = g.layer_norm(h, m.final_norm.weight, m.final_norm.bias)
        return h

    x = net.run(g, "layers", layer, x)
    del embedded, positions, dense, ids
    if facts["normed"]:
        x = g.layer_norm(x, net.norm.weight, net.norm.bias)
    if facts["projected"]:
        x = net.project_out(g, x)
    return x


def forward(g: Any, net: Any, batch: Any) -> Any:
    """OPTForCausalLM.forward."""
    x = decode(g, net, batch)
    return causal_loss(g, net, x, batch)


FAMILY = Family(
    name="opt",
    model_types=("opt",),
    build=build,
    source="transformers 5.23 models/opt/modeling_opt.py",
    examples=("facebook/opt-1.3b", "facebook/opt-350m"),
)
