"""Qwen (the first): code of its own repository; rotary in fp32, fused qkv with a bias, flash attention."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import ends, tied_head
from hubvram.architecture.families._older import own_loss
from hubvram.architecture.families._rotary import joined_one
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Stack
from hubvram.timeline.dtypes import BOOL, F32
from hubvram.timeline.ops.attention import Mask


def build(config: Config, header: Header) -> Architecture:
    """From config.json; ``intermediate_size`` there is twice the MLP's width."""
    hidden = config.positive("hidden_size")
    inner = config.positive("intermediate_size") // 2
    layers = config.positive("num_hidden_layers")
    heads = config.positive("num_attention_heads")
    vocab = config.positive("vocab_size")
    channels = config.positive("kv_channels", default=128)
    bias = not config.flag("no_bias", default=True)
    first = "transformer.h.0."

    def linear(path: str, n_in: int, n_out: int, bias: bool, role: Any = "") -> Linear:
        return Linear(path, n_in, n_out, header.has_bias(first + path, bias), role=role)

    block: dict[str, Module] = {
        "ln_1": Norm("ln_1", hidden),
        "c_attn": linear("attn.c_attn", hidden, 3 * channels * heads, True),
        "attn_proj": linear("attn.c_proj", hidden, channels * heads, bias, "attn_out"),
        "ln_2": Norm("ln_2", hidden),
        "w1": linear("mlp.w1", hidden, inner, bias),
        "w2": linear("mlp.w2", hidden, inner, bias),
        "mlp_proj": linear("mlp.c_proj", inner, hidden, bias, "mlp_out"),
    }
    return Architecture(
        family="qwen",
        model_type="qwen",
        class_name="QWenLMHeadModel",
        task="causal",
        modules=ends(hidden, vocab, "transformer.wte", "transformer.ln_f"),
        stacks={"layers": Stack("transformer.h", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=config.optional("max_position_embeddings", "seq_length"),
        tied=tied_head(config),
        facts={
            "turned": int(channels * config.number("rotary_pct", default=1.0)),
            "attn_dropout": config.number("attn_dropout_prob", default=0.0),
            "emb_dropout": config.number("emb_dropout_prob", default=0.0),
        },
        assumptions=("flash-attn is installed without its rotary and layer_norm extensions",),
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """QWenModel.forward: the last hidden states; masks and tables die with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s, _ = x.shape
    heads, d = arch.num_attention_heads, arch.head_dim
    padding = g.ones((b, 1, 1, s), x.dt, "attention mask")
    cos = g.ones((1, 2 * s, 1, facts["turned"]), F32, "rotary cos").narrow(1, s, facts["turned"])
    sin = g.ones((1, 2 * s, 1, facts["turned"]), F32, "rotary sin").narrow(1, s, facts["turned"])
    embedded = x
    x = g.dropout(x, facts["emb_dropout"])

    def rotary(x: Any) -> Any:
        """In fp32, joined with what is not turned (nothing, as a rule), cast back."""
        full = g.float(x)
        return g.to(joined_one(g, full, cos, sin, facts["turned"]), x.dt)

    def product(q: Any, k: Any, v: Any) -> Any:
        """``_attn``: scores and softmax in Python ops."""
        dt, shape = q.dt, (b, heads, s, k.shape[2])
        causal = g.ones((1, 1, s, s), BOOL, "causal mask")
        q, k = g.lower(q), g.lower(k)
        if b > 1:
            q, k = g.clone(q, "matmul reshape"), g.clone(k, "matmul reshape")
        w = g.scale(g.matmul(q, k, shape, "attention scores"), "scores scale")
        w = g.where(causal, w, shape)
        w = g.add(w, padding)
        w = g.to(g.softmax(w, None), dt)
        w = g.dropout(w, facts["attn_dropout"])
        if b > 1:
            v = g.clone(v, "matmul reshape")
        return g.clone(g.matmul(w, v, (b, heads, s, d), "attention output")).view(b, s, heads * d)

    def attention(m: Any, h: Any) -> Any:
        mixed = m.c_attn(g, h)
        q, k, v = g.split(mixed, [(b, heads, s, d)] * 3)
        q = rotary(q)
        k = rotary(k)
        k, v, _ = net.with_prefix(g, m, k, v, None)
        if g.attn == "eager":
            h = product(q, k, v)
        elif g.attn == "sdpa":
            causal = g.ones((1, 1, s, s), BOOL, "causal mask")
            filled = Mask(g.ones((b, 1, s, s), x_dt, "attention mask filled"))
            h = g.attention(q, k, v, filled, dropout=0.0)
            del causal, filled
        else:
            h = g.attention(q, k, v, None, dropout=facts["attn_dropout"])
        return m.attn_proj(g, h)

    def mlp(m: Any, h: Any) -> Any:
        a1 = m.w1(g, h)
        a2 = m.w2(g, h)
        h = g.mul(a1, g.silu(a2))
        return m.mlp_proj(g, h)

    def layer(m: Any, x: Any) -> Any:
        h = g.rms_norm(x, m.ln_1.weight)
        out = attention(m, h)
        x = g.add(out, x)
        h = g.rms_norm(x, m.ln_2.weight)
        ff = mlp(m, h)
        return g.add(x, ff)

    x_dt = x.dt
    x = net.run(g, "layers", layer, x)
    del embedded
    return g.rms_norm(x, net.norm.weight)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """QWenLMHeadModel.forward: the loss is taken on the logits as they are (fp32 under autocast)."""
    x = decode(g, net, batch)
    if not net.plan.training:
        return net.causal_loss(g, x, batch)
    return own_loss(g, net, [net.lm_head(g, x)], upcast=False)


FAMILY = Family(
    name="qwen",
    model_types=("qwen",),
    build=build,
    source="modeling_qwen.py of the Qwen repositories (2023)",
    examples=("Qwen/Qwen-7B", "Qwen/Qwen-1_8B"),
)
