"""What GPT-2 and its followers share: the order inside a layer, the MLP, scores in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hubvram.architecture.config import Config


def pdrops(config: Config, default: float) -> dict[str, float]:
    """The three rates of dropout: on embeddings, attention weights, and what joins the residual."""
    return {name: config.number(name, default=default) for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")}


def block(g: Any, attention: Callable[[Any, Any], Any], mlp: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """``GPT2Block.forward``, as GPT-BigCode and GPT-Neo have it too: (batch, tokens, hidden) in and out."""

    def layer(m: Any, x: Any) -> Any:
        h = g.layer_norm(x, m.ln_1.weight, m.ln_1.bias)
        out = attention(m, h)
        h = g.add(out, x)
        x = h
        h = g.layer_norm(h, m.ln_2.weight, m.ln_2.bias)
        ff = mlp(m, h)
        return g.add(x, ff)

    return layer


def run_mlp(g: Any, up: Any, down: Any, h: Any, act: str, dropout: float) -> Any:
    """``GPT2MLP.forward``: up, activation, down, dropout."""
    h = up(g, h)
    h = g.act(act, h)
    h = down(g, h)
    return g.dropout(h, dropout)


def scores(g: Any, q: Any, k: Any, shape: tuple[int, ...]) -> Any:
    """``torch.matmul(query, key.transpose(-1, -2))`` of permuted views, as ``_attn`` of GPT-Neo and GPT-J writes it.

    With more than one sample matmul copies what it cannot view as
    three-dimensional; the copies die with the product.
    """
    if q.shape[0] > 1:
        q_copy, k_copy = g.clone(g.lower(q), "matmul reshape"), g.clone(g.lower(k), "matmul reshape")
        return g.matmul(q_copy, k_copy, shape, "attention scores")
    return g.matmul(q, k, shape, "attention scores")
