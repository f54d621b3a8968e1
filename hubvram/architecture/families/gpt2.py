"""GPT-2: learned positions, LayerNorm, fused qkv as Conv1D, plain MLP, dropout."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import tied_head
from hubvram.architecture.families._gpt import block, pdrops, run_mlp
from hubvram.architecture.families._older import causal_loss
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack
from hubvram.errors import UnsupportedError
from hubvram.timeline.dtypes import F32


def build(config: Config, header: Header) -> Architecture:
    """From config.json.

    Raises:
        UnsupportedError: a size is missing, or the layers have cross-attention.
    """
    hidden = config.positive("n_embd", "hidden_size", default=768)
    layers = config.positive("n_layer", "num_hidden_layers", default=12)
    heads = config.positive("n_head", "num_attention_heads", default=12)
    positions = config.positive("n_positions", "max_position_embeddings", default=1024)
    vocab = config.positive("vocab_size", default=50257)
    inner = config.optional("n_inner") or 4 * hidden
    if config.flag("add_cross_attention", default=False):
        raise UnsupportedError(f"{config.where}: a GPT-2 with cross-attention is not described here.")
    modules: dict[str, Module] = {
        "ln_1": Norm("ln_1", hidden, bias=True, kind="layer"),
        "c_attn": Linear("attn.c_attn", hidden, 3 * hidden, True, "Conv1D"),
        "attn_proj": Linear("attn.c_proj", hidden, hidden, True, "Conv1D", role="attn_out"),
        "ln_2": Norm("ln_2", hidden, bias=True, kind="layer"),
        "c_fc": Linear("mlp.c_fc", hidden, inner, True, "Conv1D"),
        "mlp_proj": Linear("mlp.c_proj", inner, hidden, True, "Conv1D", role="mlp_out"),
    }
    return Architecture(
        family="gpt2",
        model_type="gpt2",
        class_name="GPT2LMHeadModel",
        task="causal",
        modules={
            "embed": Embedding("transformer.wte", vocab, hidden),
            "positions": Embedding("transformer.wpe", positions, hidden),
            "norm": Norm("transformer.ln_f", hidden, bias=True, kind="layer"),
            "lm_head": Linear("lm_head", hidden, vocab, header.has_bias("lm_head", False), role="head"),
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
            **pdrops(config, 0.1),
            "upcast": config.flag("reorder_and_upcast_attn", default=False),
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """GPT2Model.forward: the last hidden states; masks and tables die with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s, hidden = x.shape
    heads, d = arch.num_attention_heads, arch.head_dim
    embedded, positions = x, g.embedding(g.ids(1, s), net.positions.weight, "wpe")
    x = g.add(x, positions)
    mask = g.causal_mask(b, s, x.dt, batch.padding)
    x = g.dropout(x, facts["embd_pdrop"])

    def upcast(q: Any, k: Any, v: Any) -> Any:
        """``_upcast_and_reordered_attn``: scores in fp32 outside autocast."""
        dt = v.dt
        buffer = g.ones((b, heads, s, s), F32, "baddbmm buffer")
        with g.t.autocasting(None):
            w = g.matmul(g.to(q, F32), g.to(k, F32), (b, heads, s, s), "attention scores")
        del buffer
        if mask is not None:
            w = g.add(w, mask.tensor)
        w = g.dropout(g.to(g.softmax(w, None), dt), facts["attn_pdrop"])
        return g.clone(g.matmul(w, v, (b, heads, s, d), "attention output")).view(b, s, hidden)

    def attention(m: Any, h: Any) -> Any:
        q, k, v = g.split(m.c_attn(g, h), [(b, heads, s, d)] * 3)
        k, v, prefixed = net.with_prefix(g, m, k, v, mask)
        if facts["upcast"] and g.attn == "eager":
            h = upcast(q, k, v)
        else:
            h = g.attention(q, k, v, prefixed, dropout=facts["attn_pdrop"], fp32_softmax=False)
        return g.dropout(m.attn_proj(g, h), facts["resid_pdrop"])

    def mlp(m: Any, h: Any) -> Any:
        return run_mlp(g, m.c_fc, m.mlp_proj, h, facts["act"], facts["resid_pdrop"])

    x = net.run(g, "layers", block(g, attention, mlp), x)
    del embedded, positions
    return g.layer_norm(x, net.norm.weight, net.norm.bias)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """GPT2LMHeadModel.forward."""
    x = decode(g, net, batch)
    return causal_loss(g, net, x, batch)


FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    build=build,
    source="transformers 5.23 models/gpt2/modeling_gpt2.py",
    examples=("openai-community/gpt2", "openai-community/gpt2-xl"),
)
