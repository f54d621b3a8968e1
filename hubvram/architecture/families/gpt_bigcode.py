"""GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one key head and plain linear layers."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import tied_head
from hubvram.architecture.families._gpt import block, pdrops, run_mlp
from hubvram.architecture.families._older import causal_loss
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack, Weight
from hubvram.errors import UnsupportedError


def build(config: Config, header: Header) -> Architecture:
    """From config.json.

    Raises:
        UnsupportedError: the layers have cross-attention.
    """
    hidden = config.positive("n_embd", "hidden_size", default=768)
    layers = config.positive("n_layer", "num_hidden_layers", default=12)
    heads = config.positive("n_head", "num_attention_heads", default=12)
    positions = config.positive("n_positions", "max_position_embeddings", default=1024)
    vocab = config.positive("vocab_size", default=50257)
    inner = config.optional("n_inner") or 4 * hidden
    single = config.flag("multi_query", default=True)
    if config.flag("add_cross_attention", default=False):
        raise UnsupportedError(f"{config.where}: a GPT-BigCode with cross-attention is not described here.")
    dim = hidden // heads
    kv_heads = 1 if single else heads
    modules: dict[str, Module] = {
        "ln_1": Norm("ln_1", hidden, bias=True, kind="layer"),
        "c_attn": Linear("attn.c_attn", hidden, hidden + 2 * kv_heads * dim, True),
        "attn_proj": Linear("attn.c_proj", hidden, hidden, True, role="attn_out"),
        "ln_2": Norm("ln_2", hidden, bias=True, kind="layer"),
        "c_fc": Linear("mlp.c_fc", hidden, inner, True),
        "mlp_proj": Linear("mlp.c_proj", inner, hidden, True, role="mlp_out"),
    }
    return Architecture(
        family="gpt_bigcode",
        model_type="gpt_bigcode",
        class_name="GPTBigCodeForCausalLM",
        task="causal",
        modules={
            "embed": Embedding("transformer.wte", vocab, hidden),
            "positions": Embedding("transformer.wpe", positions, hidden),
            "bias": Weight("transformer.bias", (positions, positions), buffer=True, dtype="bool"),
            "norm": Norm("transformer.ln_f", hidden, bias=True, kind="layer"),
            "lm_head": Linear("lm_head", hidden, vocab, role="head"),
        },
        stacks={"layers": Stack("transformer.h", (Block(modules),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim,
        max_seq_len=positions,
        tied=tied_head(config, default=True),
        facts={
            "act": config.text("activation_function", default="gelu_pytorch_tanh"),
            **pdrops(config, 0.1),
        },
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """GPTBigCodeModel.forward: the last hidden states; the mask dies with it."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s, _ = x.shape
    heads, kv_heads, d = arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim
    mask = g.causal_mask(b, s, x.dt, batch.padding)
    embedded, positions = x, g.embedding(g.ids(1, s), net.positions.weight, "wpe")
    x = g.add(x, positions)
    x = g.dropout(x, facts["embd_pdrop"])

    def attention(m: Any, h: Any) -> Any:
        kv = (b, kv_heads, s, d)
        q, k, v = g.split(m.c_attn(g, h), [(b, heads, s, d), kv, kv])
        k, v, m_mask = net.with_prefix(g, m, k, v, mask)
        h = m.attn_proj(g, g.attention(q, k, v, m_mask, dropout=facts["attn_pdrop"]))
        return g.dropout(h, facts["resid_pdrop"])

    def mlp(m: Any, h: Any) -> Any:
        return run_mlp(g, m.c_fc, m.mlp_proj, h, facts["act"], facts["resid_pdrop"])

    x = net.run(g, "layers", block(g, attention, mlp), x)
    del embedded, positions
    return g.layer_norm(x, net.norm.weight, net.norm.bias)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """GPTBigCodeForCausalLM.forward."""
    x = decode(g, net, batch)
    return causal_loss(g, net, x, batch)


FAMILY = Family(
    name="gpt_bigcode",
    model_types=("gpt_bigcode",),
    build=build,
    source="transformers 5.23 models/gpt_bigcode/modeling_gpt_bigcode.py",
    examples=("bigcode/gpt_bigcode-santacoder", "bigcode/starcoder"),
)
