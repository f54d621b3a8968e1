"""How the decoders turn q and k: ``apply_rotary_pos_emb`` of each modeling file (transformers 5.23)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rotate = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def _parts(g: Any, x: Any, dim: int) -> tuple[Any, Any]:
    """``x[..., :dim]`` and ``x[..., dim:]``; a slice of everything is x itself, an empty one still has a backward."""
    whole = x.shape
    turned = x if dim == whole[-1] else g.slice(x, (*whole[:-1], dim))
    return turned, g.slice(x, (*whole[:-1], whole[-1] - dim))


def joined(g: Any, q: Any, k: Any, cos: Any, sin: Any, dim: int) -> tuple[Any, Any]:
    """Rotary on the first ``dim`` of each head: both turned, then both joined with the rest (GPT-NeoX, Phi, GLM)."""
    q_rot, q_pass = _parts(g, q, dim)
    k_rot, k_pass = _parts(g, k, dim)
    q_out = g.rotary_one(q_rot, cos, sin)
    k_out = g.rotary_one(k_rot, cos, sin)
    q_out = g.cat((q_out, q_pass), q.shape)
    k_out = g.cat((k_out, k_pass), k.shape)
    return q_out, k_out


def joined_each(g: Any, q: Any, k: Any, cos: Any, sin: Any, dim: int) -> tuple[Any, Any]:
    """As `joined`, q finished before k is begun (Phi-3)."""
    q_rot, q_pass = _parts(g, q, dim)
    k_rot, k_pass = _parts(g, k, dim)
    q_out = g.cat((g.rotary_one(q_rot, cos, sin), q_pass), q.shape)
    return q_out, g.cat((g.rotary_one(k_rot, cos, sin), k_pass), k.shape)


def joined_one(g: Any, x: Any, cos: Any, sin: Any, dim: int) -> Any:
    """The same for one tensor (Qwen)."""
    rot, rest = _parts(g, x, dim)
    rot = g.rotary_one(rot, cos, sin)
    return g.cat((rot, rest), x.shape)


def _widened(g: Any, x: Any) -> Any:
    """``x[..., : dim // 2].repeat_interleave(2)``: made anew in every layer."""
    return g.ones(x.shape, x.dt, "rotary repeat_interleave")


def _cast_back(g: Any, q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """cos and sin in fp32: products in fp32, cast back when both are done (OLMo)."""
    q_out = g.rotary_one(q, cos, sin)
    k_out = g.rotary_one(k, cos, sin)
    return g.to(q_out, q.dt), g.to(k_out, k.dt)


def _cohere(g: Any, q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """q and k cast up first (Cohere)."""
    dt = q.dt
    q = g.float(q)
    k = g.float(k)
    q_out = g.rotary_one(q, cos, sin)
    k_out = g.rotary_one(k, cos, sin)
    return g.to(q_out, dt), g.to(k_out, dt)


def _ernie(g: Any, q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """Half rotation in the input's dtype, products in fp32 (ERNIE 4.5)."""
    cos = _widened(g, cos)
    sin = _widened(g, sin)

    def one(x: Any) -> Any:
        straight = g.mul(g.float(x), cos)
        return g.add(straight, g.mul(g.float(g.rotate_half(x)), sin))

    q_out = one(q)
    k_out = one(k)
    return g.to(q_out, q.dt), g.to(k_out, k.dt)


def complex_rotary(g: Any, q: Any, k: Any, table: Any) -> tuple[Any, Any]:
    """DeepSeek-V2's and Llama 4's: pairs as complex numbers in fp32."""
    dt = q.dt
    q32, k32 = g.float(q), g.float(k)
    q_out = g.to(g.mul(q32, table), dt)
    k_out = g.to(g.mul(k32, table), dt)
    return q_out, k_out


def rotation(g: Any, kind: str, dim: int, fp32: bool) -> Rotate:
    """The function ``(q, k, cos, sin) -> (q, k)`` of a variant; ``dim`` is the rotated part of a head."""
    if kind == "joined":
        return lambda q, k, cos, sin: joined(g, q, k, cos, sin, dim)
    if kind == "joined_each":
        return lambda q, k, cos, sin: joined_each(g, q, k, cos, sin, dim)
    if kind == "interleaved_joined":
        return lambda q, k, cos, sin: joined(g, q, k, _widened(g, cos), _widened(g, sin), dim)
    if kind == "interleaved":
        return lambda q, k, cos, sin: g.rotary(q, k, _widened(g, cos), _widened(g, sin))
    if kind == "cohere":
        return lambda q, k, cos, sin: _cohere(g, q, k, cos, sin)
    if kind == "ernie":
        return lambda q, k, cos, sin: _ernie(g, q, k, cos, sin)
    if fp32:
        return lambda q, k, cos, sin: _cast_back(g, q, k, cos, sin)
    return g.rotary  # type: ignore[no-any-return]  # g is an Ops
