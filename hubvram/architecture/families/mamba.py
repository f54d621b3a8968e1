"""Mamba and Falcon-Mamba: selective state spaces, without the kernels of mamba-ssm.

transformers runs the scan token by token in Python unless mamba-ssm's kernels
are installed; that is what is described here. It keeps two copies of the state
per token.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import ends, rms_without_weight, tied_head
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Stack, Weight
from hubvram.timeline.dtypes import F32

SLOW = (
    "State spaces run token by token in PyTorch, as transformers does without mamba-ssm's kernels; "
    "with the kernels the states of all tokens are not kept."
)
REFUSED = ("out_proj", "conv1d")
"""Layers that PEFT's LoRA methods refuse on Mamba models (peft 0.21 ``tuners_utils.py``)."""


def conv_weights(path: str, channels: int, kernel: int, bias: bool) -> Linear:
    """A depthwise ``nn.Conv1d`` over tokens."""
    return Linear(path, kernel, channels, bias, kind="Conv1d", weight_shape=(channels, 1, kernel))


def idle(facts: Any, settings: Any, name: str) -> int:
    """Adapters on dt_proj get no gradient: the mixer multiplies with its plain weight."""
    return IDLE if ".dt_proj.lora_" in name else 0


IDLE = 1 << 30
"""More copies than any model has layers."""


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    model_type = config.text("model_type", default="mamba")
    hidden = config.positive("hidden_size", "d_model", default=4096 if model_type == "falcon_mamba" else 768)
    layers = config.positive("num_hidden_layers", "n_layer", default=64 if model_type == "falcon_mamba" else 32)
    vocab = config.positive("vocab_size")
    inner = int(config.number("expand", default=2) * hidden)
    if model_type == "falcon_mamba":
        inner = config.whole("intermediate_size", default=inner)
    states = config.positive("state_size", default=16)
    kernel = config.positive("conv_kernel", default=4)
    rank = config.raw("time_step_rank")
    rank = ceil(hidden / 16) if rank is None or rank == "auto" else config.positive("time_step_rank")
    bias = config.flag("use_bias", default=False)
    modules: dict[str, Module] = {
        "norm": Norm("norm", hidden),
        "in_proj": Linear("mixer.in_proj", hidden, 2 * inner, bias),
        "conv": conv_weights("mixer.conv1d", inner, kernel, config.flag("use_conv_bias", default=True)),
        "x_proj": Linear("mixer.x_proj", inner, rank + 2 * states),
        "dt_proj": Linear("mixer.dt_proj", rank, inner, True),
        "a_log": Weight("mixer.A_log", (inner, states)),
        "d": Weight("mixer.D", (inner,)),
        "out_proj": Linear("mixer.out_proj", inner, hidden, bias, role="mlp_out"),
    }
    falcon = model_type == "falcon_mamba"
    if falcon:
        modules["dt_weight"] = Weight("mixer.dt_layernorm.weight", (inner,), buffer=True)
        modules["b_weight"] = Weight("mixer.b_layernorm.weight", (states,), buffer=True)
        modules["c_weight"] = Weight("mixer.c_layernorm.weight", (states,), buffer=True)
    return Architecture(
        family="mamba",
        model_type=model_type,
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
        tied=tied_head(config, default=True),
        assumptions=(SLOW,),
        facts={
            "act": config.text("hidden_act", default="silu"),
            "inner": inner,
            "states": states,
            "rank": rank,
            "kernel": kernel,
            "fp32_residual": config.flag("residual_in_fp32", default=True),
            "falcon": falcon,
            "cache_bytes_per_token": 0,
            "peft_refuses": REFUSED,
            "idle": idle,
        },
    )


def forward(g: Any, net: Any, batch: Any, mix: Any = None) -> Any:
    """MambaForCausalLM.forward: the logits are made fp32 before the loss sees them."""
    x = trunk(g, net, batch, mix or mixer)
    if not net.plan.training:
        return net.causal_loss(g, x, batch)
    logits = [g.float(net.lm_head(g, g.to(x, net.lm_head.weight.dt)))]
    return net.finish(g, logits, batch)


def trunk(g: Any, net: Any, batch: Any, mix: Any) -> Any:
    """MambaModel.forward."""
    facts = net.arch.facts
    x = net.embed_tokens(g, batch)

    def layer(m: Any, x: Any) -> Any:
        residual = x
        h = g.rms_norm(g.to(x, m.norm.weight.dt), m.norm.weight)
        if facts["fp32_residual"]:
            residual = g.to(residual, F32)
        h = mix(g, m, h, facts, batch.padding)
        return g.add(residual, h)

    x = net.run(g, "layers", layer, x, first_apart=facts["fp32_residual"] and x.dt is not F32)
    return g.rms_norm(x, net.norm.weight)


def masked(g: Any, x: Any, padding: bool) -> Any:
    """``apply_mask_to_padding_states``: times a mask of tokens."""
    if not padding:
        return x
    mask = g.ones((*x.shape[:2], 1), x.dt, "padding mask")
    return g.mul(x, mask)


def mixer(g: Any, m: Any, h: Any, facts: Any, padding: bool) -> Any:
    """``MambaMixer.forward`` without kernels."""
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
    if facts["falcon"]:
        step, bb, cc = rms_without_weight(g, step), rms_without_weight(g, bb), rms_without_weight(g, cc)
    step = g.linear(step, m.dt_proj.weight, None, "mixer.dt_proj")
    bias = g.float(m.dt_proj.bias)
    out = selective_scan(g, x, step, decay, bb, cc, g.float(m.d), z, bias)
    y = g.to(out, dt)
    if b > 1:
        y = g.clone(y, "reshape")
    return m.out_proj(g, y.view(b, s, inner))


def causal_conv(g: Any, x: Any, conv: Any, kernel: int, act: str | None) -> Any:
    """``causal_conv1d_fn`` without its kernel: a padded depthwise convolution cut to length, then the activation."""
    b, channels, s = x.shape
    out = g.conv(x, conv.weight, conv.bias, (s + kernel - 1,), "conv1d")
    out = g.slice(out, (b, channels, s))
    return g.act(act, out) if act is not None else out


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


FAMILY = Family(
    name="mamba",
    model_types=("mamba", "falcon_mamba"),
    build=build,
    source="transformers 5.23 models/{mamba,falcon_mamba}/modeling_*.py",
    examples=("state-spaces/mamba-130m-hf", "tiiuae/falcon-mamba-7b"),
)
