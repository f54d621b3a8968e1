"""Layers of BART's line of encoder-decoders (BART, mBART, Pegasus, Marian, Whisper)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families._encoder import biased, layer_norm
from hubvram.architecture.modules import Block, Linear, Module


@dataclass(frozen=True, slots=True)
class Style:
    """How one model of the line differs from the others."""

    heads: int
    act: str
    dropout: float
    attn_dropout: float
    act_dropout: float
    pre_norm: bool
    clamps: bool = False
    """fp16 hidden states are clamped at the end of an encoder layer."""
    contiguous: bool = False
    """Whisper: the query is scaled before attention; q, k and v are copied to (batch, heads, tokens, dim)."""


def rates(config: Config, dropout: float) -> dict[str, Any]:
    """Activation and rates of dropout, of both sides alike; ``dropout`` is the class's default."""
    return {
        "act": config.text("activation_function", default="gelu"),
        "dropout": config.number("dropout", default=dropout),
        "attn_dropout": config.number("attention_dropout", default=0.0),
        "act_dropout": config.number("activation_dropout", default=0.0),
    }


def block(width: int, inner: int, *, decoder: bool, k_bias: bool = True) -> Block:
    """One layer; ``k_bias`` is False in Whisper."""
    modules: dict[str, Module] = {}

    def attention(name: str, at: str) -> None:
        modules[f"{name}_k"] = Linear(f"{at}.k_proj", width, width, k_bias)
        modules[f"{name}_v"] = biased(f"{at}.v_proj", width, width)
        modules[f"{name}_q"] = biased(f"{at}.q_proj", width, width)
        modules[f"{name}_o"] = biased(f"{at}.out_proj", width, width, "attn_out")

    attention("self", "self_attn")
    modules["self_norm"] = layer_norm("self_attn_layer_norm", width)
    if decoder:
        attention("cross", "encoder_attn")
        modules["cross_norm"] = layer_norm("encoder_attn_layer_norm", width)
    modules["up"] = biased("fc1", width, inner)
    modules["down"] = biased("fc2", inner, width, "mlp_out")
    modules["norm"] = layer_norm("final_layer_norm", width)
    return Block(modules)


def layer_of(
    g: Any, net: Any, style: Style, *, causal: bool, mask: Any, states: Any = None, cross_mask: Any = None
) -> Callable[[Any, Any], Any]:
    """``layer(m, x)`` of an encoder (``states`` None) or a decoder."""
    heads = style.heads

    def split(x: Any) -> Any:
        b, s, width = x.shape
        x = x.view(b, heads, s, width // heads)
        return g.clone(x) if style.contiguous else x

    weights: list[Any] = [None]  # of the last attention; the layer holds them

    def attention(m: Any, name: str, h: Any, other: Any, masked: Any, within: bool) -> Any:
        q = getattr(m, f"{name}_q")(g, h)
        q = split(g.scale(q, "query scaling") if style.contiguous else q)
        k = split(getattr(m, f"{name}_k")(g, other))
        v = split(getattr(m, f"{name}_v")(g, other))
        if within and name == "self":
            k, v, masked = net.with_prefix(g, m, k, v, masked)
        out = g.attention(
            q,
            k,
            v,
            masked,
            causal=within,
            dropout=style.attn_dropout,
            fp32_softmax=False,
            bhsd=style.contiguous,
            cast_back=False,
        )
        weights[0] = g.returned_weights()
        return getattr(m, f"{name}_o")(g, out)

    def part(norm: Any, run: Callable[[Any], Any], x: Any) -> Any:
        residual = x
        if style.pre_norm:
            x = g.layer_norm(x, norm.weight, norm.bias)
        x = run(x)
        x = g.dropout(x, style.dropout)
        x = g.add(residual, x)
        if not style.pre_norm:
            x = g.layer_norm(x, norm.weight, norm.bias)
        return x

    def layer(m: Any, x: Any) -> Any:
        def mlp(h: Any) -> Any:
            h = g.act(style.act, m.up(g, h))
            h = g.dropout(h, style.act_dropout)
            return m.down(g, h)

        x = part(m.self_norm, lambda h: attention(m, "self", h, h, mask, causal), x)
        if states is not None:
            x = part(m.cross_norm, lambda h: attention(m, "cross", h, states, cross_mask, False), x)
        x = part(m.norm, mlp, x)
        if style.clamps and states is None and x.dt.name == "float16":
            x = g.unary("clamp", x)
        weights[0] = None
        return x

    return layer
