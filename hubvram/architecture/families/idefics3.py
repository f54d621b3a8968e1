"""Idefics3 and SmolVLM: a SigLIP-like tower, squares of patches side by side, one matrix, a language model.

Source: transformers 5.23 ``models/{idefics3,smolvlm}/modeling_*.py``.
"""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family, _vision_towers
from hubvram.architecture.families._vision_language import count_images, joined, scatter, text_model, with_defaults
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Linear

VISION = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "vision_use_head": False,
}
"""Idefics3VisionConfig (transformers 5.23)."""


def build(config: Config, header: Header) -> Architecture:
    """From config.json; one image of the tower's own size a sample by default."""
    text = text_model(config, header, "llama")
    vision = with_defaults(config.sub("vision_config"), VISION, f"{config.where}:vision_config")
    modules, stack, facts = _vision_towers.build_vit(vision, "model.vision_model", clip=False)
    del modules["v_ids"]
    scale = config.positive("scale_factor", default=2)
    modules["p_proj"] = Linear(
        "model.connector.modality_projection.proj", facts["hidden"] * scale * scale, text.hidden_size
    )
    facts |= {"scale": scale * scale, "tokens": facts["grid"] ** 2 // scale**2, "width": text.hidden_size}
    return joined(
        config,
        text,
        "idefics3",
        modules,
        {"vision": stack},
        {"vision": facts, "idle": idle},
        images,
        prefix="model.text_model",
    )


def idle(plan: Any, name: str) -> int:
    """Copies of a parameter that get no gradient: the whole image side of a text-only batch."""
    image_side = name.startswith(("model.vision_model.", "model.connector."))
    return int(plan.arch.facts["vision"]["layers"]) if image_side and plan.settings.image_tokens == 0 else 0


def images(g: Any, net: Any, batch: Any, x: Any) -> Any:
    """``Idefics3Model.forward`` up to the language model."""
    f = net.arch.facts["vision"]
    count = count_images(net, batch, f["tokens"])
    if not count:
        return x
    features, held = _vision_towers.vit(g, net, count, f)
    out = connector(g, net, features, count, f)
    net.locals += [*held, features]
    net.cache.append(out.st)
    return scatter(g, net, x, out)


def connector(g: Any, net: Any, x: Any, count: int, f: Any) -> Any:
    """``Idefics3Connector.forward``: two rearranging copies, one matrix."""
    x = g.clone(x, "pixel shuffle")
    x = g.clone(x, "pixel shuffle")
    return net.p_proj(g, x.view(count, f["tokens"], f["hidden"] * f["scale"]))


FAMILY = Family(
    name="idefics3",
    model_types=("idefics3", "smolvlm"),
    build=build,
    source="transformers 5.23 models/{idefics3,smolvlm}/modeling_*.py",
    examples=("HuggingFaceTB/SmolVLM-256M-Instruct",),
)
