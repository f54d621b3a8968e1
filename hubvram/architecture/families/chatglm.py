"""ChatGLM2, ChatGLM3 and GLM-4 in their own repositories' code: tokens first, rotary on half a head, fp32 logits."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import tied_head
from hubvram.architecture.families._older import own_loss, rms_norm_twice
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    hidden = config.positive("hidden_size")
    inner = config.positive("ffn_hidden_size", "inner_hidden_size")
    layers = config.positive("num_layers", "num_hidden_layers")
    heads = config.positive("num_attention_heads")
    vocab = config.positive("padded_vocab_size", "vocab_size")
    dim = config.positive("kv_channels", default=hidden // heads)
    multi = config.flag("multi_query_attention", default=False)
    kv_heads = config.positive("multi_query_group_num", default=1) if multi else heads
    bias = config.flag("add_bias_linear", default=False)
    qkv_bias = bias or config.flag("add_qkv_bias", default=False)
    rms = config.flag("rmsnorm", default=True)
    first = "transformer.encoder.layers.0."

    def linear(path: str, n_in: int, n_out: int, bias: bool, role: Any = "") -> Linear:
        return Linear(path, n_in, n_out, header.has_bias(first + path, bias), role=role)

    def norm(path: str) -> Norm:
        return Norm(path, hidden, bias=not rms, kind="rms" if rms else "layer")

    block: dict[str, Module] = {
        "input_norm": norm("input_layernorm"),
        "qkv": linear("self_attention.query_key_value", hidden, (heads + 2 * kv_heads) * dim, qkv_bias),
        "dense": linear("self_attention.dense", heads * dim, hidden, bias, "attn_out"),
        "post_norm": norm("post_attention_layernorm"),
        "up": linear("mlp.dense_h_to_4h", hidden, 2 * inner, bias),
        "down": linear("mlp.dense_4h_to_h", inner, hidden, bias, "mlp_out"),
    }
    modules: dict[str, Module] = {"embed": Embedding("transformer.embedding.word_embeddings", vocab, hidden)}
    if config.flag("post_layer_norm", default=True):
        modules["norm"] = norm("transformer.encoder.final_layernorm")
    modules["lm_head"] = Linear("transformer.output_layer", hidden, vocab, role="head")
    return Architecture(
        family="chatglm",
        model_type="chatglm",
        class_name="ChatGLMForConditionalGeneration",
        task="causal",
        modules=modules,
        stacks={"layers": Stack("transformer.encoder.layers", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim,
        max_seq_len=config.optional("seq_length"),
        tied=tied_head(config),
        facts={
            "multi": multi,
            "rms": rms,
            "post_residual": config.flag("apply_residual_connection_post_layernorm", default=False),
            "normed": "norm" in modules,
            "hidden_dropout": config.number("hidden_dropout", default=0.0),
            "attention_dropout": config.number("attention_dropout", default=0.0),
            "seq_length": config.positive("seq_length", default=8192),
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """ChatGLMModel.forward: the last hidden states; the mask and the table die with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s, _ = x.shape
    heads, kv_heads, d = arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim
    embedded = x
    if b > 1:  # (batch, tokens) -> (tokens, batch)
        x = g.clone(x, "transpose")
    mask = g.causal_mask(b, s, x.dt, batch.padding, implementation="sdpa")
    turned = d // 2
    table = g.ones((facts["seq_length"], turned // 2, 2), x.dt, "rotary cache")
    rope = g.ones((s, 1, 1, turned // 2), x.dt, "rotary cache of the batch").narrow(1, s, turned // 2)
    kept = g.ones((s, 1, 1, turned // 2), x.dt, "rotary cache of the batch")

    def norm(x: Any, table: Any) -> Any:
        if facts["rms"]:
            return rms_norm_twice(g, x, table.weight, weight_in_fp32=True)
        return g.layer_norm(x, table.weight, table.bias)

    def rotary(x: Any) -> Any:
        """``apply_rotary_pos_emb``: pairs turned by four products, stacked, joined with the other half of the head."""
        whole = x.shape
        turned_part = g.slice(x, (*whole[:-1], turned))
        rest = g.slice(x, (*whole[:-1], whole[-1] - turned))
        half = (*whole[:-1], turned // 2)

        def pair() -> Any:
            first = g.mul(g.slice(turned_part, half), rope)
            return first, g.mul(g.slice(turned_part, half), rope)

        a, c = pair()
        real = g.sub(a, c)
        del a, c
        a, c = pair()
        imaginary = g.add(a, c)
        del a, c
        stacked = g.cat((real, imaginary), turned_part.shape)
        return g.cat((stacked, rest), whole)

    def attention(m: Any, h: Any) -> Any:
        mixed = m.qkv(g, h)
        kv = (b, kv_heads, s, d)
        q, k, v = g.split(mixed, [(b, heads, s, d), kv, kv])
        q = rotary(q)
        k = rotary(k)
        k, v, m_mask = net.with_prefix(g, m, k, v, mask)
        if facts["multi"]:
            k = g.expand(k, (b, heads, *k.shape[2:]))
            v = g.expand(v, (b, heads, *v.shape[2:]))
        h = g.attention(q, k, v, m_mask, implementation="sdpa")
        return m.dense(g, h)

    def mlp(m: Any, h: Any) -> Any:
        h = m.up(g, h)
        half = (*h.shape[:-1], h.shape[-1] // 2)
        gate, up = g.split(h, [half, half])
        h = g.mul(g.silu(gate), up)
        del gate, up
        return m.down(g, h)

    def layer(m: Any, x: Any) -> Any:
        h = norm(x, m.input_norm)
        out = attention(m, h)
        residual = h if facts["post_residual"] else x
        dropped = g.dropout(out, facts["hidden_dropout"])
        dropped = g.add(residual, dropped)
        h = norm(dropped, m.post_norm)
        ff = mlp(m, h)
        residual = h if facts["post_residual"] else dropped
        ff = g.dropout(ff, facts["hidden_dropout"])
        return g.add(residual, ff)

    x = net.run(g, "layers", layer, x)
    del embedded, table, kept
    return norm(x, net.norm) if facts["normed"] else x


def forward(g: Any, net: Any, batch: Any) -> Any:
    """ChatGLMForConditionalGeneration.forward: fp32 logits, shifted by a copy."""
    x = decode(g, net, batch)
    if not net.plan.training:
        return net.causal_loss(g, x, batch)
    logits = [net.lm_head(g, x)]
    if x.shape[0] > 1:
        logits[0] = g.clone(logits[0], "transpose")
    return own_loss(g, net, logits, upcast=True)


FAMILY = Family(
    name="chatglm",
    model_types=("chatglm",),
    build=build,
    source="modeling_chatglm.py of the ChatGLM3 repository (2023)",
    examples=("THUDM/chatglm3-6b",),
)
