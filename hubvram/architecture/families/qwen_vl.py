"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: a ViT over the patches of images of any size, before a Qwen language model.

Images have no size of their own here: without ``image_tokens`` a batch is text
only. With it, every sample has one image of that many tokens (each token is
merged from 2 x 2 patches).

Sources: transformers 5.23 ``models/{qwen2_vl,qwen2_5_vl,qwen3_vl}/modeling_*.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import gated_mlp
from hubvram.architecture.families._vision_language import TEXT_ONLY, joined, scatter, text_model, with_defaults
from hubvram.architecture.families._vision_towers import entering, pixels
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack
from hubvram.timeline.dtypes import F32

VISION: Mapping[str, Mapping[str, Any]] = {
    "qwen2_vl": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 3584,
        "hidden_act": "quick_gelu",
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "qwen2_5_vl": {
        "depth": 32,
        "hidden_size": 3584,
        "hidden_act": "silu",
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 3584,
    },
    "qwen3_vl": {
        "depth": 27,
        "hidden_size": 1152,
        "hidden_act": "gelu_pytorch_tanh",
        "intermediate_size": 4304,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 3584,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": (8, 16, 24),
    },
}
"""Defaults of the vision config classes (transformers 5.23)."""
TEXT = {"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2", "qwen3_vl": "qwen3"}
"""The family that describes the language model (its blocks are the same)."""


def build(config: Config, header: Header) -> Architecture:
    """From config.json; older configs have the language model's sizes at the top level."""
    model_type = config.text("model_type", default="qwen2_vl")
    sub = config.sub("text_config")
    given = {k: v for k, v in (sub.data if sub is not None else config.data).items() if k != "model_type"}
    given["model_type"] = TEXT[model_type]
    if given.get("use_sliding_window") is None:
        given["use_sliding_window"] = False
    if TEXT[model_type] == "qwen2":
        given["layer_types"] = None
    tied = config.raw("tie_word_embeddings")
    if tied is None and sub is not None:
        tied = sub.raw("tie_word_embeddings")
    outer = Config({"text_config": given, "tie_word_embeddings": bool(tied)}, config.where)
    text = text_model(outer, header, TEXT[model_type])
    vision = with_defaults(config.sub("vision_config"), VISION[model_type], f"{config.where}:vision_config")
    modules, stack, facts = tower(vision, model_type)
    return joined(
        config, text, "qwen_vl", modules, {"vision": stack}, {"vision": facts, "idle": idle}, images, (TEXT_ONLY,)
    )


def tower(v: Config, model_type: str) -> tuple[dict[str, Module], Stack, dict[str, Any]]:
    """The vision model at ``model.visual``."""
    path = "model.visual"
    old, newest = model_type == "qwen2_vl", model_type == "qwen3_vl"
    width = v.positive("embed_dim") if old else v.positive("hidden_size")
    out = v.positive("hidden_size") if old else v.positive("out_hidden_size")
    inner = int(width * v.number("mlp_ratio", default=4)) if old else v.positive("intermediate_size")
    merge, patch, frames = v.positive("spatial_merge_size"), v.positive("patch_size"), v.positive("temporal_patch_size")
    channels = v.positive("in_channels", "in_chans")
    cells = channels * frames * patch * patch
    rms = model_type == "qwen2_5_vl"

    def norm(at: str, dim: int) -> Norm:
        return Norm(at, dim, bias=not rms, kind="rms" if rms else "layer")

    modules: dict[str, Module] = {
        "v_patch": Linear(
            f"{path}.patch_embed.proj",
            cells,
            width,
            newest,
            kind="Conv2d",
            weight_shape=(width, channels, frames, patch, patch),
        ),
    }
    names = ("linear_fc1", "linear_fc2") if newest else ("mlp.0", "mlp.2")
    wide = width * merge * merge
    modules["m_norm"] = norm(f"{path}.merger.{'norm' if newest else 'ln_q'}", width)
    modules["m_1"] = Linear(f"{path}.merger.{names[0]}", wide, wide, True)
    modules["m_2"] = Linear(f"{path}.merger.{names[1]}", wide, out, True)
    deep: list[int] = []
    if newest:
        modules["v_position"] = Embedding(f"{path}.pos_embed", v.positive("num_position_embeddings"), width)
        deep = list(v.raw("deepstack_visual_indexes") or ())
        for i in range(len(deep)):
            at = f"{path}.deepstack_merger_list.{i}"
            modules[f"d{i}_norm"] = norm(f"{at}.norm", wide)
            modules[f"d{i}_1"] = Linear(f"{at}.linear_fc1", wide, wide, True)
            modules[f"d{i}_2"] = Linear(f"{at}.linear_fc2", wide, out, True)
    block: dict[str, Module] = {
        "norm1": norm("norm1", width),
        "qkv": Linear("attn.qkv", width, 3 * width, True),
        "proj": Linear("attn.proj", width, width, True, role="attn_out"),
        "norm2": norm("norm2", width),
    }
    if rms:
        block |= gated_mlp("mlp", width, inner, bias=True)
    else:
        one, two = ("linear_fc1", "linear_fc2") if newest else ("fc1", "fc2")
        block["fc1"] = Linear(f"mlp.{one}", width, inner, True)
        block["fc2"] = Linear(f"mlp.{two}", inner, width, True, role="mlp_out")
    layers = v.positive("depth")
    facts = {
        "width": width,
        "out": out,
        "heads": v.positive("num_heads"),
        "cells": cells,
        "merge": merge * merge,
        "act": v.text("hidden_act", default="quick_gelu"),
        "rms": rms,
        "layers": layers,
        "deep": tuple(deep),
    }
    return modules, Stack(f"{path}.blocks", (Block(block),), (0,) * layers), facts


