"""Gemma 3 with images: a SigLIP tower whose patches are pooled to a fixed number of tokens, before the language model.

Source: transformers 5.23 ``models/gemma3/modeling_gemma3.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family, _vision_towers
from hubvram.architecture.families._vision_language import count_images, joined, scatter, text_model, with_defaults
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Norm, Weight
from hubvram.timeline.tracer import Storage


def build(config: Config, header: Header) -> Architecture:
    """From config.json; the language model is tied by default."""
    if "tie_word_embeddings" not in config.data:
        config = Config({**config.data, "tie_word_embeddings": True}, config.where)
    text = text_model(config, header, "gemma3_text")
    defaults = {**_vision_towers.SIGLIP_DEFAULTS, "model_type": "siglip_vision_model"}
    vision = with_defaults(config.sub("vision_config"), defaults, f"{config.where}:vision_config")
    modules, stack, facts = _vision_towers.build_vit(vision, "model.vision_tower", clip=False)
    tokens = config.positive("mm_tokens_per_image", default=256)
    modules["p_weight"] = Weight(
        "model.multi_modal_projector.mm_input_projection_weight", (facts["hidden"], text.hidden_size)
    )
    modules["p_norm"] = Norm("model.multi_modal_projector.mm_soft_emb_norm", facts["hidden"])
    facts |= {"tokens": tokens, "width": text.hidden_size}
    return joined(config, text, "gemma3", modules, {"vision": stack}, {"vision": facts, "idle": idle}, images)


def idle(plan: Any, name: str) -> int:
    """Copies of a parameter that get no gradient: all of the image side without images, a pooling head always."""
    if not name.startswith(("model.vision_tower.", "model.multi_modal_projector.")):
        return 0
    if plan.settings.image_tokens == 0:
        return int(plan.arch.facts["vision"]["layers"])
    return int(".head." in name)


def images(g: Any, net: Any, batch: Any, x: Any) -> Any:
    """``Gemma3Model.forward`` up to the language model."""
    f = net.arch.facts["vision"]
    count = count_images(net, batch, f["tokens"])
    if not count:
        return x
    features, held = _vision_towers.vit(g, net, count, f)
    out = projector(g, net, features, count, f)
    net.locals += held
    net.cache.append(out.st)
    return scatter(g, net, x, out)


def projector(g: Any, net: Any, x: Any, count: int, f: Any) -> Any:
    """``Gemma3MultiModalProjector.forward``: average pooling, RMSNorm, one matrix."""
    grid, hidden, tokens = f["grid"], f["hidden"], f["tokens"]
    square = g.clone(x.view(count, hidden, grid, grid))
    side = int(tokens**0.5)
    pooled = average(g, square, (count, hidden, side, side))
    normed = g.rms_norm_gemma(pooled.view(count, side * side, hidden), net.p_norm.weight)
    return g.matmul(normed, net.p_weight, (count, side * side, f["width"]), "image projection")


def average(g: Any, x: Any, shape: tuple[int, ...]) -> Any:
    """``AvgPool2d``: keeps its input; backward makes a gradient of its size."""
    new, n, dt, whole = g.t.new, x.n, x.dt, x.shape

    def bw(grad: Storage) -> Sequence[Storage | None]:
        return (new(n * dt.size, "avg_pool backward", whole, dt),)

    return g.apply("avg_pool", (x,), shape, dt, bw, save=(x,))


FAMILY = Family(
    name="gemma3",
    model_types=("gemma3",),
    build=build,
    source="transformers 5.23 models/{gemma3,siglip}/modeling_*.py",
    examples=("google/gemma-3-4b-it",),
)
