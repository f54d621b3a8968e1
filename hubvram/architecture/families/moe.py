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
from hubvram.architecture.families.llama import layer_kinds
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack, Weight
from hubvram.errors import UnsupportedError
from hubvram.timeline.dtypes import F32

EVEN = "Tokens spread evenly over the experts (each runs tokens x experts per token / experts rows)."
"""What the loop over experts assumes; the grouped product needs no such assumption."""


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


class Reader:
    """Config values with the model type's own defaults."""

    def __init__(self, config: Config, defaults: Mapping[str, int]) -> None:
        """``defaults`` are those of transformers' config class."""
        self.config = config
        self.defaults = defaults

    def get(self, *names: str) -> int:
        """A size of at least 1, by the first name found in the config, else the class default of any."""
        default = next((self.defaults[n] for n in names if n in self.defaults), None)
        return self.config.whole(*names, default=default)


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    arch = _build(config, header, legacy=False)
    if not STYLES[arch.model_type].looped:
        return arch
    return replace(arch, legacy=lambda: _build(config, header, legacy=True))


def _flag(config: Config, given: bool | str) -> bool:
    return config.flag(given, default=False) if isinstance(given, str) else given


def gated_mlp(path: str, hidden: int, inner: int, prefix: str = "", bias: bool = False) -> dict[str, Module]:
    """A gated MLP at ``path``; attribute names with a prefix."""
    return {
        f"{prefix}gate_proj": Linear(f"{path}.gate_proj", hidden, inner, bias),
        f"{prefix}up_proj": Linear(f"{path}.up_proj", hidden, inner, bias),
        f"{prefix}down_proj": Linear(f"{path}.down_proj", inner, hidden, bias, role="mlp_out"),
    }


def experts_of(path: str, hidden: int, width: int, count: int, *, gated: bool = True) -> dict[str, Module]:
    """The stacked experts of transformers 5: (experts, out, in)."""
    up = ("gate_up_proj", 2 * width) if gated else ("up_proj", width)
    return {
        "experts_up": Weight(f"{path}.{up[0]}", (count, up[1], hidden), adaptable=True),
        "experts_down": Weight(f"{path}.down_proj", (count, hidden, width), adaptable=True),
    }


def experts_apart(path: str, hidden: int, width: int, count: int, names: tuple[str, str, str]) -> dict[str, Module]:
    """The experts of transformers < 5: one MLP each."""
    gate, up, down = names
    out: dict[str, Module] = {}
    for i in range(count):
        out[f"e{i}_gate"] = Linear(f"{path}.{i}.{gate}", hidden, width)
        out[f"e{i}_up"] = Linear(f"{path}.{i}.{up}", hidden, width)
        out[f"e{i}_down"] = Linear(f"{path}.{i}.{down}", width, hidden)
    return out


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
        "q_proj": Linear("self_attn.q_proj", hidden, heads * head_dim, biased),
        "k_proj": Linear("self_attn.k_proj", hidden, kv_heads * head_dim, biased),
        "v_proj": Linear("self_attn.v_proj", hidden, kv_heads * head_dim, biased),
        "o_proj": Linear("self_attn.o_proj", heads * head_dim, hidden, o_biased, role="attn_out"),
        "post_norm": Norm("post_attention_layernorm", hidden, bias=wide, kind=style.norm),
    }
    if qk_norm:
        block["q_norm"] = Norm("self_attn.q_norm", head_dim if qk_norm == "head" else heads * head_dim)
        block["k_norm"] = Norm("self_attn.k_norm", head_dim if qk_norm == "head" else kv_heads * head_dim)
    sparse, dense = {**block, **sparse_modules(config, read, style, hidden, legacy=legacy)}, dict(block)
    is_sparse = sparse_layers(config, read, layers, count)
    if not all(is_sparse):
        dense |= gated_mlp("mlp", hidden, config.positive("intermediate_size"))
    window = config.optional("sliding_window")
    if model_type == "qwen3_moe" and not config.flag("use_sliding_window", default=False):
        window = None
    if model_type in ("olmoe", "glm4_moe"):
        window = None
    kinds, window_of = layer_kinds(config, layers, window)
    blocks: list[Block] = []
    order: list[int] = []
    seen: dict[tuple[bool, int], int] = {}
    for i in range(layers):
        key = (is_sparse[i], window_of[i])
        if key not in seen:
            seen[key] = len(blocks)
            blocks.append(Block(sparse if key[0] else dense, {"window": kinds[key[1]], "sparse": key[0]}))
        order.append(seen[key])
    rotary = int(head_dim * config.rope_parameter("partial_rotary_factor", style.rotary))
    tied = config.flag("tie_word_embeddings", default=False)
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
        stacks={"layers": Stack("model.layers", tuple(blocks), tuple(order))},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_seq_len=config.optional("max_position_embeddings"),
        tied={"lm_head": "embed"} if tied else {},
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


