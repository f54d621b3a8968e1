"""MPT: ALiBi added in fp32, fused qkv, no biases, eager attention only."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import tied_head
from hubvram.architecture.families._older import causal_loss
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack
from hubvram.timeline.dtypes import BOOL, F32


def build(config: Config, header: Header) -> Architecture:
    """From config.json; attention's own settings are nested in ``attn_config``."""
    hidden = config.positive("d_model", "hidden_size", default=2048)
    layers = config.positive("n_layers", "num_hidden_layers", default=24)
    heads = config.positive("n_heads", "num_attention_heads", default=16)
    positions = config.positive("max_seq_len", "max_position_embeddings", default=2048)
    vocab = config.positive("vocab_size", default=50368)
    attention = config.sub("attn_config") or Config({}, f"{config.where}:attn_config")
    block: dict[str, Module] = {
        "norm_1": Norm("norm_1", hidden, kind="layer"),
        "qkv": Linear("attn.Wqkv", hidden, 3 * hidden),
        "out_proj": Linear("attn.out_proj", hidden, hidden, role="attn_out"),
        "norm_2": Norm("norm_2", hidden, kind="layer"),
        "up_proj": Linear("ffn.up_proj", hidden, 4 * hidden),
        "down_proj": Linear("ffn.down_proj", 4 * hidden, hidden, role="mlp_out"),
    }
    return Architecture(
        family="mpt",
        model_type="mpt",
        class_name="MptForCausalLM",
        task="causal",
        modules={
            "embed": Embedding("transformer.wte", vocab, hidden),
            "norm": Norm("transformer.norm_f", hidden, kind="layer"),
            "lm_head": Linear("lm_head", hidden, vocab, role="head"),
        },
        stacks={"layers": Stack("transformer.blocks", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=positions,
        tied=tied_head(config, default=True),
        facts={
            "attn_pdrop": attention.number("attn_pdrop", default=0.0),
            "clip": attention.raw("clip_qkv") is not None,
            "positions": positions,
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """MptModel.forward: the last hidden states; ALiBi and mask die with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    embedded = x
    b, s, hidden = x.shape
    heads, d = arch.num_attention_heads, arch.head_dim
    alibi = g.ones((heads, 1, facts["positions"]), F32, "alibi")
    floats = g.causal_mask(b, s, x.dt, batch.padding, implementation="eager")
    mask = g.ones((b, 1, s, s), BOOL, "causal mask (bool)")
    del floats

    def attention(m: Any, h: Any) -> Any:
        qkv = m.qkv(g, h)
        if facts["clip"]:
            qkv = g.unary("clamp", qkv)
        q, k, v = g.split(qkv, [(b, heads, s, d)] * 3)
        k, v, _ = net.with_prefix(g, m, k, v, None)
        tokens = k.shape[2]
        dt = v.dt
        shape = (b, heads, s, tokens)
        q, k = g.lower(q), g.lower(k)
        if b > 1:
            w = g.matmul(
                g.clone(q, "matmul reshape"),
                g.clone(k, "matmul reshape") if tokens == s else k,
                shape,
                "attention scores",
            )
        else:
            w = g.matmul(q, k, shape, "attention scores")
        w = g.scale(w, "scores scale")
        w = g.add(w, alibi.narrow(heads, 1, tokens))
        w = g.masked_fill(w, mask)
        probs = g.to(g.softmax(g.float(w), None), dt)
        probs = g.dropout(probs, facts["attn_pdrop"])
        if b > 1 and tokens == s:
            out = g.matmul(probs, g.clone(v, "matmul reshape"), (b, heads, s, d), "attention output")
        else:
            out = g.matmul(probs, v, (b, heads, s, d), "attention output")
        out = g.clone(out).view(b, s, hidden)
        return m.out_proj(g, out)

    def ffn(m: Any, h: Any, residual: Any) -> Any:
        h = g.gelu(m.up_proj(g, h))
        out = m.down_proj(g, h)
        dropped = g.dropout(out, facts["attn_pdrop"])
        return g.add(dropped, residual)

    def layer(m: Any, x: Any) -> Any:
        h = g.layer_norm(x, m.norm_1.weight, None)
        out = attention(m, h)
        x = g.add(g.dropout(out, facts["attn_pdrop"]), x)
        h = g.layer_norm(x, m.norm_2.weight, None)
        return ffn(m, h, x)

    x = net.run(g, "layers", layer, x)
    del embedded
    return g.layer_norm(x, net.norm.weight, None)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """MptForCausalLM.forward."""
    x = decode(g, net, batch)
    return causal_loss(g, net, x, batch)


FAMILY = Family(
    name="mpt",
    model_types=("mpt",),
    build=build,
    source="transformers 5.23 models/mpt/modeling_mpt.py",
    examples=("mosaicml/mpt-7b",),
)
