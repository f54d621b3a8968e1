"""Sparse decoders with Llama's attention: Mixtral, Qwen2/3-MoE, OLMoE, GLM-4.5, Phi-MoE and their like.

From transformers 5 the experts of a layer are two stacked parameters run by one
grouped product; before, they were a list of MLPs run one after the other
(`Architecture.legacy`). What differs between the models is one `Style` each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import (
    gated_mlp,
    projections,
    run_gated_mlp,
    stack_of,
    tied_head,
)
from hubvram.architecture.families._moe import EVEN, Reader, experts_apart, experts_of, sparse_block, sparse_layers
from hubvram.architecture.families._rotary import joined
from hubvram.architecture.families._windows import layer_kinds
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Weight


@dataclass(frozen=True, slots=True)
class Style:
    """How one model type differs."""

    router: str = "qwen"
    """``qwen``: fp32 softmax, best k, optionally normalised, cast back. ``mixtral``: always normalised,
    stays fp32. ``group``: sigmoid with a correction bias, best groups first (DeepSeek-V3). ``mixer``: Phi's sampler."""
    experts: tuple[str, ...] = ("num_experts", "num_local_experts", "n_routed_experts")
    width: tuple[str, ...] = ("moe_intermediate_size",)
    gate: str = "gate"
    block: str = "mlp"
    """Name of the sparse block."""
    old: str = "mlp"
    """Name of the sparse block before transformers 5, and of its projections."""
    old_names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    peft: str | None = "qwen2_moe"
    qk_norm: str = ""
    """``head``: RMSNorm on each head of q and k; ``full``: on all heads at once."""
    shared: str = ""
    """``gated``: one shared expert behind a sigmoid gate; ``plain``: added as it is."""
    norm: str = "rms"
    qkv_bias: bool | str = False
    """Default, or the name of the config's flag."""
    o_bias: bool | str = False
    rotary: float = 1.0
    scaled: bool = False
    """Granite's multipliers on embeddings, residuals and logits."""
    looped: bool = True
    """Whether transformers < 5 had the experts as separate modules."""
    defaults: Mapping[str, int] | None = None