def idle(plan: Any, name: str) -> int:
    """Copies of a parameter that get no gradient: the whole vision side of a text-only batch."""
    unused = name.startswith("model.visual.") and not plan.settings.image_tokens
    return int(plan.arch.facts["vision"]["layers"]) if unused else 0


def images(g: Any, net: Any, batch: Any, x: Any) -> Any:
    """``Qwen2VLModel.forward`` up to the language model."""
    tokens = net.plan.settings.image_tokens
    if not tokens:
        return x
    f = net.arch.facts["vision"]
    count = batch.size
    patches = count * tokens * f["merge"]
    flat = pixels(g, net, (patches, f["cells"]))
    low = g.to(flat, net.v_patch.weight.dt)
    h = g.conv(low, net.v_patch.weight, net.v_patch.bias, (1, 1, 1), "patch embedding").view(patches, f["width"])
    del low, flat
    h = entering(g, net, h)
    dim = f["width"] // f["heads"]
    if "v_position" in net.arch.modules:
        h = g.add(h, g.ones((patches, f["width"]), h.dt, "position embeddings"))
    cos, sin = (g.ones((1, 1, patches // count, dim), F32, name) for name in ("rotary cos", "rotary sin"))

    def norm(y: Any, w: Any) -> Any:
        return g.rms_norm(y, w.weight) if f["rms"] else g.layer_norm(y, w.weight, w.bias)

    def layer(m: Any, y: Any) -> Any:
        y = g.add(y, attention(g, m, norm(y, m.norm1), count, f, cos, sin))
        return g.add(y, mlp(g, m, norm(y, m.norm2), f))

    at = 0
    kept = []
    for i, stop in enumerate((*[d + 1 for d in f["deep"]], f["layers"])):
        h = net.run(g, "vision", layer, h, only=(at, stop))
        at = stop
        if i < len(f["deep"]):
            kept.append(deep_features(g, net, h, i, patches, f))
    merged = merge(g, net, norm(h, net.m_norm), patches, f)
    features = g.cat((merged,), merged.shape)
    net.locals += [h, merged, *kept]
    net.cache.append(features.st)
    return scatter(g, net, x, features)


def attention(g: Any, m: Any, h: Any, count: int, f: Any, cos: Any, sin: Any) -> Any:
    """``VisionAttention.forward``: fused qkv, rotary in fp32, one attention per image, results joined."""
    patches, width = h.shape
    shape = (count, f["heads"], patches // count, width // f["heads"])
    q, k, v = g.split(m.qkv(g, h), [shape] * 3)
    q, k = rotary(g, q, k, cos, sin)
    q, k, v = (g.split(t, [shape])[0] for t in (q, k, v))
    out = g.attention(q, k, v, None, causal=False)
    out = g.cat((out,), (patches, width))
    return m.proj(g, out)


def rotary(g: Any, q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """``apply_rotary_pos_emb_vision``."""
    dt = q.dt
    q, k = g.float(q), g.float(k)
    q_out = g.rotary_one(q, cos, sin)
    k_out = g.rotary_one(k, cos, sin)
    q_out = g.to(q_out, dt)
    return q_out, g.to(k_out, dt)


def mlp(g: Any, m: Any, h: Any, f: Any) -> Any:
    """Plain, or gated in Qwen2.5."""
    if f["rms"]:
        return m.down_proj(g, g.mul(g.act(f["act"], m.gate_proj(g, h)), m.up_proj(g, h)))
    return m.fc2(g, g.act(f["act"], m.fc1(g, h)))


def merge(g: Any, net: Any, h: Any, patches: int, f: Any) -> Any:
    """``PatchMerger.forward`` after its norm: 2 x 2 patches side by side through two layers."""
    h = h.view(patches // f["merge"], f["width"] * f["merge"])
    return net.m_2(g, g.gelu(net.m_1(g, h)))


def deep_features(g: Any, net: Any, h: Any, i: int, patches: int, f: Any) -> Any:
    """Qwen3-VL's deepstack: features of an inner layer, merged by layers of their own."""
    wide = h.view(patches // f["merge"], f["width"] * f["merge"])
    weight = getattr(net, f"d{i}_norm")
    wide = g.layer_norm(wide, weight.weight, weight.bias)
    return getattr(net, f"d{i}_2")(g, g.gelu(getattr(net, f"d{i}_1")(g, wide)))


FAMILY = Family(
    name="qwen_vl",
    model_types=("qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
    build=build,
    source="transformers 5.23 models/{qwen2_vl,qwen2_5_vl,qwen3_vl}/modeling_*.py",
    examples=("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-2B-Instruct"),
)
