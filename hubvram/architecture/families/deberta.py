"""DeBERTa-v2 and v3: disentangled attention, contents against relative positions, written out (no sdpa)."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import (
    add_norm,
    biased,
    classification_loss,
    head_assumption,
    index_buffer,
    layer_norm,
    num_labels,
)
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Stack


def position_attention(config: Config) -> tuple[str, ...]:
    """``pos_att_type``: a list, or words joined by ``|``."""
    value = config.raw("pos_att_type")
    if isinstance(value, str):
        value = [word.strip() for word in value.lower().split("|")]
    return tuple(word for word in ("c2p", "p2c") if value and word in value)


def span(config: Config, places: int) -> int:
    """Half the number of relative positions: ``position_buckets``, else ``max_relative_positions``."""
    limit = config.whole("max_relative_positions", default=-1)
    buckets = config.whole("position_buckets", default=-1)
    return buckets if buckets > 0 else limit if limit > 0 else places


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in DebertaV2Config."""
    hidden = config.positive("hidden_size", default=1536)
    inner = config.positive("intermediate_size", default=6144)
    layers = config.positive("num_hidden_layers", default=24)
    heads = config.positive("num_attention_heads", default=24)
    head_dim = config.optional("attention_head_size") or hidden // heads
    inside = heads * head_dim
    vocab = config.positive("vocab_size", default=128100)
    width = config.positive("embedding_size", default=hidden)
    places = config.positive("max_position_embeddings", default=512)
    labels = num_labels(config)
    dropout = config.number("hidden_dropout_prob", default=0.1)
    kinds = position_attention(config)
    relative = config.flag("relative_attention", default=False)
    shared = config.flag("share_att_key", default=False)
    block: dict[str, Module] = {
        "query": biased("attention.self.query_proj", hidden, inside),
        "key": biased("attention.self.key_proj", hidden, inside),
        "value": biased("attention.self.value_proj", hidden, inside),
        "attn_out": biased("attention.output.dense", inside, hidden, "attn_out"),
        "attn_norm": layer_norm("attention.output.LayerNorm", hidden),
        "up": biased("intermediate.dense", hidden, inner),
        "down": biased("output.dense", inner, hidden, "mlp_out"),
        "norm": layer_norm("output.LayerNorm", hidden),
    }
    if relative and not shared:
        if "c2p" in kinds:
            block["pos_key"] = biased("attention.self.pos_key_proj", hidden, inside)
        if "p2c" in kinds:
            block["pos_query"] = biased("attention.self.pos_query_proj", hidden, inside)
    prefix = "deberta.embeddings"
    modules: dict[str, Module] = {"embed": Embedding(f"{prefix}.word_embeddings", vocab, width)}
    if config.flag("position_biased_input", default=True):
        modules["positions"] = Embedding(f"{prefix}.position_embeddings", places, width)
    if config.whole("type_vocab_size", default=0) > 0:
        modules["token_types"] = Embedding(f"{prefix}.token_type_embeddings", config.whole("type_vocab_size"), width)
    if width != hidden:
        modules["project"] = Linear(f"{prefix}.embed_proj", width, hidden)
    modules["embed_norm"] = layer_norm(f"{prefix}.LayerNorm", hidden)
    modules["position_ids"] = index_buffer(f"{prefix}.position_ids", places)
    reach = span(config, places)
    if relative:
        modules["rel_embeddings"] = Embedding("deberta.encoder.rel_embeddings", 2 * reach, hidden)
        if "layer_norm" in config.text("norm_rel_ebd", default="none"):
            modules["rel_norm"] = layer_norm("deberta.encoder.LayerNorm", hidden)
    kernel = config.whole("conv_kernel_size", default=0)
    if kernel > 0:
        groups = config.positive("conv_groups", default=1)
        modules["conv"] = Linear(
            "deberta.encoder.conv.conv",
            hidden // groups * kernel,
            hidden,
            True,
            kind="Conv1d",
            weight_shape=(hidden, hidden // groups, kernel),
        )
        modules["conv_norm"] = layer_norm("deberta.encoder.conv.LayerNorm", hidden)
    modules["pooler"] = biased("pooler.dense", hidden, hidden)
    modules["classifier"] = biased("classifier", hidden, labels, "head")
    order = (0,) * layers if kernel <= 0 else (0,) + (1,) * (layers - 1)
    plain = Block(block, {"conv": False})
    blocks = (Block(block, {"conv": True}), plain) if kernel > 0 else (plain,)
    return Architecture(
        family="deberta",
        model_type="deberta-v2",
        class_name=None,
        task="seqcls",
        modules=modules,
        stacks={"layers": Stack("deberta.encoder.layer", blocks, order)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        max_seq_len=places,
        token_dim=width,
        assumptions=head_assumption(config, labels),
        facts={
            "act": config.text("hidden_act", default="gelu"),
            "dropout": dropout,
            "attn_dropout": config.number("attention_probs_dropout_prob", default=0.1),
            "pooler_dropout": config.number("pooler_dropout", default=0.0),
            "pooler_act": config.text("pooler_hidden_act", default="gelu"),
            "head_dropout": config.number("cls_dropout", default=dropout),
            "conv_act": config.text("conv_act", default="tanh"),
            "kinds": kinds if relative else (),
            "shared": shared,
            "span": reach,
        },
    )


def embeddings(g: Any, net: Any, batch: Any, mask: Any, dropout: float) -> Any:
    """DebertaV2Embeddings.forward: the mask is multiplied in."""
    words = net.embed_tokens(g, batch)
    b, s, _ = words.shape
    types = g.ids(b, s)
    if getattr(net, "positions", None) is not None:
        places = g.embedding(g.stored((1, s)), net.positions.weight, "position embeddings")
        x = g.add(words, places)
    else:
        places = g.ones(words.shape, words.dt, "zeros for positions")
        x = words
    if getattr(net, "token_types", None) is not None:
        x = g.add(x, g.embedding(types, net.token_types.weight, "token type embeddings"))
    if net.arch.token_dim != net.arch.hidden_size:
        x = net.project(g, x)
    x = g.layer_norm(x, net.embed_norm.weight, net.embed_norm.bias)
    x = g.mul(x, g.to(mask.view(b, s, 1), x.dt))
    del places
    return g.dropout(x, dropout)


def by_head(g: Any, x: Any, heads: int) -> Any:
    """transpose_for_scores: (batch, tokens, heads * dim) copied to (batch * heads, tokens, dim)."""
    return g.rearranged(x, (x.shape[0] * heads, x.shape[1], x.shape[2] // heads))


def position_bias(g: Any, net: Any, m: Any, q: Any, k: Any, places: Any) -> Any:
    """disentangled_attention_bias: contents against positions and positions against contents."""
    facts, heads = net.arch.facts, net.arch.num_attention_heads
    kinds, reach = facts["kinds"], 2 * facts["span"]
    rows, s, d = q.shape
    places = places.view(1, reach, net.arch.hidden_size)
    whole, wide, square = (rows, reach, d), (rows, s, reach), (rows, s, s)
    shared = facts["shared"]
    pos_q = pos_k = score = None
    if shared or "p2c" in kinds:
        pos_q = g.expand(by_head(g, (m.query if shared else m.pos_query)(g, places), heads), whole, "repeat")
    if shared or "c2p" in kinds:
        pos_k = g.expand(by_head(g, (m.key if shared else m.pos_key)(g, places), heads), whole, "repeat")
    if "c2p" in kinds:
        c2p = g.matmul(q, pos_k, wide, "content to position")
        c2p_at = g.ids(1, 1, s, s)
        c2p = g.gather(c2p, c2p_at, square)
        score = g.add_scalar(g.scale(c2p))
    if "p2c" in kinds:
        p2c_at = g.ids(1, 1, s, s)
        p2c = g.matmul(k, pos_q, wide, "position to content")
        p2c = g.gather(p2c, p2c_at, square)
        score = g.add_scalar(g.scale(p2c)) if score is None else g.add_(score, g.scale(p2c))
    return score


def forward(g: Any, net: Any, batch: Any) -> Any:
    """DebertaV2ForSequenceClassification.forward."""
    arch = net.arch
    facts = arch.facts
    heads, d, dropout = arch.num_attention_heads, arch.head_dim, facts["dropout"]
    kinds = facts["kinds"]
    flat = g.floats((batch.size, batch.tokens), "attention mask")
    x = embeddings(g, net, batch, flat, dropout)
    b, s, _ = x.shape
    mask = g.floats((b, 1, s, s), "attention mask (pairs)")
    places = relative = None
    if kinds:
        relative = g.ids(1, s, s)
        places = net.rel_embeddings.weight
        if getattr(net, "rel_norm", None) is not None:
            places = g.layer_norm(places, net.rel_norm.weight, net.rel_norm.bias)

    def attention(m: Any, h: Any) -> Any:
        q, k, v = (by_head(g, linear(g, h), heads) for linear in (m.query, m.key, m.value))
        bias = None
        scores = g.matmul(q, g.scale(k), (b * heads, s, s), "attention scores")
        if kinds:
            bias = position_bias(g, net, m, q, k, g.dropout(places, dropout))
        if bias is not None:
            scores = g.add(scores, bias)
        scores = scores.view(b, heads, s, s)
        allowed = g.bools(mask.shape, "attention mask (bool)")
        scores = g.masked_fill(scores, g.bools(mask.shape, "attention mask (inverted)"))
        probs = g.softmax(scores, None)
        probs = g.dropout(probs, facts["attn_dropout"])
        out = g.matmul(probs.view(b * heads, s, s), v, (b * heads, s, d), "attention output")
        del allowed
        return g.rearranged(out, (b, s, heads * d))

    states: list[Any] = []  # every layer's input and the last output: output_hidden_states is always on
    running = [True]

    def layer(m: Any, x: Any) -> Any:
        h = attention(m, x)
        h = add_norm(g, m.attn_out, m.attn_norm, h, x, dropout)
        inner = g.act(facts["act"], m.up(g, h))
        h = add_norm(g, m.down, m.norm, inner, h, dropout)
        return convolve(h, x) if m.facts["conv"] else h

    def convolve(residual: Any, embedded: Any) -> Any:
        """ConvLayer after the first layer, over the embeddings that went into it."""
        inside = g.rearranged(embedded, (b, arch.hidden_size, s))
        out = g.conv(inside, net.conv.weight, net.conv.bias, (s,), "deberta conv")
        out = g.rearranged(out, (b, s, arch.hidden_size))
        out = g.act(facts["conv_act"], g.dropout(out, dropout))
        total = g.add(residual, out)
        normed = g.layer_norm(total, net.conv_norm.weight, net.conv_norm.bias)
        return g.mul(normed, g.to(flat.view(b, s, 1), normed.dt))

    def kept(m: Any, x: Any) -> Any:
        if running:  # not when a layer is recomputed
            states.append(x.detach())
        return layer(m, x)

    x = net.run(g, "layers", kept, x, last_apart=True)
    running.clear()
    g.t.release(states)
    del relative  # made once for all layers
    pooled = g.slice(x, (b, arch.hidden_size))
    pooled = g.dropout(pooled, facts["pooler_dropout"])
    pooled = g.act(facts["pooler_act"], net.pooler(g, pooled))
    pooled = g.dropout(pooled, facts["head_dropout"])
    return classification_loss(g, net, net.classifier(g, pooled), batch)


FAMILY = Family(
    name="deberta",
    model_types=("deberta-v2",),
    build=build,
    source="transformers 5.23 models/deberta_v2/modeling_deberta_v2.py",
    examples=("microsoft/deberta-v3-base",),
)
