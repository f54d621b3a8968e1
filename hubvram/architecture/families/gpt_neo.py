"""GPT-Neo: global and local layers by a mask buffer, scores in fp32, no sdpa."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import tied_head
from hubvram.architecture.families._gpt import block, run_mlp, scores
from hubvram.architecture.families._older import causal_loss
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack, Weight
from hubvram.timeline.dtypes import F32


def build(config: Config, header: Header) -> Architecture:
    """From config.json; local and global layers are of the same size."""
    hidden = config.positive("hidden_size", default=2048)
    layers = config.positive("num_layers", "num_hidden_layers", default=24)
    heads = config.positive("num_heads", "num_attention_heads", default=16)
    positions = config.positive("max_position_embeddings", default=2048)
    vocab = config.positive("vocab_size", default=50257)
    inner = config.optional("intermediate_size") or 4 * hidden
    modules: dict[str, Module] = {
        "ln_1": Norm("ln_1", hidden, bias=True, kind="layer"),
        "bias": Weight("attn.attention.bias", (1, 1, positions, positions), buffer=True, dtype="bool"),
        "k_proj": Linear("attn.attention.k_proj", hidden, hidden),
        "v_proj": Linear("attn.attention.v_proj", hidden, hidden),
        "q_proj": Linear("attn.attention.q_proj", hidden, hidden),
        "out_proj": Linear("attn.attention.out_proj", hidden, hidden, True, role="attn_out"),
        "ln_2": Norm("ln_2", hidden, bias=True, kind="layer"),
        "c_fc": Linear("mlp.c_fc", hidden, inner, True),
        "c_proj": Linear("mlp.c_proj", inner, hidden, True, role="mlp_out"),
    }
    return Architecture(
        family="gpt_neo",
        model_type="gpt_neo",
        class_name="GPTNeoForCausalLM",
        task="causal",
        modules={
            "embed": Embedding("transformer.wte", vocab, hidden),
            "positions": Embedding("transformer.wpe", positions, hidden),
            "norm": Norm("transformer.ln_f", hidden, bias=True, kind="layer"),
            "lm_head": Linear("lm_head", hidden, vocab, role="head"),
        },
        stacks={"layers": Stack("transformer.h", (Block(modules),), (0,) * layers)},
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
            "act": config.text("activation_function", default="gelu_new"),
            "embed_dropout": config.number("embed_dropout", default=0.0),
            "attention_dropout": config.number("attention_dropout", default=0.0),
            "resid_dropout": config.number("resid_dropout", default=0.0),
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """GPTNeoModel.forward: the last hidden states; the mask dies with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s, hidden = x.shape
    heads, d = arch.num_attention_heads, arch.head_dim
    flash = g.attn == "flash_attention_2"
    mask = g.causal_mask(b, s, x.dt, batch.padding, implementation=None if flash else "eager")
    embedded, positions = x, g.embedding(g.ids(1, s), net.positions.weight, "wpe")
    x = g.add(x, positions)
    x = g.dropout(x, facts["embed_dropout"])

    def product(m: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
        """``_attn``: scores in fp32, the layer's own causal or local mask, then the batch's."""
        q = g.to(q, F32)
        k = g.to(k, F32)
        dt = v.dt
        shape = (b, heads, s, k.shape[2])
        w = scores(g, q, k, shape)
        w = g.where(m.bias, w, shape)
        if mask is not None:
            w = g.add(w, mask.tensor)
        w = g.softmax(w, None)
        w = g.to(w, dt)
        w = g.dropout(w, facts["attention_dropout"])
        if b > 1:
            v = g.clone(v, "matmul reshape")
        return g.matmul(w, v, (b, heads, s, d), "attention output")

    def attention(m: Any, h: Any) -> Any:
        q = m.q_proj(g, h)
        k = m.k_proj(g, h)
        v = m.v_proj(g, h)
        q = q.view(b, heads, s, d)
        k = k.view(b, heads, s, d)
        v = v.view(b, heads, s, d)
        k, v, m_mask = net.with_prefix(g, m, k, v, mask)
        if flash:
            h = g.attention(q, k, v, m_mask, dropout=facts["attention_dropout"])
        else:
            h = g.clone(product(m, q, k, v, m_mask)).view(b, s, hidden)
        h = m.out_proj(g, h)
        return g.dropout(h, facts["resid_dropout"])

    def mlp(m: Any, h: Any) -> Any:
        return run_mlp(g, m.c_fc, m.c_proj, h, facts["act"], facts["resid_dropout"])

    x = net.run(g, "layers", block(g, attention, mlp), x)
    del embedded, positions
    return g.layer_norm(x, net.norm.weight, net.norm.bias)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """GPTNeoForCausalLM.forward."""
    x = decode(g, net, batch)
    return causal_loss(g, net, x, batch, upcast=True)


FAMILY = Family(
    name="gpt_neo",
    model_types=("gpt_neo",),
    build=build,
    source="transformers 5.23 models/gpt_neo/modeling_gpt_neo.py",
    examples=("EleutherAI/gpt-neo-1.3B",),
)
