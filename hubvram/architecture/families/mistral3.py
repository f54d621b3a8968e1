"""Mistral Small 3.1: a Pixtral tower over images of any size, 2 x 2 patches merged, before Mistral.

Without ``image_tokens`` a batch is text only; with it, every sample has one
image of that many tokens. All images of a batch are one sequence of patches
under a block mask.

Source: transformers 5.23 ``models/{mistral3,pixtral}/modeling_*.py``.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import gated_mlp
from hubvram.architecture.families._vision_language import TEXT_ONLY, joined, scatter, text_model, with_defaults
from hubvram.architecture.families._vision_towers import conv2d, entering, pixels
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Norm, Stack
from hubvram.timeline.dtypes import F32
from hubvram.timeline.ops.attention import Mask

VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 1024,
    "patch_size": 16,
    "hidden_act": "gelu",
}
"""PixtralVisionConfig (transformers 5.23)."""


def build(config: Config, header: Header) -> Architecture:
    """From config.json."""
    if "tie_word_embeddings" not in config.data:
        sub = config.sub("text_config")
        tied = sub is not None and sub.flag("tie_word_embeddings", default=False)
        config = Config({**config.data, "tie_word_embeddings": tied}, config.where)
    text = text_model(config, header, "mistral")
    v = with_defaults(config.sub("vision_config"), VISION, f"{config.where}:vision_config")
    width, inner = v.positive("hidden_size"), v.positive("intermediate_size")
    heads, layers, patch = v.positive("num_attention_heads"), v.positive("num_hidden_layers"), v.positive("patch_size")
    head_dim = v.optional("head_dim") or width // heads
    merge = config.positive("spatial_merge_size", default=2)
    bias = config.flag("multimodal_projector_bias", default=False)
    path, projector = "model.vision_tower", "model.multi_modal_projector"
    channels = v.positive("num_channels")
    modules: dict[str, Module] = {
        "v_patch": conv2d(f"{path}.patch_conv", channels, width, patch, bias=False),
        "v_pre_norm": Norm(f"{path}.ln_pre", width),
        "p_norm": Norm(f"{projector}.norm", width),
        "p_merge": Linear(f"{projector}.patch_merger.merging_layer", width * merge * merge, width),
        "p_1": Linear(f"{projector}.linear_1", width, text.hidden_size, bias),
        "p_2": Linear(f"{projector}.linear_2", text.hidden_size, text.hidden_size, bias),
    }
    block: dict[str, Module] = {
        "norm1": Norm("attention_norm", width),
        "q_proj": Linear("attention.q_proj", width, heads * head_dim),
        "k_proj": Linear("attention.k_proj", width, heads * head_dim),
        "v_proj": Linear("attention.v_proj", width, heads * head_dim),
        "o_proj": Linear("attention.o_proj", heads * head_dim, width, role="attn_out"),
        "norm2": Norm("ffn_norm", width),
        **gated_mlp("feed_forward", width, inner),
    }
    facts = {
        "width": width,
        "heads": heads,
        "dim": head_dim,
        "layers": layers,
        "patch": patch,
        "channels": channels,
        "merge": merge,
        "act": v.text("hidden_act", default="gelu"),
        "out": text.hidden_size,
        "projector_act": config.text("projector_hidden_act", default="gelu"),
    }
    stack = Stack(f"{path}.transformer.layers", (Block(block),), (0,) * layers)
    return joined(
        config, text, "mistral3", modules, {"vision": stack}, {"vision": facts, "idle": idle}, images, (TEXT_ONLY,)
    )


def idle(plan: Any, name: str) -> int:
    """Copies of a parameter that get no gradient: the whole image side of a text-only batch."""
    image_side = name.startswith(("model.vision_tower.", "model.multi_modal_projector."))
    return int(plan.arch.facts["vision"]["layers"]) if image_side and not plan.settings.image_tokens else 0


def images(g: Any, net: Any, batch: Any, x: Any) -> Any:
    """``Mistral3Model.forward`` up to the language model."""
    tokens = net.plan.settings.image_tokens
    if not tokens:
        return x
    f = net.arch.facts["vision"]
    each = tokens * f["merge"] ** 2
    side = isqrt(each)
    rows = -(-each // side) if side else 0
    total = batch.size * each
    flat = pixels(g, net, (batch.size, f["channels"], rows * f["patch"], side * f["patch"]))
    low = g.to(flat, net.v_patch.weight.dt)
    h = g.conv(low, net.v_patch.weight, None, (rows, side), "patch embedding")
    del low, flat
    h = entering(g, net, h)
    h = g.cat((h,), (1, total, f["width"]))
    h = g.rms_norm(h, net.v_pre_norm.weight)
    cos, sin = (g.to(g.ones((1, 1, total, f["dim"]), F32, name), h.dt) for name in ("rotary cos", "rotary sin"))
    mask = None
    if g.attn != "flash_attention_2":
        mask = Mask(g.ones((1, 1, total, total), h.dt, "block attention mask"))

    def layer(m: Any, y: Any) -> Any:
        out = attention(g, m, g.rms_norm(y, m.norm1.weight), f, cos, sin, mask)
        y = g.add(y, out)
        return g.add(y, mlp(g, m, g.rms_norm(y, m.norm2.weight), f))

    h = net.run(g, "vision", layer, h)
    features = projector(g, net, h.view(total, f["width"]), f)
    joined_features = g.cat((features,), features.shape)
    net.locals += [h, features]
    net.cache.append(joined_features.st)
    return scatter(g, net, x, joined_features)


def attention(g: Any, m: Any, h: Any, f: Any, cos: Any, sin: Any, mask: Any) -> Any:
    """``PixtralAttention.forward``."""
    b, s, _ = h.shape
    shape = (b, f["heads"], s, f["dim"])
    q, k, v = m.q_proj(g, h), m.k_proj(g, h), m.v_proj(g, h)
    q, k, v = q.view(*shape), k.view(*shape), v.view(*shape)
    q, k = g.rotary(q, k, cos, sin)
    return m.o_proj(g, g.attention(q, k, v, mask, causal=False))


def mlp(g: Any, m: Any, h: Any, f: Any) -> Any:
    """``PixtralMLP.forward``."""
    return m.down_proj(g, g.mul(g.act(f["act"], m.gate_proj(g, h)), m.up_proj(g, h)))


def projector(g: Any, net: Any, x: Any, f: Any) -> Any:
    """``Mistral3MultiModalProjector.forward``: norm, unfold squares of patches, merge them, two layers."""
    x = g.rms_norm(x, net.p_norm.weight)
    rows = x.shape[0] // f["merge"] ** 2
    wide = g.clone(g.copied_back(x, (rows, f["width"] * f["merge"] ** 2)), "unfold")
    x = g.cat((wide,), wide.shape)
    x = net.p_merge(g, x)
    x = net.p_1(g, x)
    x = g.act(f["projector_act"], x)
    return net.p_2(g, x)


FAMILY = Family(
    name="mistral3",
    model_types=("mistral3",),
    build=build,
    source="transformers 5.23 models/{mistral3,pixtral}/modeling_*.py",
    examples=("mistralai/Mistral-Small-3.1-24B-Instruct-2503",),
)
