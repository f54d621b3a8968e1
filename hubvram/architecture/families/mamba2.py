"""Mamba-2: state-space duality in chunks of tokens, without the kernels of mamba-ssm.

Source: transformers 5.23 ``models/mamba2/modeling_mamba2.py`` (mamba2_chunk_scan).
"""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import ends, tied_head
from hubvram.architecture.families._mamba import REFUSED, causal_conv, conv_weights, masked
from hubvram.architecture.families.mamba import forward as mamba_forward
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Stack, Weight
from hubvram.timeline.dtypes import F32

SLOW = "State spaces run as matrix products in PyTorch, as transformers does without mamba-ssm's kernels."


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    hidden = config.positive("hidden_size", default=4096)
    layers = config.positive("num_hidden_layers", default=64)
    vocab = config.positive("vocab_size")
    heads, dim = config.positive("num_heads", default=128), config.positive("head_dim", default=64)
    states, groups = config.positive("state_size", default=128), config.positive("n_groups", default=8)
    inner = int(config.number("expand", default=2) * hidden)
    bias = config.flag("use_bias", default=False)
    width = inner + 2 * groups * states
    kernel = config.positive("conv_kernel", default=4)
    modules: dict[str, Module] = {
        "norm": Norm("norm", hidden),
        "in_proj": Linear("mixer.in_proj", hidden, inner + width + heads, bias),
        "conv": conv_weights("mixer.conv1d", width, kernel, config.flag("use_conv_bias", default=True)),
        "dt_bias": Weight("mixer.dt_bias", (heads,)),
        "a_log": Weight("mixer.A_log", (heads,)),
        "d": Weight("mixer.D", (heads,)),
        "gated_norm": Norm("mixer.norm", inner),
        "out_proj": Linear("mixer.out_proj", inner, hidden, bias, role="mlp_out"),
    }
    return Architecture(
        family="mamba2",
        model_type="mamba2",
        class_name=None,
        task="causal",
        modules=ends(hidden, vocab, "backbone.embeddings", "backbone.norm_f"),
        stacks={"layers": Stack("backbone.layers", (Block(modules),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=states,
        max_seq_len=None,
        tied=tied_head(config),
        assumptions=(SLOW,),
        facts={
            "act": config.text("hidden_act", default="silu"),
            "fp32_residual": config.flag("residual_in_fp32", default=True),
            "mixer": {
                "inner": inner,
                "width": width,
                "heads": heads,
                "dim": dim,
                "groups": groups,
                "states": states,
                "kernel": kernel,
                "chunk": config.positive("chunk_size", default=256),
                "act": config.text("hidden_act", default="silu"),
            },
            "cache_bytes_per_token": 0,
            "peft_refuses": REFUSED,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """Mamba's, with another mixer."""
    return mamba_forward(g, net, batch, mixer)


def mixer(g: Any, m: Any, h: Any, facts: Any, padding: bool) -> Any:
    """``Mamba2Mixer.forward`` without kernels."""
    f = facts["mixer"]
    b, s, _ = h.shape
    dt, heads, dim, groups, states = h.dt, f["heads"], f["dim"], f["groups"], f["states"]
    h = masked(g, h, padding)
    projected = m.in_proj(g, h)
    decay = g.scale(g.exp(g.float(m.a_log)), "neg")
    gate, x, step = g.split(projected, [(b, s, f["inner"]), (b, f["width"], s), (b, s, heads)])
    x = causal_conv(g, x, m.conv, f["kernel"], f["act"])
    x = masked(g, x.view(b, s, f["width"]), padding)
    x, bb, cc = g.split(x, [(b, s, heads, dim), (b, s, groups, states), (b, s, groups, states)])
    out = chunk_scan(g, x, step, decay, bb, cc, m.d, m.dt_bias, f["chunk"])
    out = gated_norm(g, out.view(b, s, f["inner"]), gate, m.gated_norm.weight, dt)
    return m.out_proj(g, g.to(out, dt))


def gated_norm(g: Any, x: Any, gate: Any, w: Any, dt: Any) -> Any:
    """``MambaRMSNormGated``: times silu of the gate in fp32, normalised; the scan's output is fp32 already."""
    src = x.dt
    x = g.float(x)
    x = g.mul(x, g.silu(g.float(gate)))
    return g.mul(w, g.to(g.rms_normalise(x), src))


def einsum(g: Any, a: Any, b: Any, shape: tuple[int, ...], op: str, *, copy_a: bool = True, copy_b: bool = True) -> Any:
    """``torch.einsum`` of two tensors: operands whose batch dimensions are apart in memory are copied first."""
    left = g.clone(a, op + " reshape") if copy_a else a
    right = g.clone(b, op + " reshape") if copy_b else b
    return g.matmul(left, right, shape, op)


def segment_sum(g: Any, x: Any, shape: tuple[int, ...]) -> Any:
    """``segment_sum``: spread over rows, masked, summed, masked again."""
    spread = g.expand(x, shape, "masked_fill")
    return g.scale(g.scale(spread, "cumsum"), "masked_fill")


def chunk_scan(g: Any, x: Any, step: Any, decay: Any, bb: Any, cc: Any, d: Any, dt_bias: Any, size: int) -> Any:
    """``mamba2_chunk_scan``."""
    b, s, heads, dim = x.shape
    states = bb.shape[-1]
    chunks = -(-s // size)
    total = chunks * size
    step = g.add(step, g.to(dt_bias, step.dt))
    step = g.softplus(step)
    step = g.clamp(step, 2)
    x = g.float(x)
    bb = g.expand(g.float(bb), (b, s, heads, states), "repeat_interleave")
    cc = g.expand(g.float(cc), (b, s, heads, states), "repeat_interleave")
    residual = g.mul(d.view(1, 1, heads, 1), g.expand(x, (b, total, heads, dim), "pad"))
    x = g.mul(x, g.float(step).view(b, s, heads, 1))
    a = g.mul(decay, g.float(step))
    x, bb, cc = (g.expand(y, (b, total, heads, y.shape[-1]), "pad") for y in (x, bb, cc))
    a = g.expand(a, (b, total, heads), "pad")
    sums = g.add_scalar(a)
    square = (b, heads, chunks, size, size)
    lower = g.exp(segment_sum(g, a, square))
    wide = (b, chunks, heads, size)
    inner = einsum(g, cc, bb, (*wide, size), "C B")
    weights = g.mul(inner, lower.view(*wide, size))
    diagonal = einsum(g, weights, x, (*wide, dim), "Y diagonal", copy_a=False)
    decayed = g.exp(g.sub_last(sums))
    b_decay = g.mul(bb, decayed.view(b, total, heads, 1))
    held = (b, chunks, heads, dim, states)
    state = einsum(g, b_decay, x, held, "chunk states")
    before = g.ones((b, 1, heads, dim, states), F32, "previous states")
    state = g.cat((before, state), (b, chunks + 1, heads, dim, states))
    between = g.exp(segment_sum(g, g.slice(sums, (b, heads, chunks)), (b, heads, chunks + 1, chunks + 1)))
    fresh = einsum(g, between, state, (b, chunks + 1, heads, dim, states), "states passed on", copy_a=False)
    state, _ = g.split(fresh, [held, (b, 1, heads, dim, states)])
    out_decay = g.exp(sums)
    reads = einsum(g, cc, state, (*wide, dim), "C states")
    off = g.mul(reads, out_decay.view(*wide, 1))
    out = g.add(diagonal, off)
    out = g.clone(out).view(b, total, heads, dim)
    out = g.add(out, residual)
    return g.slice(out, (b, s, heads, dim)) if total != s else out


FAMILY = Family(
    name="mamba2",
    model_types=("mamba2",),
    build=build,
    source="transformers 5.23 models/mamba2/modeling_mamba2.py",
    examples=("state-spaces/mamba2-2.7b",),
)