STYLES: dict[str, Style] = {
    "mixtral": Style(
        router="mixtral",
        width=("intermediate_size",),
        old="block_sparse_moe",
        old_names=("w1", "w3", "w2"),
        peft="mixtral",
        defaults={"num_local_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 8},
    ),
    "qwen2_moe": Style(
        shared="gated",
        qkv_bias=True,
        peft=None,
        defaults={
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_key_value_heads": 16,
        },
    ),
    "qwen3_moe": Style(
        qk_norm="head",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        defaults={"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "num_key_value_heads": 4},
    ),
    "olmoe": Style(
        qk_norm="full",
        width=("intermediate_size",),
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        defaults={"num_experts": 64, "num_experts_per_tok": 8},
    ),
    "glm4_moe": Style(
        router="group",
        shared="plain",
        qk_norm="flag",
        qkv_bias="attention_bias",
        rotary=0.5,
        experts=("n_routed_experts", "num_local_experts"),
        defaults={
            "n_routed_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 1408,
            "num_key_value_heads": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
        },
    ),
    "dots1": Style(
        router="group",
        shared="plain",
        qk_norm="head",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        experts=("n_routed_experts", "num_local_experts"),
        defaults={"first_k_dense_replace": 0},
    ),
    "phimoe": Style(
        router="mixer",
        width=("intermediate_size",),
        gate="router",
        old="block_sparse_moe",
        old_names=("w1", "w3", "w2"),
        peft=None,
        norm="layer",
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        defaults={"num_local_experts": 16, "num_experts_per_tok": 2, "num_key_value_heads": 8},
    ),
    **dict.fromkeys(
        ("granitemoe", "granitemoeshared"),
        Style(
            router="granite",
            width=("intermediate_size",),
            gate="router",
            block="block_sparse_moe",
            experts=("num_local_experts",),
            peft=None,
            qkv_bias="attention_bias",
            o_bias="attention_bias",
            scaled=True,
            looped=False,
            defaults={"num_local_experts": 8, "num_experts_per_tok": 2},
        ),
    ),
}


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    arch = _build(config, header, legacy=False)
    if not STYLES[arch.model_type].looped:
        return arch
    return replace(arch, legacy=lambda: _build(config, header, legacy=True))


def _flag(config: Config, given: bool | str) -> bool:
    return config.flag(given, default=False) if isinstance(given, str) else given


def sparse_modules(config: Config, read: Reader, style: Style, hidden: int, *, legacy: bool) -> dict[str, Module]:
    """Router, experts and shared experts of a sparse layer."""
    count, width = read.get(*style.experts), read.get(*style.width)
    sparse: dict[str, Module] = {}
    name = style.old if legacy else style.block
    if style.router == "mixer":
        sparse["gate"] = Linear(f"{name}.{'gate' if legacy else 'router'}", hidden, count, role="router")
    elif legacy and style.router != "group":
        sparse["gate"] = Linear(f"{name}.gate", hidden, count, role="router")
    else:
        sparse["gate"] = Weight(f"{name}.{style.gate}.weight", (count, hidden), adaptable=True)
    if legacy:
        sparse |= experts_apart(f"{name}.experts", hidden, width, count, style.old_names)
    else:
        sparse |= experts_of(f"{name}.experts", hidden, width, count)
    if style.router == "group":
        sparse["bias"] = Weight(f"{name}.gate.e_score_correction_bias", (count,), buffer=True, dtype="float32")
    if style.shared == "gated":
        inner = read.get("shared_expert_intermediate_size")
        sparse |= gated_mlp("mlp.shared_expert", hidden, inner, "shared_")
        sparse["shared_gate"] = Linear("mlp.shared_expert_gate", hidden, 1)
    elif style.shared == "plain":
        shared = config.whole("n_shared_experts", default=read.defaults.get("n_shared_experts", 1))
        sparse |= gated_mlp("mlp.shared_experts", hidden, width * shared, "shared_")
    if style.scaled and config.optional("shared_intermediate_size"):
        inner = config.positive("shared_intermediate_size")
        sparse["shared_input"] = Linear("shared_mlp.input_linear", hidden, 2 * inner)
        sparse["shared_output"] = Linear("shared_mlp.output_linear", inner, hidden, role="mlp_out")
    return sparse


def _window(config: Config, model_type: str) -> int | None:
    """The sliding window, where the model's code has one."""
    if model_type in ("olmoe", "glm4_moe"):
        return None
    if model_type == "qwen3_moe" and not config.flag("use_sliding_window", default=False):
        return None
    return config.optional("sliding_window")


def _build(config: Config, header: Header, *, legacy: bool) -> Architecture:
    model_type = config.text("model_type", default="mixtral")
    style = STYLES[model_type]
    read = Reader(config, style.defaults or {})
    hidden = config.positive("hidden_size")
    layers = config.positive("num_hidden_layers")
    heads = config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", default=read.defaults.get("num_key_value_heads", heads))
    head_dim = config.optional("head_dim") or hidden // heads
    vocab = config.positive("vocab_size")
    count = read.get(*style.experts)
    k = read.get("num_experts_per_tok")
    first = "model.layers.0.self_attn."
    biased = header.has_bias(first + "q_proj", _flag(config, style.qkv_bias))
    o_biased = header.has_bias(first + "o_proj", _flag(config, style.o_bias))
    qk_norm = style.qk_norm
    if qk_norm == "flag":
        qk_norm = "head" if config.flag("use_qk_norm", default=False) else ""
    wide = style.norm == "layer"
    block: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden, bias=wide, kind=style.norm),
        **projections(hidden, heads, kv_heads, head_dim, biased, o_biased),
        "post_norm": Norm("post_attention_layernorm", hidden, bias=wide, kind=style.norm),
    }
    if qk_norm:
        block["q_norm"] = Norm("self_attn.q_norm", head_dim if qk_norm == "head" else heads * head_dim)
        block["k_norm"] = Norm("self_attn.k_norm", head_dim if qk_norm == "head" else kv_heads * head_dim)
    sparse, dense = {**block, **sparse_modules(config, read, style, hidden, legacy=legacy)}, dict(block)
    is_sparse = sparse_layers(config, read, layers, count)
    if not all(is_sparse):
        dense |= gated_mlp("mlp", hidden, config.positive("intermediate_size"))
    kinds, window_of = layer_kinds(config, layers, _window(config, model_type))

    def kind(key: tuple[bool, int]) -> Block:
        chooses, at = key
        return Block(sparse if chooses else dense, {"window": kinds[at], "sparse": chooses})

    rotary = int(head_dim * config.rope_parameter("partial_rotary_factor", style.rotary))
    return Architecture(
        family="moe",
        model_type=model_type,
        class_name=None,
        task="causal",
        modules={
            "embed": Embedding("model.embed_tokens", vocab, hidden),
            "norm": Norm("model.norm", hidden, bias=wide, kind=style.norm),
            "lm_head": Linear(
                "lm_head",
                hidden,
                vocab,
                header.has_bias("lm_head", config.flag("lm_head_bias", default=False)),
                role="head",
            ),
        },
        stacks={"layers": stack_of("model.layers", zip(is_sparse, window_of, strict=True), kind)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_seq_len=config.optional("max_position_embeddings"),
        tied=tied_head(config),
        assumptions=(EVEN,) if legacy else (),
        facts={
            "act": config.text("hidden_act", default="silu"),
            "kinds": kinds,
            "rotary_dim": rotary,
            "joined": model_type == "glm4_moe",
            "router": style.router,
            "normalise": config.flag("norm_topk_prob", default=style.router == "group"),
            "k": k,
            "experts": count,
            "groups": config.whole("n_group", default=1),
            "best_groups": config.whole("topk_group", default=1),
            "shared": style.shared,
            "qk_norm": qk_norm,
            "clip": config.raw("clip_qkv") is not None,
            "dropout": config.number("attention_dropout", default=0.0),
            "peft_moe": None if legacy else style.peft,
            "legacy": legacy,
            "scaled": style.scaled,
            "shared_mlp": "shared_input" in sparse,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """MixtralForCausalLM.forward and its like."""
    x = trunk(g, net, batch)
    return net.causal_loss(g, x, batch, scaled=net.arch.facts["scaled"])


def trunk(g: Any, net: Any, batch: Any) -> Any:
    """MixtralModel.forward and its like."""
    arch = net.arch
    facts = arch.facts
    x = net.embed_tokens(g, batch)
    scaled = facts["scaled"]
    if scaled:
        x = g.scale(x, "embedding multiplier")
    b, s = x.shape[0], x.shape[1]
    masks = {w: g.causal_mask(b, s, x.dt, batch.padding, window=w) for w in facts["kinds"]}
    cos, sin = g.rotary_tables(1, s, facts["rotary_dim"], x.dt)
    act, heads, kv_heads, dim = facts["act"], arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim
    partial = facts["rotary_dim"] != dim or facts["joined"]

    def attention(m: Any, h: Any) -> Any:
        q, k = m.q_proj(g, h), m.k_proj(g, h)
        if facts["qk_norm"] == "full":
            q, k = g.rms_norm(q, m.q_norm.weight), g.rms_norm(k, m.k_norm.weight)
        v = m.v_proj(g, h)
        if facts["clip"]:
            q, k, v = g.clamp_(q), g.clamp_(k), g.clamp_(v)
        q, k, v = q.view(b, s, heads, dim), k.view(b, s, kv_heads, dim), v.view(b, kv_heads, s, dim)
        if facts["qk_norm"] == "head":
            q, k = g.rms_norm(q, m.q_norm.weight), g.rms_norm(k, m.k_norm.weight)
        q, k = q.view(b, heads, s, dim), k.view(b, kv_heads, s, dim)
        if partial:
            q, k = joined(g, q, k, cos, sin, facts["rotary_dim"])
        else:
            q, k = g.rotary(q, k, cos, sin)
        k, v, mask = net.with_prefix(g, m, k, v, masks[m.facts["window"]])
        return m.o_proj(g, g.attention(q, k, v, mask, dropout=facts["dropout"], bhsd=partial))

    def norm(x: Any, w: Any) -> Any:
        return g.layer_norm(x, w.weight, w.bias) if w.bias is not None else g.rms_norm(x, w.weight)

    def layer(m: Any, x: Any) -> Any:
        h = norm(x, m.input_norm)
        h = attention(m, h)
        x = g.add(x, g.scale(h, "residual multiplier") if scaled else h)
        h = norm(x, m.post_norm)
        h = sparse_block(g, m, h, act, facts) if m.facts["sparse"] else run_gated_mlp(g, m, h, act)
        return g.add(x, g.scale(h, "residual multiplier") if scaled else h)

    x = net.run(g, "layers", layer, x)
    return norm(x, net.norm)


FAMILY = Family(
    name="moe",
    model_types=tuple(STYLES),
    build=build,
    source="transformers 5.23 models/{mixtral,qwen2_moe,qwen3_moe,olmoe,glm4_moe,dots1,phimoe}/modeling_*.py",
    examples=("mistralai/Mixtral-8x7B-v0.1", "Qwen/Qwen3-30B-A3B", "allenai/OLMoE-1B-7B-0924"),
)
