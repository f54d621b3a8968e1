"""gpt-oss: attention sinks (eager only), alternating sliding windows, experts with biases.

The published checkpoints hold the experts in MXFP4; transformers dequantises
them to 16 bits for training.
"""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import decoder_layer, ends, kinds_of, projections, tied_head
from hubvram.architecture.families._windows import layer_kinds
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Module, Norm, Stack, Weight

EAGER = "Attention with sinks runs eagerly, whatever attn_implementation says: sdpa does not support it."


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    hidden = config.positive("hidden_size")
    layers = config.positive("num_hidden_layers")
    heads = config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", default=8)
    head_dim = config.optional("head_dim") or hidden // heads
    vocab = config.positive("vocab_size")
    inner = config.positive("intermediate_size", default=2880)
    count = config.positive("num_local_experts", "num_experts", default=128)
    bias = config.flag("attention_bias", default=True)
    window = config.optional("sliding_window")
    if config.raw("layer_types") is None:  # GptOssConfig: every other layer, beginning with the first
        kinds, order = kinds_of(window if i % 2 == 0 else None for i in range(layers))
    else:
        kinds, order = layer_kinds(config, layers, window)
    modules: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden),
        **projections(hidden, heads, kv_heads, head_dim, bias),
        "sinks": Weight("self_attn.sinks", (heads,)),
        "post_norm": Norm("post_attention_layernorm", hidden),
        "router": Weight("mlp.router.weight", (count, hidden), adaptable=True),
        "router_bias": Weight("mlp.router.bias", (count,)),
        "experts_up": Weight("mlp.experts.gate_up_proj", (count, hidden, 2 * inner), adaptable=True),
        "up_bias": Weight("mlp.experts.gate_up_proj_bias", (count, 2 * inner)),
        "experts_down": Weight("mlp.experts.down_proj", (count, inner, hidden), adaptable=True),
        "down_bias": Weight("mlp.experts.down_proj_bias", (count, hidden)),
    }
    return Architecture(
        family="gpt_oss",
        model_type="gpt_oss",
        class_name=None,
        task="causal",
        modules=ends(hidden, vocab),
        stacks={"layers": Stack("model.layers", tuple(Block(modules, {"window": w}) for w in kinds), order)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_seq_len=config.optional("max_position_embeddings"),
        tied=tied_head(config),
        assumptions=(EAGER,),
        facts={
            "kinds": kinds,
            "rotary_dim": head_dim,
            "k": config.positive("num_experts_per_tok", "experts_per_token", default=4),
            "experts": count,
            "dropout": config.number("attention_dropout", default=0.0),
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """GptOssForCausalLM.forward."""
    x = trunk(g, net, batch)
    return net.causal_loss(g, x, batch)


def trunk(g: Any, net: Any, batch: Any) -> Any:
    """GptOssModel.forward."""
    arch = net.arch
    facts = arch.facts
    heads, kv_heads, dim = arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim
    x = net.embed_tokens(g, batch)
    b, s = x.shape[0], x.shape[1]
    masks = {
        w: g.causal_mask(b, s, x.dt, batch.padding, window=w, implementation="eager")
        for w in dict.fromkeys((None, *facts["kinds"]))
    }
    cos, sin = (g.ones((1, s, dim // 2), x.dt, name) for name in ("rotary cos", "rotary sin"))

    def attention(m: Any, h: Any) -> Any:
        q = g.copied_back(m.q_proj(g, h), (b, heads, s, dim))
        k = g.copied_back(m.k_proj(g, h), (b, kv_heads, s, dim))
        v = m.v_proj(g, h).view(b, kv_heads, s, dim)
        q, k = rotary(g, q, k, cos, sin)
        k, v, mask = net.with_prefix(g, m, k, v, masks[m.facts["window"]])
        return m.o_proj(g, sink_attention(g, q, k, v, mask, m.sinks, facts["dropout"]))

    def mlp(m: Any, h: Any) -> Any:
        return sparse_block(g, m, h, facts)

    x = net.run(g, "layers", decoder_layer(g, g.rms_norm_fp32_weight, attention, mlp), x)
    return g.rms_norm_fp32_weight(x, net.norm.weight)


def rotary(g: Any, q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """``apply_rotary_pos_emb``: the two halves by ``chunk``, joined again."""
    q_out = rotary_one(g, q, cos, sin)
    return q_out, rotary_one(g, k, cos, sin)


def rotary_one(g: Any, x: Any, cos: Any, sin: Any) -> Any:
    """``_apply_rotary_emb``."""
    half = (*x.shape[:-1], x.shape[-1] // 2)
    first, second = g.split(x, [half, half])
    one = g.add(g.mul(first, cos), g.scale(g.mul(second, sin), "neg"))
    two = g.add(g.mul(second, cos), g.mul(first, sin))
    return g.cat((one, two), x.shape)


def sink_attention(g: Any, q: Any, k: Any, v: Any, mask: Any, sinks: Any, dropout: float) -> Any:
    """``eager_attention_forward`` with one more logit per head, which takes weight and gives nothing."""
    b, heads, s, d = q.shape
    keys = k.shape[2]
    if k.shape[1] != heads:
        k = g.expand(k, (b, heads, keys, d))
        v = g.expand(v, (b, heads, keys, v.shape[-1]))
    q, k, v = g.lower(q), g.lower(k), g.lower(v)
    w = g.scale(g.matmul(q, k, (b, heads, s, keys), "attention scores"), "scores scale")
    if mask is not None:
        w = g.add(w, mask.tensor)
    both = g.cat((w, g.spread(sinks, (b, heads, s, 1))), (b, heads, s, keys + 1))
    both = g.subtract_max(both)
    probs = g.softmax(both, None)
    scores = g.slice(probs, (b, heads, s, keys))
    w = g.dropout(scores, dropout)
    out = g.matmul(w, v, (b, heads, s, v.shape[-1]), "attention output")
    return g.clone(out).view(b, s, heads * v.shape[-1])


def sparse_block(g: Any, m: Any, h: Any, facts: Any) -> Any:
    """``GptOssMLP.forward``: the best k experts by logit, softmax over the chosen."""
    shape = h.shape
    flat = h.view(-1, shape[-1])
    opened = g.opened(m.router)
    logits = g.linear(flat, opened.value(g), m.router_bias, "router")
    top, index = g.topk(logits, facts["k"])
    weights = g.softmax(top, None)
    del top, opened
    out = g.experts_grouped(
        flat,
        index,
        weights,
        m.experts_up,
        m.experts_down,
        lambda x: gate(g, x),
        num_experts=facts["experts"],
        up_bias=m.up_bias,
        down_bias=m.down_bias,
    )
    del logits
    return out.view(*shape)


def gate(g: Any, x: Any) -> Any:
    """``_apply_gate``: interleaved halves, clamped; (up + 1) * gate * sigmoid(alpha * gate)."""
    half = (*x.shape[:-1], x.shape[-1] // 2)
    first, up = g.slice(x, half), g.slice(x, half)
    first = g.clamp(first, 1)
    up = g.clamp(up, 2)
    glu = g.mul(first, g.sigmoid(g.scale(first)))
    return g.mul(g.add_scalar(up), glu)


FAMILY = Family(
    name="gpt_oss",
    model_types=("gpt_oss",),
    build=build,
    source="transformers 5.23 models/gpt_oss/modeling_gpt_oss.py",
    examples=("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
)