def sparse_layers(config: Config, read: Reader, layers: int, experts: int) -> list[bool]:
    """Which layers have experts: ``first_k_dense_replace``, or ``mlp_only_layers`` and ``decoder_sparse_step``.

    Raises:
        UnsupportedError: a model without experts under a sparse model type.
    """
    first = config.whole("first_k_dense_replace", default=read.defaults.get("first_k_dense_replace", 0))
    step = config.whole("decoder_sparse_step", default=1)
    dense = config.raw("mlp_only_layers") or []
    if experts < 1:
        raise UnsupportedError(f"{config.where}: {experts} experts.")
    return [i >= first and i not in dense and (i + 1) % step == 0 for i in range(layers)]


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
            q, k = rotary_partial(g, q, k, cos, sin, facts["rotary_dim"])
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
        h = sparse_block(g, m, h, act, facts) if m.facts["sparse"] else mlp(g, m, h, act)
        return g.add(x, g.scale(h, "residual multiplier") if scaled else h)

    x = net.run(g, "layers", layer, x)
    return norm(x, net.norm)


def rotary_partial(g: Any, q: Any, k: Any, cos: Any, sin: Any, dim: int) -> tuple[Any, Any]:
    """GLM's: rotary on the first ``dim`` of each head; q and k are turned before either is joined again."""
    whole_q, whole_k = q.shape, k.shape
    q_part, q_rest = g.slice(q, (*whole_q[:-1], dim)), g.slice(q, (*whole_q[:-1], whole_q[-1] - dim))
    k_part, k_rest = g.slice(k, (*whole_k[:-1], dim)), g.slice(k, (*whole_k[:-1], whole_k[-1] - dim))
    q_out = g.rotary_one(q_part, cos, sin)
    k_out = g.rotary_one(k_part, cos, sin)
    q_out = g.cat((q_out, q_rest), whole_q)
    k_out = g.cat((k_out, k_rest), whole_k)
    return q_out, k_out


def mlp(g: Any, m: Any, h: Any, act: str) -> Any:
    """A dense layer's gated MLP."""
    return m.down_proj(g, g.glu(act, m.gate_proj(g, h), m.up_proj(g, h)))


def shared_mlp(g: Any, m: Any, h: Any, act: str) -> Any:
    """The shared expert."""
    return m.shared_down_proj(g, g.glu(act, m.shared_gate_proj(g, h), m.shared_up_proj(g, h)))


def sparse_block(g: Any, m: Any, h: Any, act: str, facts: Mapping[str, Any]) -> Any:
    """The mixture of experts of one layer: (batch, tokens, hidden) in and out."""
    shape = h.shape
    flat = h.view(-1, shape[-1])
    shared = shared_mlp(g, m, flat, act) if facts["shared"] == "gated" else None
    logits, weights, index = route(g, m, flat, facts)
    out = run_experts(g, m, flat, index, weights, act, facts)
    if shared is not None:
        opened = g.sigmoid(m.shared_gate(g, flat))
        shared = g.mul(opened, shared)
        out = g.add(out, shared)
    out = out.view(*shape)
    if facts["shared"] == "plain":
        out = g.add(out, shared_mlp(g, m, h, act))
    if facts["shared_mlp"]:
        out = g.add(out, m.shared_output(g, g.gated(act, m.shared_input(g, h))))
    del logits
    return out


