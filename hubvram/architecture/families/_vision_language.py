"""What vision-language models share: a language model of its own family, and image features among its embeddings.

The language model's modules move to a prefix such as ``model.language_model``.
A sample has ``image_tokens`` of its tokens from images (default: one image of
the size that the vision tower takes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Module, Stack
from hubvram.errors import UnsupportedError
from hubvram.timeline.dtypes import BOOL

TEXT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
    "gemma": {
        "vocab_size": 256000,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
    },
    "gemma3_text": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
        "hidden_activation": "gelu_pytorch_tanh",
    },
}
"""What a text_config may leave out: defaults of transformers' config classes (5.23)."""

TEXT_ONLY = "Images of any size: without image_tokens the batch is text only (the vision tower is in memory, unused)."
Images = Callable[[Any, Any, Any, Any], Any]


def with_defaults(config: Config | None, defaults: Mapping[str, Any], where: str) -> Config:
    """A nested config with its class's defaults under it."""
    given = {k: v for k, v in config.data.items() if v is not None} if config is not None else {}
    return Config({**defaults, **given}, where)


def text_model(config: Config, header: Header, default: str) -> Architecture:
    """The language model on its own.

    Raises:
        UnsupportedError: a language model that no family describes.
    """
    sub = config.sub("text_config")
    model_type = sub.text("model_type", default=default) if sub is not None else default
    defaults = {"model_type": model_type, **TEXT_DEFAULTS.get(model_type, {})}
    text = with_defaults(sub, defaults, f"{config.where}:text_config")
    if "tie_word_embeddings" in config.data:  # the outer model ties or does not
        text = Config({**text.data, "tie_word_embeddings": config.data["tie_word_embeddings"]}, text.where)
    family = families.find(model_type)
    if family is None:
        raise UnsupportedError(f"{config.where}: the language model {model_type!r} is not in the catalogue.")
    return family.build(text, header)


def _moved(module: Module, prefix: str) -> Module:
    if module.path.startswith("model."):
        return replace(module, path=f"{prefix}.{module.path[6:]}")
    return module


def joined(
    config: Config,
    text: Architecture,
    family: str,
    modules: Mapping[str, Module],
    stacks: Mapping[str, Stack],
    facts: Mapping[str, Any],
    images: Images,
    assumptions: tuple[str, ...] = (),
    prefix: str = "model.language_model",
) -> Architecture:
    """A language model with a vision side: its modules moved to ``prefix``, image features in its embeddings."""
    moved = {name: _moved(module, prefix) for name, module in text.modules.items()}
    layers = {
        name: replace(stack, prefix=stack.prefix.replace("model.", f"{prefix}.", 1))
        for name, stack in text.stacks.items()
    }
    legacy = text.legacy
    older = None
    if legacy is not None:
        older = lambda: joined(  # noqa: E731
            config, legacy(), family, modules, stacks, facts, images, assumptions, prefix
        )
    return replace(
        text,
        family=family,
        model_type=config.text("model_type", default=family),
        modules={**moved, **modules},
        stacks={**layers, **stacks},
        facts={**text.facts, **facts, "images": images},
        assumptions=(*text.assumptions, *assumptions),
        legacy=older,
    )


def count_images(net: Any, batch: Any, each: int) -> int:
    """Images in a batch: as many as ``image_tokens`` asks for, else one a sample."""
    asked = net.plan.settings.image_tokens
    if asked is None:
        return int(batch.size)
    return int(batch.size * -(-asked // each)) if each else 0


def scatter(g: Any, net: Any, x: Any, features: Any) -> Any:
    """``inputs_embeds.masked_scatter(mask, features)``: keeps the mask; backward clears it from the gradient."""
    new, n, dt, shape = g.t.new, x.n, x.dt, x.shape
    m, fdt, fshape = features.n, features.dt, features.shape
    rx, rf = x.rg, features.rg
    mask = g.ones((*shape[:2], 1), BOOL, "image token mask")

    def bw(grad: Any) -> Any:
        own = new(n * dt.size, "masked_scatter backward", shape, dt) if rx else None
        other = new(m * fdt.size, "masked_scatter backward (features)", fshape, fdt) if rf else None
        return own, other

    return g.apply("masked_scatter", (x, features), shape, dt, bw, save=(mask,))
