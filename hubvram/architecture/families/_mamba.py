"""What models with Mamba's selective state spaces share (Mamba, Falcon-Mamba, Jamba; Mamba-2 and Qwen3-Next in part).

transformers runs the scan token by token in Python unless mamba-ssm's kernels
are installed; that is what is described here. It keeps two copies of the state
per token. Source: transformers 5.23 ``models/mamba/modeling_mamba.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.modules import Linear, Module, Weight
from hubvram.errors import UnsupportedError

SLOW = (
    "State spaces run token by token in PyTorch, as transformers does without mamba-ssm's kernels; "
    "with the kernels the states of all tokens are not kept."
)
REFUSED = ("out_proj", "conv1d")
"""Layers that PEFT's LoRA methods refuse on Mamba models (peft 0.21 ``tuners_utils.py``)."""
IDLE = 1 << 30
"""More copies than any model has layers."""


def conv_weights(path: str, channels: int, kernel: int, bias: bool) -> Linear:
    """A depthwise ``nn.Conv1d`` over tokens."""
    return Linear(path, kernel, channels, bias, kind="Conv1d", weight_shape=(channels, 1, kernel))


def step_rank(config: Config, name: str, hidden: int) -> int:
    """Width of the step before its projection: the config's, or a sixteenth of hidden."""
    rank = config.raw(name)
    return ceil(hidden / 16) if rank is None or rank == "auto" else config.positive(name)


def mixer_modules(
    path: str, hidden: int, inner: int, states: int, rank: int, conv: Linear, bias: bool, role: Any
) -> dict[str, Module]:
    """``MambaMixer`` at ``path`` with its convolution."""
    return {
        "in_proj": Linear(f"{path}.in_proj", hidden, 2 * inner, bias),
        "conv": conv,
        "x_proj": Linear(f"{path}.x_proj", inner, rank + 2 * states),
        "dt_proj": Linear(f"{path}.dt_proj", rank, inner, True),
        "a_log": Weight(f"{path}.A_log", (inner, states)),
        "d": Weight(f"{path}.D", (inner,)),
        "out_proj": Linear(f"{path}.out_proj", inner, hidden, bias, role=role),
    }


def idle(plan: Any, name: str) -> int:
    """Adapters on dt_proj get no gradient where the mixer multiplies with its plain weight."""
    return IDLE if ".dt_proj.lora_" in name and not plan.packed else 0


def masked(g: Any, x: Any, padding: bool) -> Any:
    """``apply_mask_to_padding_states``: times a mask of tokens."""
    if not padding:
        return x
    mask = g.ones((*x.shape[:2], 1), x.dt, "padding mask")
    return g.mul(x, mask)


def causal_conv(g: Any, x: Any, conv: Any, kernel: int, act: str | None) -> Any:
    """``causal_conv1d_fn`` without its kernel: a padded depthwise convolution cut to length, then the activation."""
    b, channels, s = x.shape
    out = g.conv(x, conv.weight, conv.bias, (s + kernel - 1,), "conv1d")
    out = g.slice(out, (b, channels, s))
    return g.act(act, out) if act is not None else out


def selective_mixer(
    g: Any,
    m: Any,
    h: Any,
    facts: Any,
    padding: bool,
    path: str,
    normed: Callable[[Any, Any, Any], tuple[Any, Any, Any]],
    *,
    calls_packed: bool = False,
) -> Any:
    """``MambaMixer.forward`` without kernels: (batch, tokens, hidden) in and out.

    ``normed(step, B, C)`` is what Falcon-Mamba and Jamba do to the three
    before the step is projected; ``path`` is the mixer's name in the layer.
    ``calls_packed``: a quantised ``dt_proj`` is called as a module and its
    bias taken off again (Jamba); the others multiply with its weight.

    Raises:
        UnsupportedError: a quantised ``dt_proj`` where the model multiplies with its weight.
    """
    b, s, _ = h.shape
    dt, inner, states, rank = h.dt, facts["inner"], facts["states"], facts["rank"]
    h = masked(g, h, padding)
    projected = m.in_proj(g, h)
    decay = g.scale(g.exp(g.float(m.a_log)), "neg")
    x, z = g.split(projected, [(b, inner, s), (b, inner, s)])
    x = causal_conv(g, x, m.conv, facts["kernel"], facts["act"])
    x = masked(g, x.view(b, s, inner), padding)
    rows = x if b == 1 else g.clone(x, "reshape")
    step, bb, cc = g.split(m.x_proj(g, rows), [(b, s, rank), (b, s, states), (b, s, states)])
    del rows
    step, bb, cc = normed(step, bb, cc)
    if getattr(m.dt_proj, "weight", None) is not None:
        step = g.linear(step, m.dt_proj.weight, None, f"{path}.dt_proj")
    elif calls_packed:
        step = g.sub(m.dt_proj(g, step), m.dt_proj.bias)
    else:
        raise UnsupportedError(
            f"the mixer multiplies with {path}.dt_proj.weight itself, which fails when that is quantised: "
            "name dt_proj in llm_int8_skip_modules."
        )
    bias = g.float(m.dt_proj.bias)
    out = selective_scan(g, x, step, decay, bb, cc, g.float(m.d), z, bias)
    y = g.to(out, dt)
    if b > 1:
        y = g.clone(y, "reshape")
    return m.out_proj(g, y.view(b, s, inner))


def selective_scan(g: Any, x: Any, step: Any, decay: Any, bb: Any, cc: Any, d: Any, z: Any, bias: Any) -> Any:
    """``mamba_selective_scan``, the loop over tokens."""
    b, s, states = bb.shape
    inner = x.shape[-1]
    flat = (b, inner, s)
    wide = (b, inner, s, states)
    step = g.add(step, g.to(bias, step.dt))
    step = g.softplus(step)
    a = g.exp(g.outer(decay, step, wide))
    update_b = g.outer(step, g.float(bb), wide)
    update = g.outer(update_b, g.float(x), wide)
    out, frame = g.recurrence(a, update, cc, x.dt)
    out = g.add(out, g.outer(x, d, flat))
    out = g.mul(out, g.silu(z))
    del frame, a, update_b, update
    return out
