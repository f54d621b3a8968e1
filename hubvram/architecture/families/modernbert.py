"""ModernBERT: pre-norm encoder with rotary positions, gated MLP and mostly local attention."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import biased, classification_loss, head_assumption, num_labels
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack, Weight


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in ModernBertConfig."""
    hidden = config.positive("hidden_size", default=768)
    inner = config.positive("intermediate_size", default=1152)
    layers = config.positive("num_hidden_layers", default=22)
    heads = config.positive("num_attention_heads", default=12)
    vocab = config.positive("vocab_size", default=50368)
    head_dim = hidden // heads
    labels = num_labels(config)
    norm_bias = config.flag("norm_bias", default=False)
    attn_bias = config.flag("attention_bias", default=False)
    mlp_bias = config.flag("mlp_bias", default=False)

    def norm(path: str) -> Norm:
        return Norm(path, hidden, bias=norm_bias, kind="layer")

    body: dict[str, Module] = {
        "qkv": Linear("attn.Wqkv", hidden, 3 * hidden, attn_bias),
        "o": Linear("attn.Wo", hidden, hidden, attn_bias, role="attn_out"),
        "mlp_norm": norm("mlp_norm"),
        "up": Linear("mlp.Wi", hidden, 2 * inner, mlp_bias),
        "down": Linear("mlp.Wo", inner, hidden, mlp_bias, role="mlp_out"),
    }
    normed = {"attn_norm": norm("attn_norm"), **body}
    every = config.positive("global_attn_every_n_layers", default=3)
    types = config.raw("layer_types")
    if isinstance(types, list) and len(types) == layers:
        local = [t == "sliding_attention" for t in types]
    else:
        local = [bool(i % every) for i in range(layers)]
    blocks = (
        Block(body, {"norm": False, "local": local[0]}),
        Block(normed, {"norm": True, "local": False}),
        Block(normed, {"norm": True, "local": True}),
    )
    half = (head_dim // 2,)
    rotary = {
        name: Weight(f"model.rotary_emb.{name}", half, buffer=True, dtype="float32")
        for kind in ("full_attention", "sliding_attention")
        for name in (f"{kind}_inv_freq", f"{kind}_original_inv_freq")
    }
    return Architecture(
        family="modernbert",
        model_type="modernbert",
        class_name=None,
        task="seqcls",
        modules={
            "embed": Embedding("model.embeddings.tok_embeddings", vocab, hidden),
            "embed_norm": norm("model.embeddings.norm"),
            **rotary,
            "final_norm": norm("model.final_norm"),
            "dense": Linear("head.dense", hidden, hidden, config.flag("classifier_bias", default=False)),
            "head_norm": norm("head.norm"),
            "classifier": biased("classifier", hidden, labels, "head"),
        },
        stacks={"layers": Stack("model.layers", blocks, (0, *(2 if here else 1 for here in local[1:])))},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        max_seq_len=config.positive("max_position_embeddings", default=8192),
        assumptions=head_assumption(config, labels),
        facts={
            "act": config.text("hidden_activation", default="gelu"),
            "head_act": config.text("classifier_activation", default="gelu"),
            "pooling": config.text("classifier_pooling", default="cls"),
            "window": config.positive("local_attention", default=128) // 2,
            "attn_dropout": config.number("attention_dropout", default=0.0),
            "embed_dropout": config.number("embedding_dropout", default=0.0),
            "mlp_dropout": config.number("mlp_dropout", default=0.0),
            "head_dropout": config.number("classifier_dropout", default=0.0),
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """ModernBertForSequenceClassification.forward."""
    arch = net.arch
    facts = arch.facts
    heads, d, attn_dropout = arch.num_attention_heads, arch.head_dim, facts["attn_dropout"]
    words = net.embed_tokens(g, batch)
    b, s, _ = words.shape
    x = g.dropout(g.layer_norm(words, net.embed_norm.weight, net.embed_norm.bias), facts["embed_dropout"])
    del words
    masks = {
        False: g.causal_mask(b, s, x.dt, batch.padding, causal=False),
        True: g.window_mask(b, s, x.dt, batch.padding, facts["window"]),
    }
    tables = {local: g.rotary_tables(1, s, d, x.dt) for local in (False, True)}

    def turned(x: Any, cos: Any, sin: Any) -> Any:
        """In fp32; ``x.float()`` is written twice and copies twice."""
        straight = g.mul(g.float(x), cos)
        return g.add(straight, g.mul(g.rotate_half(g.float(x)), sin))

    def rotary(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
        dt = q.dt
        q_out = turned(q, cos, sin)
        k_out = turned(k, cos, sin)
        return g.to(q_out, dt), g.to(k_out, dt)

    def attention(m: Any, h: Any) -> Any:
        qkv = m.qkv(g, h)
        q, k, v = g.split(qkv, [(b, heads, s, d)] * 3)
        q, k = rotary(q, k, *tables[m.facts["local"]])
        out = g.attention(q, k, v, masks[m.facts["local"]], causal=False, dropout=attn_dropout)
        return g.dropout(m.o(g, out), attn_dropout)

    def mlp(m: Any, h: Any) -> Any:
        up = m.up(g, h)
        half = (*up.shape[:-1], up.shape[-1] // 2)
        inner, gate = g.split(up, [half, half])
        del up
        return m.down(g, g.dropout(g.mul(g.act(facts["act"], inner), gate), facts["mlp_dropout"]))

    def layer(m: Any, x: Any) -> Any:
        out = attention(m, g.layer_norm(x, m.attn_norm.weight, m.attn_norm.bias) if m.facts["norm"] else x)
        x = g.add(x, out)
        return g.add(x, mlp(m, g.layer_norm(x, m.mlp_norm.weight, m.mlp_norm.bias)))

    x = net.run(g, "layers", layer, x)
    x = g.layer_norm(x, net.final_norm.weight, net.final_norm.bias)
    if facts["pooling"] == "mean":
        x = g.mul(x, g.bools((b, s, 1), "pooling mask"))
        x = g.scale(g.sum_tokens(x))
    else:
        x = g.slice(x, (b, arch.hidden_size))
    x = g.act(facts["head_act"], net.dense(g, x))
    x = g.layer_norm(x, net.head_norm.weight, net.head_norm.bias)
    x = g.dropout(x, facts["head_dropout"])
    return classification_loss(g, net, net.classifier(g, x), batch)


FAMILY = Family(
    name="modernbert",
    model_types=("modernbert",),
    build=build,
    source="transformers 5.23 models/modernbert/modeling_modernbert.py",
    examples=("answerdotai/ModernBERT-base",),
)
