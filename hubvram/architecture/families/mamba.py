"""Mamba and Falcon-Mamba: selective state spaces, without the kernels of mamba-ssm (see `_mamba`)."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import ends, rms_without_weight, tied_head
from hubvram.architecture.families._mamba import (
    REFUSED,
    SLOW,
    conv_weights,
    idle,
    mixer_modules,
    selective_mixer,
    step_rank,
)
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Module, Norm, Stack, Weight
from hubvram.timeline.dtypes import F32


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
    rank = step_rank(config, "time_step_rank", hidden)
    bias = config.flag("use_bias", default=False)
    conv = conv_weights("mixer.conv1d", inner, kernel, config.flag("use_conv_bias", default=True))
    modules: dict[str, Module] = {
        "norm": Norm("norm", hidden),
        **mixer_modules("mixer", hidden, inner, states, rank, conv, bias, "mlp_out"),
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


def mixer(g: Any, m: Any, h: Any, facts: Any, padding: bool) -> Any:
    """``MambaMixer.forward``; Falcon-Mamba's has norms without weights on the step, B and C."""

    def normed(step: Any, bb: Any, cc: Any) -> tuple[Any, Any, Any]:
        if not facts["falcon"]:
            return step, bb, cc
        return rms_without_weight(g, step), rms_without_weight(g, bb), rms_without_weight(g, cc)

    return selective_mixer(g, m, h, facts, padding, "mixer", normed)


FAMILY = Family(
    name="mamba",
    model_types=("mamba", "falcon_mamba"),
    build=build,
    source="transformers 5.23 models/{mamba,falcon_mamba}/modeling_*.py",
    examples=("state-spaces/mamba-130m-hf", "tiiuae/falcon-mamba-7b"),
)
