"""Llama 4: every expert sees every token (scaled by its score), attention in chunks with layers without positions.

The vision encoder of the published models is in memory and idle: batches are text only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import (
    decoder_layer,
    ends,
    gated_mlp,
    projections,
    rms_without_weight,
    run_gated_mlp,
    stack_of,
    tied_head,
)
from hubvram.architecture.families._moe import shared_mlp
from hubvram.architecture.families._rotary import complex_rotary
from hubvram.architecture.families._vision_language import with_defaults
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Stack, Weight
from hubvram.timeline.dtypes import F32

TEXT_ONLY = "Batches are text only: the vision encoder is in memory, unused."
TEXT: Mapping[str, Any] = {
    "vocab_size": 202048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "max_position_embeddings": 131072,
}
VISION: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 34,
    "num_attention_heads": 16,
    "num_channels": 3,
    "intermediate_size": 5632,
    "vision_output_dim": 7680,
    "image_size": 448,
    "patch_size": 14,
    "projector_input_dim": 4096,
    "projector_output_dim": 4096,
}
"""Defaults of the config classes (transformers 5.23)."""


def build(config: Config, header: Header) -> Architecture:
    """A text model (``llama4_text``), or one with its vision encoder (``llama4``)."""
    if config.text("model_type", default="llama4") == "llama4_text":
        return text_model(with_defaults(config, TEXT, config.where))
    text = text_model(with_defaults(config.sub("text_config"), TEXT, f"{config.where}:text_config"))
    vision = with_defaults(config.sub("vision_config"), VISION, f"{config.where}:vision_config")
    modules, stack = vision_modules(vision, text.hidden_size)
    moved = {name: replace(m, path=f"language_model.{m.path}") for name, m in text.modules.items()}
    stacks = {name: replace(s, prefix=f"language_model.{s.prefix}") for name, s in text.stacks.items()}
    return replace(
        text,
        model_type="llama4",
        modules={**moved, **modules},
        stacks={**stacks, "vision": stack},
        facts={**text.facts, "idle": idle},
        assumptions=(*text.assumptions, TEXT_ONLY),
    )


def idle(plan: Any, name: str) -> int:
    """The vision side gets no gradient."""
    return 1 << 30 if name.startswith(("vision_model.", "multi_modal_projector.")) else 0


def vision_modules(v: Config, width: int) -> tuple[dict[str, Module], Stack]:
    """``Llama4VisionModel`` and the projector."""
    hidden, inner = v.positive("hidden_size"), v.positive("intermediate_size")
    patch, size = v.positive("patch_size"), v.positive("image_size")
    path, adapter = "vision_model", "vision_model.vision_adapter.mlp"
    out = v.positive("projector_output_dim")
    modules: dict[str, Module] = {
        "v_patch": Linear(f"{path}.patch_embedding.linear", v.positive("num_channels") * patch * patch, hidden),
        "v_class": Weight(f"{path}.class_embedding", (hidden,)),
        "v_position": Weight(f"{path}.positional_embedding_vlm", ((size // patch) ** 2 + 1, hidden)),
        "v_pre": Norm(f"{path}.layernorm_pre", hidden, bias=True, kind="layer"),
        "v_post": Norm(f"{path}.layernorm_post", hidden, bias=True, kind="layer"),
        "v_fc1": Linear(f"{adapter}.fc1", inner, v.positive("projector_input_dim")),
        "v_fc2": Linear(f"{adapter}.fc2", out, out),
        "p_1": Linear("multi_modal_projector.linear_1", v.positive("vision_output_dim"), width),
    }
    block: dict[str, Module] = {
        "norm1": Norm("input_layernorm", hidden, bias=True, kind="layer"),
        **{f"{n}_proj": Linear(f"self_attn.{n}_proj", hidden, hidden, True) for n in "qkvo"},
        "fc1": Linear("mlp.fc1", hidden, inner, True),
        "fc2": Linear("mlp.fc2", inner, hidden, True),
        "norm2": Norm("post_attention_layernorm", hidden, bias=True, kind="layer"),
    }
    layers = v.positive("num_hidden_layers")
    return modules, Stack(f"{path}.model.layers", (Block(block),), (0,) * layers)


def text_model(config: Config) -> Architecture:
    """``Llama4ForCausalLM``."""
    hidden, width = config.positive("hidden_size"), config.positive("intermediate_size")
    layers, heads = config.positive("num_hidden_layers"), config.positive("num_attention_heads")
    kv_heads, dim = config.positive("num_key_value_heads"), config.positive("head_dim")
    count, vocab = config.positive("num_local_experts"), config.positive("vocab_size")
    bias = config.flag("attention_bias", default=False)
    shared: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden),
        **projections(hidden, heads, kv_heads, dim, bias),
        "post_norm": Norm("post_attention_layernorm", hidden),
    }
    sparse: dict[str, Module] = {
        **shared,
        "router": Linear("feed_forward.router", hidden, count, role="router"),
        "experts_up": Weight("feed_forward.experts.gate_up_proj", (count, hidden, 2 * width), adaptable=True),
        "experts_down": Weight("feed_forward.experts.down_proj", (count, width, hidden), adaptable=True),
        **gated_mlp("feed_forward.shared_expert", hidden, width, "shared_"),
    }
    dense = {**shared, **gated_mlp("feed_forward", hidden, config.positive("intermediate_size_mlp"))}
    step, every = config.positive("interleave_moe_layer_step"), config.positive("no_rope_layer_interval")
    moe_layers = config.raw("moe_layers")
    sparse_at = set(moe_layers) if moe_layers is not None else set(range(step - 1, layers, step))
    ropes = config.raw("no_rope_layers") or [int((i + 1) % every != 0) for i in range(layers)]
    keys = [(i in sparse_at, bool(ropes[i])) for i in range(layers)]

    def block(key: tuple[bool, bool]) -> Block:
        chooses, turns = key
        return Block(sparse if chooses else dense, {"sparse": chooses, "rope": turns})

    return Architecture(
        family="llama4",
        model_type="llama4_text",
        class_name=None,
        task="causal",
        modules=ends(hidden, vocab),
        stacks={"layers": stack_of("model.layers", keys, block)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim,
        max_seq_len=config.optional("max_position_embeddings"),
        tied=tied_head(config),
        facts={
            "act": config.text("hidden_act", default="silu"),
            "chunk": config.optional("attention_chunk_size"),
            "qk_norm": config.flag("use_qk_norm", default=True),
            "tuned": config.flag("attn_temperature_tuning", default=True),
            "k": config.positive("num_experts_per_tok"),
            "experts": count,
            "rotary_dim": dim,
            "dropout": config.number("attention_dropout", default=0.0),
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """``Llama4ForCausalLM.forward``."""
    x = trunk(g, net, batch)
    return net.causal_loss(g, x, batch)


def trunk(g: Any, net: Any, batch: Any) -> Any:
    """``Llama4TextModel.forward``."""
    facts = net.arch.facts
    x = net.embed_tokens(g, batch)
    b, s = x.shape[0], x.shape[1]
    masks = {
        False: g.causal_mask(b, s, x.dt, batch.padding),
        True: g.causal_mask(b, s, x.dt, batch.padding, window=facts["chunk"]),
    }
    table = g.ones((b, s, net.arch.head_dim), F32, "rotary freqs_cis")

    def attend(m: Any, h: Any) -> Any:
        return attention(g, net, m, h, masks[m.facts["rope"]], table)

    def feed_forward(m: Any, h: Any) -> Any:
        return experts(g, m, h, facts) if m.facts["sparse"] else run_gated_mlp(g, m, h, facts["act"])

    x = net.run(g, "layers", decoder_layer(g, g.rms_norm, attend, feed_forward), x)
    return g.rms_norm(x, net.norm.weight)


def attention(g: Any, net: Any, m: Any, h: Any, mask: Any, table: Any) -> Any:
    """``Llama4TextAttention.forward``."""
    arch, facts = net.arch, net.arch.facts
    b, s, _ = h.shape
    heads, kv_heads, dim = arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim
    q = m.q_proj(g, h).view(b, heads, s, dim)
    k = m.k_proj(g, h).view(b, kv_heads, s, dim)
    v = m.v_proj(g, h).view(b, kv_heads, s, dim)
    if m.facts["rope"]:
        q, k = complex_rotary(g, q, k, table)
        if facts["qk_norm"]:
            q = rms_without_weight(g, q)
            k = rms_without_weight(g, k)
    elif facts["tuned"]:
        q = g.to(g.mul(q, g.ones((1, 1, s, 1), F32, "attention scales")), q.dt)
    k, v, mask = net.with_prefix(g, m, k, v, mask)
    return m.o_proj(g, g.attention(q, k, v, mask, dropout=facts["dropout"], fp32_softmax=False))


def experts(g: Any, m: Any, h: Any, facts: Any) -> Any:
    """``Llama4TextMoe.forward``: every expert runs on every token, times the token's score for it."""
    shape = h.shape
    flat = h.view(-1, shape[-1])
    tokens, hidden = flat.shape
    count = facts["experts"]
    logits = m.router(g, flat)
    scores = router_scores(g, logits, facts["k"])
    routed = g.expand(flat, (count * tokens, hidden), "repeat")
    routed = g.mul(routed, g.clone(scores, "reshape").view(count * tokens, 1))
    routed = run(g, m, routed, count, facts["act"])
    out = shared_mlp(g, m, flat, facts["act"])
    out = g.add_(out, g.sum_groups(routed, count))
    del logits, scores
    return out.view(*shape)


