"""GPT-NeoX and Pythia: fused qkv by heads, partial rotary, parallel or serial residual."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import ends, tied_head
from hubvram.architecture.families._older import causal_loss
from hubvram.architecture.families._rotary import joined
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Stack


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    hidden = config.positive("hidden_size")
    inner = config.positive("intermediate_size")
    layers = config.positive("num_hidden_layers")
    heads = config.positive("num_attention_heads")
    vocab = config.positive("vocab_size")
    bias = config.flag("attention_bias", default=True)
    part = config.number("rotary_pct", default=config.rope_parameter("partial_rotary_factor", 0.25))
    block: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden, bias=True, kind="layer"),
        "post_norm": Norm("post_attention_layernorm", hidden, bias=True, kind="layer"),
        "qkv": Linear("attention.query_key_value", hidden, 3 * hidden, bias),
        "dense": Linear("attention.dense", hidden, hidden, bias, role="attn_out"),
        "up": Linear("mlp.dense_h_to_4h", hidden, inner, True),
        "down": Linear("mlp.dense_4h_to_h", inner, hidden, True, role="mlp_out"),
    }
    return Architecture(
        family="gpt_neox",
        model_type="gpt_neox",
        class_name="GPTNeoXForCausalLM",
        task="causal",
        modules=ends(hidden, vocab, "gpt_neox.embed_in", "gpt_neox.final_layer_norm", kind="layer"),
        stacks={"layers": Stack("gpt_neox.layers", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=config.optional("max_position_embeddings"),
        tied=tied_head(config),
        facts={
            "act": config.text("hidden_act", default="gelu"),
            "rotary_dim": int(hidden // heads * part),
            "parallel": config.flag("use_parallel_residual", default=True),
            "hidden_dropout": config.number("hidden_dropout", default=0.0),
            "attention_dropout": config.number("attention_dropout", default=0.0),
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """GPTNeoXModel.forward: the last hidden states; masks and tables die with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s, _ = x.shape
    heads, d, rotary_dim = arch.num_attention_heads, arch.head_dim, facts["rotary_dim"]
    mask = g.causal_mask(b, s, x.dt, batch.padding)
    embedded = x
    x = g.dropout(x, facts["hidden_dropout"])
    cos, sin = g.rotary_tables(1, s, rotary_dim, x.dt)

    def attention(m: Any, h: Any) -> Any:
        qkv = m.qkv(g, h)
        q, k, v = g.split(qkv, [(b, heads, s, d)] * 3)
        q, k = joined(g, q, k, cos, sin, rotary_dim)
        k, v, m_mask = net.with_prefix(g, m, k, v, mask)
        return m.dense(g, g.attention(q, k, v, m_mask, dropout=facts["attention_dropout"], bhsd=True))

    def mlp(m: Any, h: Any) -> Any:
        h = m.up(g, h)
        h = g.act(facts["act"], h)
        return m.down(g, h)

    def layer(m: Any, x: Any) -> Any:
        h = g.layer_norm(x, m.input_norm.weight, m.input_norm.bias)
        out = attention(m, h)
        del h
        out = g.dropout(out, facts["hidden_dropout"])
        if facts["parallel"]:
            h = g.layer_norm(x, m.post_norm.weight, m.post_norm.bias)
            ff = mlp(m, h)
            del h
            ff = g.dropout(ff, facts["hidden_dropout"])
            return g.add(g.add(ff, out), x)
        out = g.add(out, x)
        h = g.layer_norm(out, m.post_norm.weight, m.post_norm.bias)
        ff = mlp(m, h)
        del h
        ff = g.dropout(ff, facts["hidden_dropout"])
        return g.add(ff, out)

    x = net.run(g, "layers", layer, x)
    del embedded
    return g.layer_norm(x, net.norm.weight, net.norm.bias)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """GPTNeoXForCausalLM.forward."""
    x = decode(g, net, batch)
    return causal_loss(g, net, x, batch)


FAMILY = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    build=build,
    source="transformers 5.23 models/gpt_neox/modeling_gpt_neox.py",
    examples=("EleutherAI/pythia-1.4b", "EleutherAI/gpt-neox-20b"),
)
