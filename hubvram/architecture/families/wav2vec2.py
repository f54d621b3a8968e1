"""wav2vec 2.0: convolutions over raw sound, an encoder, CTC loss over characters."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import biased, convolution, layer_norm
from hubvram.architecture.families._vision import self_attention
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Module, Norm, Stack, Weight
from hubvram.errors import UnsupportedError

LABELS_PER_FRAME = (3, 10)
"""Characters a frame of 20 ms: about 15 a second of read English; the CTC loss keeps a table of frames x labels."""


def sequence(config: Config, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """A list of whole numbers, one for each convolution.

    Raises:
        UnsupportedError: something else.
    """
    value = config.raw(name)
    if value is None:
        return default
    if isinstance(value, list) and value and all(isinstance(v, int) for v in value):
        return tuple(value)
    raise UnsupportedError(f"{config.where}: {name} is {value!r}, not a list of numbers.")


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in Wav2Vec2Config."""
    hidden = config.positive("hidden_size", default=768)
    layers = config.positive("num_hidden_layers", default=12)
    heads = config.positive("num_attention_heads", default=12)
    inner = config.positive("intermediate_size", default=3072)
    vocab = config.positive("vocab_size", default=32)
    dims = sequence(config, "conv_dim", (512,) * 7)
    kernels = sequence(config, "conv_kernel", (10, 3, 3, 3, 3, 2, 2))
    strides = sequence(config, "conv_stride", (5, 2, 2, 2, 2, 2, 2))
    bias = config.flag("conv_bias", default=False)
    grouped = config.text("feat_extract_norm", default="group") == "group"
    kernel = config.positive("num_conv_pos_embeddings", default=128)
    groups = config.positive("num_conv_pos_embedding_groups", default=16)
    stable = config.flag("do_stable_layer_norm", default=False)
    base = "wav2vec2"
    modules: dict[str, Module] = {}
    for i, (dim, width) in enumerate(zip(dims, kernels, strict=True)):
        at = f"{base}.feature_extractor.conv_layers.{i}"
        modules[f"conv{i}"] = convolution(f"{at}.conv", dims[i - 1] if i else 1, dim, width, bias=bias)
        if not grouped or i == 0:
            modules[f"conv_norm{i}"] = Norm(f"{at}.layer_norm", dim, bias=True, kind="group" if grouped else "layer")
    if config.number("mask_time_prob", default=0.05) > 0 or config.number("mask_feature_prob", default=0.0) > 0:
        modules["mask_embedding"] = Weight(f"{base}.masked_spec_embed", (hidden,))
    pos = f"{base}.encoder.pos_conv_embed.conv"
    modules.update(
        {
            "feature_norm": layer_norm(f"{base}.feature_projection.layer_norm", dims[-1]),
            "project": biased(f"{base}.feature_projection.projection", dims[-1], hidden),
            "pos_bias": Weight(f"{pos}.bias", (hidden,)),
            "pos_g": Weight(f"{pos}.parametrizations.weight.original0", (1, 1, kernel)),
            "pos_v": Weight(f"{pos}.parametrizations.weight.original1", (hidden, hidden // groups, kernel)),
            "norm": layer_norm(f"{base}.encoder.layer_norm", hidden),
            "lm_head": biased("lm_head", hidden, vocab, "head"),
        }
    )
    block: dict[str, Module] = {
        "k": biased("attention.k_proj", hidden, hidden),
        "v": biased("attention.v_proj", hidden, hidden),
        "q": biased("attention.q_proj", hidden, hidden),
        "o": biased("attention.out_proj", hidden, hidden, "attn_out"),
        "attn_norm": layer_norm("layer_norm", hidden),
        "up": biased("feed_forward.intermediate_dense", hidden, inner),
        "down": biased("feed_forward.output_dense", inner, hidden, "mlp_out"),
        "final_norm": layer_norm("final_layer_norm", hidden),
    }
    layerdrop = config.number("layerdrop", default=0.1)
    return Architecture(
        family="wav2vec2",
        model_type="wav2vec2",
        class_name=None,
        task="ctc",
        modules=modules,
        stacks={"layers": Stack(f"{base}.encoder.layers", (Block(block),), (0,) * layers)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=None,
        assumptions=(
            "CTC loss; seq_len counts frames of the encoder (20 ms of sound at 16 kHz), 3 labels in 10 frames",
            *(("no layer is dropped (layerdrop)",) if layerdrop > 0 else ()),
        ),
        facts={
            "act": config.text("hidden_act", default="gelu"),
            "conv_act": config.text("feat_extract_activation", default="gelu"),
            "dropout": config.number("hidden_dropout", default=0.1),
            "act_dropout": config.number("activation_dropout", default=0.1),
            "attn_dropout": config.number("attention_dropout", default=0.1),
            "feature_dropout": config.number("feat_proj_dropout", default=0.0),
            "final_dropout": config.number("final_dropout", default=0.1),
            "masks": config.flag("apply_spec_augment", default=True)
            and config.number("mask_time_prob", default=0.05) > 0,
            "kernels": kernels,
            "strides": strides,
            "grouped": grouped,
            "stable": stable,
            "pos_kernel": kernel,
        },
    )


def lengths(frames: int, kernels: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """Samples in, then the length after each convolution, for ``frames`` at the end."""
    out = [frames]
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        out.append((out[-1] - 1) * stride + kernel)
    return out[::-1]


def extract(g: Any, net: Any, b: int, steps: list[int]) -> Any:
    """Wav2Vec2FeatureEncoder.forward: convolutions, each checkpointed by itself; gives (batch, frames, width)."""
    facts = net.arch.facts
    sound = g.floats((b, 1, steps[0]), "input values")
    net.inputs.append(sound)
    x = g.to(sound, net.input_dtype)
    if net.plan.training:
        x = g.as_leaf(x)  # the feature encoder asks for the gradient of its input
    del sound

    def conv_layer(i: int, x: Any) -> Any:
        conv = getattr(net, f"conv{i}")
        x = g.conv(x, conv.weight, conv.bias, (steps[i + 1],), f"conv{i}")
        norm = getattr(net, f"conv_norm{i}", None)
        if norm is not None:
            if facts["grouped"]:
                x = g.group_norm(x, norm.weight, norm.bias, x.shape[1])
            else:
                flat = x.view(b, steps[i + 1], x.shape[1])
                x = g.layer_norm(flat, norm.weight, norm.bias).view(*x.shape)
        return g.act(facts["conv_act"], x)

    for i in range(len(facts["kernels"])):
        x = g.t.checkpoint(conv_layer, i, x) if net.plan.checkpointing else conv_layer(i, x)
    return x.view(b, steps[-1], x.shape[1])


def forward(g: Any, net: Any, batch: Any) -> Any:
    """Wav2Vec2ForCTC.forward."""
    arch = net.arch
    facts = arch.facts
    heads, b, dropout = arch.num_attention_heads, batch.size, facts["dropout"]
    steps = lengths(batch.tokens, facts["kernels"], facts["strides"])
    frames = steps[-1]

    def positions(x: Any) -> Any:
        weight = g.weight_norm(net.pos_v, net.pos_g)
        kernel = facts["pos_kernel"]
        out = g.conv(x.view(b, arch.hidden_size, frames), weight, net.pos_bias, (frames + 1 - kernel % 2,), "pos_conv")
        if kernel % 2 == 0:
            out = g.slice(out, (b, arch.hidden_size, frames))
        return g.act(facts["conv_act"], out).view(b, frames, arch.hidden_size)

    def feed_forward(m: Any, h: Any) -> Any:
        h = m.up(g, h)
        h = g.act(facts["act"], h)
        h = g.dropout(h, facts["act_dropout"])
        h = m.down(g, h)
        return g.dropout(h, dropout)

    def layer(m: Any, x: Any) -> Any:
        residual = x
        if facts["stable"]:
            x = g.layer_norm(x, m.attn_norm.weight, m.attn_norm.bias)
        x = self_attention(g, m, x, heads, facts["attn_dropout"], mask, fp32_softmax=False)
        weights = g.returned_weights()
        x = g.dropout(x, dropout)
        x = g.add(residual, x)
        if facts["stable"]:
            x = g.add(x, feed_forward(m, g.layer_norm(x, m.final_norm.weight, m.final_norm.bias)))
        else:
            x = g.layer_norm(x, m.attn_norm.weight, m.attn_norm.bias)
            x = g.add(x, feed_forward(m, x))
            x = g.layer_norm(x, m.final_norm.weight, m.final_norm.bias)
        del weights
        return x

    features = extract(g, net, b, steps)
    features = g.layer_norm(features, net.feature_norm.weight, net.feature_norm.bias)
    x = g.dropout(net.project(g, features), facts["feature_dropout"])
    if facts["masks"] and g.training:
        x = g.overwrite(x)
    mask = g.causal_mask(b, frames, x.dt, batch.padding, causal=False)
    places = positions(x)
    x = g.add(x, places)
    if not facts["stable"]:
        x = g.layer_norm(x, net.norm.weight, net.norm.bias)
    x = g.dropout(x, dropout)
    x = net.run(g, "layers", layer, x)
    if facts["stable"]:
        x = g.layer_norm(x, net.norm.weight, net.norm.bias)
    del places  # held while the layers run
    logits = net.lm_head(g, g.dropout(x, facts["final_dropout"]))
    if not net.plan.training:
        return logits
    labels = frames * LABELS_PER_FRAME[0] // LABELS_PER_FRAME[1]
    net.inputs.append(g.ids(b, labels))
    loss = g.ctc_loss(logits, labels)
    del features  # the outputs hold the extracted features
    return loss


FAMILY = Family(
    name="wav2vec2",
    model_types=("wav2vec2",),
    build=build,
    source="transformers 5.23 models/wav2vec2/modeling_wav2vec2.py",
    examples=("facebook/wav2vec2-base-960h",),
)