def run(g: Any, m: Any, x: Any, count: int, act: str) -> Any:
    """``Llama4TextExperts.forward``: two batched products."""
    down, up = g.opened(m.experts_down), g.opened(m.experts_up)
    tokens, hidden = x.shape[0] // count, x.shape[1]
    w = up.value(g)
    both = g.matmul(x.view(count, tokens, hidden), w, (count, tokens, w.shape[2]), "experts up")
    half = (count, tokens, w.shape[2] // 2)
    gate, value = g.split(both, [half, half])
    w = down.value(g)
    out = g.matmul(g.mul(value, g.act(act, gate)), w, (count, tokens, hidden), "experts down")
    return out.view(count * tokens, hidden)


def router_scores(g: Any, logits: Any, k: int) -> Any:
    """``Llama4Router.forward``: minus infinity but for the best k, sigmoid in fp32."""
    top, _ = g.topk(logits, k)
    full = g.fill_parts((top,), logits.shape, "router scores")
    return g.to(g.sigmoid(g.float(full)), logits.dt)


FAMILY = Family(
    name="llama4",
    model_types=("llama4", "llama4_text"),
    build=build,
    source="transformers 5.23 models/llama4/modeling_llama4.py",
    examples=("meta-llama/Llama-4-Scout-17B-16E",),
)