def run_experts(g: Any, m: Any, flat: Any, index: Any, weights: Any, act: str, facts: Mapping[str, Any]) -> Any:
    """Stacked experts in one grouped product, or the old loop."""
    if facts["legacy"]:
        experts = [lambda x, i=i: expert_mlp(g, m, i, x, act) for i in range(facts["experts"])]
        return g.experts_looped(flat, index, weights, experts)
    return g.experts_grouped(
        flat, index, weights, m.experts_up, m.experts_down, lambda x: g.gated(act, x), num_experts=facts["experts"]
    )


def expert_mlp(g: Any, m: Any, i: int, x: Any, act: str) -> Any:
    """One expert of transformers < 5."""
    inner = g.glu(act, getattr(m, f"e{i}_gate")(g, x), getattr(m, f"e{i}_up")(g, x))
    return getattr(m, f"e{i}_down")(g, inner)


def route(g: Any, m: Any, flat: Any, facts: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Router logits, weights of the chosen experts and their indices."""
    router, k = facts["router"], facts["k"]
    if router == "group":
        return route_groups(g, m, flat, facts)
    if facts["legacy"] or router == "mixer":
        logits = m.gate(g, flat)
        if router == "mixer":
            weights, index = mixer(g, logits)
            return logits, weights, index
        weights, index = g.softmax_topk(logits, k, normalise=router == "mixtral" or facts["normalise"], cast=flat.dt)
        return logits, weights, index
    opened = g.opened(m.gate)
    logits = g.linear(flat, opened.value(g), None, "router")
    if router == "granite":
        logits = g.float(logits)
        top, index = g.topk(logits, k)
        return logits, g.to(g.softmax(top, None), flat.dt), index
    if router == "mixtral":
        probs = g.softmax(g.float(logits), F32)
        weights, index = g.topk(probs, k)
        return logits, g.div_(weights, g.sum_last(weights)), index
    weights, index = g.softmax_topk(logits, k, normalise=facts["normalise"], cast=logits.dt)
    return logits, weights, index


def route_groups(g: Any, m: Any, flat: Any, facts: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """DeepSeek-V3's: fp32 logits, sigmoid, best groups, best k, normalised and scaled."""
    opened = g.opened(m.gate)
    logits = g.linear(g.to(flat, F32), g.to(opened.value(g), F32), None, "router")
    scores = g.sigmoid(logits)
    index = choose_groups(g, scores, facts)
    weights = g.take_along(scores, index)
    if facts["normalise"]:
        weights = g.div_(weights, g.add_scalar(g.sum_last(weights)))
    return logits, g.scale(weights), index


def choose_groups(g: Any, scores: Any, facts: Mapping[str, Any]) -> Any:
    """The best k experts of the best groups; no gradient flows through the choice."""
    tokens, experts = scores.shape
    plain = scores.detach()
    choice = g.add_scalar(plain)
    groups = facts["groups"]
    best, _ = g.topk(choice.view(tokens * groups, experts // groups), 2)
    del _
    group_scores = g.sum_last(best)
    mask = g.ones((tokens, groups), F32, "group mask")
    score_mask = g.ones((tokens, experts), F32, "score mask")
    choice = g.add_scalar(choice)
    del best, group_scores, mask, score_mask
    _, index = g.topk(choice, facts["k"])
    return index


def mixer(g: Any, scores: Any) -> tuple[Any, Any]:
    """Phi-MoE's ``sparsemixer``: two sampled experts a token; small tensors of (tokens, experts)."""
    first, one = mixer_half(g, scores, scores)
    second, two = mixer_half(g, scores, g.scale(scores, "scatter"))
    weights = g.cat((first, second), (first.shape[0], 2))
    index = g.cat((one, two), (first.shape[0], 2))
    return weights, index


def mixer_half(g: Any, scores: Any, masked: Any) -> tuple[Any, Any]:
    """One of the two choices."""
    gates = g.softmax(g.scale(masked, "masked_fill"), None)
    _, index = g.topk(gates.detach(), 1)
    weights = g.mixer_weight(scores, gates, index)
    return weights, index


FAMILY = Family(
    name="moe",
    model_types=tuple(STYLES),
    build=build,
    source="transformers 5.23 models/{mixtral,qwen2_moe,qwen3_moe,olmoe,glm4_moe,dots1,phimoe}/modeling_*.py",
    examples=("mistralai/Mixtral-8x7B-v0.1", "Qwen/Qwen3-30B-A3B", "allenai/OLMoE-1B-7B-0924"),
)
