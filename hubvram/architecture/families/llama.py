"""Llama, Mistral, Qwen2 and their like: RMSNorm, rotary, grouped attention, gated MLP."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack


def layer_kinds(config: Config, layers: int, window: int | None) -> tuple[list[int | None], tuple[int, ...]]:
    """Distinct attention windows and, per layer, which it has.

    ``layer_types`` (transformers 5) or ``use_sliding_window`` / ``max_window_layers``
    (Qwen2: layers from max_window_layers on) or the whole model (Mistral).
    """
    types = config.raw("layer_types")
    if isinstance(types, list) and len(types) == layers:
        windows = [window if t == "sliding_attention" else None for t in types]
    elif window is not None and config.raw("use_sliding_window") is not None:
        first = config.int("max_window_layers", default=layers)
        windows = [window if config.flag("use_sliding_window", default=False) and i >= first else None
                   for i in range(layers)]
    else:
        windows = [window] * layers
    kinds = list(dict.fromkeys(windows))
    return kinds, tuple(kinds.index(w) for w in windows)


def build(config: Config, header: Header) -> Architecture:
    """From config.json; biases from the header."""
    model_type = config.text("model_type", default="llama")
    hidden = config.positive("hidden_size")
    inner = config.positive("intermediate_size")
    layers = config.positive("num_hidden_layers")
    heads = config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", default=heads)
    head_dim = config.optional("head_dim") or hidden // heads
    vocab = config.positive("vocab_size")
    qkv_bias = config.flag("attention_bias", default=model_type == "qwen2")
    first = "model.layers.0."

    def linear(path: str, n_in: int, n_out: int, bias: bool, role: Any = "") -> Linear:
        return Linear(path, n_in, n_out, header.has_bias(first + path, bias), role=role)

    mlp_bias = config.flag("mlp_bias", default=False)
    modules: dict[str, Module] = {
        "input_norm": Norm("input_layernorm", hidden),
        "q_proj": linear("self_attn.q_proj", hidden, heads * head_dim, qkv_bias),
        "k_proj": linear("self_attn.k_proj", hidden, kv_heads * head_dim, qkv_bias),
        "v_proj": linear("self_attn.v_proj", hidden, kv_heads * head_dim, qkv_bias),
        "o_proj": linear("self_attn.o_proj", heads * head_dim, hidden, qkv_bias and model_type != "qwen2", "attn_out"),
        "post_norm": Norm("post_attention_layernorm", hidden),
        "gate_proj": linear("mlp.gate_proj", hidden, inner, mlp_bias),
        "up_proj": linear("mlp.up_proj", hidden, inner, mlp_bias),
        "down_proj": linear("mlp.down_proj", inner, hidden, mlp_bias, "mlp_out"),
    }
    window = config.optional("sliding_window")
    kinds, order = layer_kinds(config, layers, window)
    tied = config.flag("tie_word_embeddings", default=False)
    return Architecture(
        family="llama",
        model_type=model_type,
        class_name=None,
        task="causal",
        modules={
            "embed": Embedding("model.embed_tokens", vocab, hidden),
            "norm": Norm("model.norm", hidden),
            "lm_head": Linear("lm_head", hidden, vocab, header.has_bias("lm_head", False), role="head"),
        },
        stacks={
            "layers": Stack("model.layers", tuple(Block(modules, {"window": w}) for w in kinds), order),
        },
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_seq_len=config.optional("max_position_embeddings"),
        tied={"lm_head": "embed"} if tied else {},
        facts={"act": config.text("hidden_act", default="silu"), "kinds": kinds, "rotary_dim": head_dim},
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """LlamaForCausalLM.forward."""
    arch = net.arch
    x = net.embed_tokens(g, batch)
    b, s = x.shape[0], x.shape[1]
    masks = {w: g.causal_mask(b, s, x.dt, batch.padding, window=w) for w in arch.facts["kinds"]}
    cos, sin = g.rotary_tables(1, s, arch.head_dim, x.dt)
    act = arch.facts["act"]

    def attention(m: Any, h: Any) -> Any:
        q = m.q_proj(g, h).view(b, arch.num_attention_heads, s, arch.head_dim)
        k = m.k_proj(g, h).view(b, arch.num_key_value_heads, s, arch.head_dim)
        v = m.v_proj(g, h).view(b, arch.num_key_value_heads, s, arch.head_dim)
        q, k = g.rotary(q, k, cos, sin)
        k, v, mask = net.with_prefix(g, m, k, v, masks[m.facts["window"]])
        return m.o_proj(g, g.attention(q, k, v, mask))

    def mlp(m: Any, h: Any) -> Any:
        return m.down_proj(g, g.glu(act, m.gate_proj(g, h), m.up_proj(g, h)))

    def layer(m: Any, x: Any) -> Any:
        h = g.rms_norm(x, m.input_norm.weight)
        h = attention(m, h)
        x = g.add(x, h)
        h = g.rms_norm(x, m.post_norm.weight)
        h = mlp(m, h)
        return g.add(x, h)

    x = net.run(g, "layers", layer, x)
    x = g.rms_norm(x, net.norm.weight)
    return net.causal_loss(g, x, batch)


FAMILY = Family(
    name="llama",
    model_types=("llama", "mistral", "qwen2"),
    build=build,
    source="transformers 5.23 models/{llama,mistral,qwen2}/modeling_*.py",
    examples=("meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.1", "Qwen/Qwen2.5-7B"),
)
