"""Baichuan 1 and 2 in their own repositories' code: W_pack; ALiBi and eager attention (13B) or rotary and sdpa (7B)."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import decoder_layer, ends, gated_mlp, tied_head
from hubvram.architecture.families._older import own_loss, rms_norm_twice
from hubvram.architecture.families._rotary import rotation
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Stack
from hubvram.timeline.dtypes import F32
from hubvram.timeline.ops.attention import Mask

NORM_HEAD_VOCAB = 125696
"""Vocabulary of Baichuan 2, whose head normalises its weight at every call."""


def build(config: Config, header: Header) -> Architecture:
    """From config.json; the 13B models have no ``max_position_embeddings``."""
    hidden = config.positive("hidden_size")
    inner = config.positive("intermediate_size")
    layers = config.positive("num_hidden_layers")
    heads = config.positive("num_attention_heads")
    vocab = config.positive("vocab_size")
    positions = config.optional("max_position_embeddings")
    block: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden),
        "W_pack": Linear("self_attn.W_pack", hidden, 3 * hidden),
        "o_proj": Linear("self_attn.o_proj", hidden, hidden, role="attn_out"),
        "post_norm": Norm("post_attention_layernorm", hidden),
        **gated_mlp("mlp", hidden, inner),
    }
    alibi = positions is None
    return Architecture(
        family="baichuan",
        model_type="baichuan",
        class_name="BaichuanForCausalLM",
        task="causal",
        modules=ends(hidden, vocab),
        stacks={"layers": Stack("model.layers", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=positions or config.optional("model_max_length"),
        tied=tied_head(config),
        facts={
            "act": config.text("hidden_act", default="silu"),
            "alibi": alibi,
            "norm_head": vocab == NORM_HEAD_VOCAB,
        },
        assumptions=("xformers is not installed: attention is eager",) if alibi else (),
    )


def decode(g: Any, net: Any, batch: Any) -> Any:
    """BaichuanModel.forward: the last hidden states; masks die with it, but for ALiBi's own."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    b, s, hidden = x.shape
    heads, d = arch.num_attention_heads, arch.head_dim
    dt = x.dt
    alibi = None
    if facts["alibi"]:
        alibi = g.ones((heads, s, s), dt, "alibi mask")
        net.cache.append(alibi.st)  # an attribute of the model
        # data collators give an attention mask: its float form is added to ALiBi for every head
        mask = Mask(g.ones((b, heads, s, s), dt, "attention mask with alibi"), heads)
    else:
        mask = Mask(g.ones((b, 1, s, s), dt, "attention mask"))
    tables = None if facts["alibi"] else g.rotary_tables(1, s, d, F32)
    rotate = rotation(g, "cohere", d, False)

    def norm(x: Any, weight: Any) -> Any:
        return rms_norm_twice(g, x, weight, weight_in_fp32=False)

    def eager(q: Any, k: Any, v: Any, mask: Any) -> Any:
        """Scores, mask, a floor at the dtype's minimum, softmax in the scores' dtype (fp32 under autocast)."""
        shape = (b, heads, s, k.shape[2])
        q, k = g.lower(q), g.lower(k)
        if b > 1:
            q, k = g.clone(q, "matmul reshape"), g.clone(k, "matmul reshape")
        w = g.scale(g.matmul(q, k, shape, "attention scores"), "scores scale")
        w = g.add(w, mask.tensor)
        w = g.maximum(w)
        w = g.softmax(w, None)
        if b > 1:
            v = g.clone(v, "matmul reshape")
        return g.clone(g.matmul(w, v, (b, heads, s, d), "attention output")).view(b, s, hidden)

    def attention(m: Any, h: Any) -> Any:
        proj = m.W_pack(g, h)
        q = g.slice(proj, (b, heads, s, d))
        k = g.slice(proj, (b, heads, s, d))
        v = g.slice(proj, (b, heads, s, d))
        if tables is not None:
            q, k = rotate(q, k, *tables)
        k, v, m_mask = net.with_prefix(g, m, k, v, mask)
        if tables is None:
            h = eager(q, k, v, m_mask)
        else:
            h = g.attention(q, k, v, m_mask, implementation="sdpa")
        return m.o_proj(g, h)

    def mlp(m: Any, h: Any) -> Any:
        h = g.mul(g.act(facts["act"], m.gate_proj(g, h)), m.up_proj(g, h))
        return m.down_proj(g, h)

    x = net.run(g, "layers", decoder_layer(g, norm, attention, mlp), x)
    return norm(x, net.norm.weight)


def head(g: Any, net: Any, x: Any) -> Any:
    """The head; Baichuan 2's normalises the rows of its weight into a new tensor first (``NormHead``)."""
    if not net.arch.facts["norm_head"]:
        return net.lm_head(g, x)
    w = net.lm_head.weight
    length = g.mean_last(w)
    return g.linear(x, g.div(w, length), None, "lm_head")


def forward(g: Any, net: Any, batch: Any) -> Any:
    """BaichuanForCausalLM.forward: the loss is taken on the logits as they are (fp32 under autocast)."""
    x = decode(g, net, batch)
    if not net.plan.training:
        return net.causal_loss(g, x, batch)
    return own_loss(g, net, [head(g, net, x)], upcast=False)


FAMILY = Family(
    name="baichuan",
    model_types=("baichuan",),
    build=build,
    source="modeling_baichuan.py of the Baichuan 2 repositories (2023)",
    examples=("baichuan-inc/Baichuan2-13B-Chat", "baichuan-inc/Baichuan2-7B-Base"),
)
