"""LLaVA: image features of a CLIP or SigLIP tower, projected by two layers, among the token embeddings."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family, _vision_towers
from hubvram.architecture.families._vision_language import count_images, joined, scatter, text_model, with_defaults
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Linear
from hubvram.errors import UnsupportedError


def build(config: Config, header: Header) -> Architecture:
    """LLaVA 1.5: a CLIP tower, two linear layers, a language model."""
    text = text_model(config, header, "llama")
    vision = with_defaults(config.sub("vision_config"), _vision_towers.CLIP_DEFAULTS, f"{config.where}:vision_config")
    tower_type = vision.text("model_type", default="clip_vision_model")
    if tower_type not in ("clip_vision_model", "siglip_vision_model"):
        raise UnsupportedError(f"{config.where}: the vision tower {tower_type!r} is not described.")
    clip = tower_type == "clip_vision_model"
    if not clip:
        vision = with_defaults(config.sub("vision_config"), _vision_towers.SIGLIP_DEFAULTS, vision.where)
    modules, stack, facts = _vision_towers.build_vit(vision, "model.vision_tower", clip)
    width, bias = text.hidden_size, config.flag("multimodal_projector_bias", default=True)
    selected = config.raw("vision_feature_layer")
    chosen = selected if isinstance(selected, list) else [-2 if selected is None else selected]
    modules["p_1"] = Linear("model.multi_modal_projector.linear_1", facts["hidden"] * len(chosen), width, bias)
    modules["p_2"] = Linear("model.multi_modal_projector.linear_2", width, width, bias)
    layer = int(max(i if i >= 0 else facts["layers"] + 1 + i for i in chosen))
    drop = config.text("vision_feature_select_strategy", default="default") == "default" and clip
    facts |= {
        "upto": layer,
        "features": len(chosen),
        "drop": drop,
        "tokens": facts["grid"] ** 2 + (clip and not drop),
        "projector_act": config.text("projector_hidden_act", default="gelu"),
        "width": width,
    }
    return joined(config, text, "llava", modules, {"vision": stack}, {"vision": facts, "idle": idle}, images)


def idle(plan: Any, name: str) -> int:
    """Copies of a parameter that get no gradient: all of the image side without images, layers above the one used."""
    f = plan.arch.facts["vision"]
    if not name.startswith(("model.vision_tower.", "model.multi_modal_projector.")):
        return 0
    if plan.settings.image_tokens == 0:
        return int(f["layers"])
    if ".encoder.layers." in name:
        return int(f["layers"] - f["upto"])
    return int(".post_layernorm." in name or ".head." in name)


def images(g: Any, net: Any, batch: Any, x: Any) -> Any:
    """``LlavaModel.forward`` up to the language model."""
    f = net.arch.facts["vision"]
    count = count_images(net, batch, f["tokens"])
    if not count:
        return x
    features, held = _vision_towers.vit(g, net, count, f, f["upto"])
    if f["drop"]:
        features = g.slice(features, (count, f["tokens"], f["hidden"]))
    if f["features"] > 1:
        features = g.cat([features] * f["features"], (count, f["tokens"], f["hidden"] * f["features"]))
    out = projector(g, net, features, f)
    joined_features = g.cat((out,), (count * f["tokens"], f["width"]))
    net.locals += [*held, out, features]
    net.cache.append(joined_features.st)
    return scatter(g, net, x, joined_features)


def projector(g: Any, net: Any, x: Any, f: Any) -> Any:
    """``LlavaMultiModalProjector.forward``."""
    x = net.p_1(g, x)
    x = g.act(f["projector_act"], x)
    return net.p_2(g, x)


FAMILY = Family(
    name="llava",
    model_types=("llava",),
    build=build,
    source="transformers 5.23 models/{llava,clip}/modeling_*.py",
    examples=("llava-hf/llava-1.5-7b-hf",),
)
