"""What image encoders share: patch embeddings, image sizes, the pre-norm layer."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families._encoder import heads_first, plain_attention
from hubvram.architecture.modules import Linear
from hubvram.errors import UnsupportedError


def sides(config: Config, name: str, default: int) -> tuple[int, int]:
    """``image_size`` or ``patch_size``: one number or (height, width).

    Raises:
        UnsupportedError: neither.
    """
    value = config.raw(name)
    if value is None:
        return default, default
    if isinstance(value, int):
        return value, value
    if isinstance(value, dict) and {"height", "width"} <= value.keys():
        return int(value["height"]), int(value["width"])
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    raise UnsupportedError(f"{config.where}: {name} is {value!r}, not a size.")


def patch_projection(path: str, channels: int, width: int, patch: tuple[int, int], *, bias: bool = True) -> Linear:
    """``nn.Conv2d`` whose kernel and stride are the patch."""
    return Linear(
        path, channels * patch[0] * patch[1], width, bias, kind="Conv2d", weight_shape=(width, channels, *patch)
    )


def patches(
    g: Any, net: Any, projection: Any, size: int, channels: int, image: tuple[int, int], grid: tuple[int, int]
) -> Any:
    """Pixels, held by the training loop, through the projection: (batch, patches, width)."""
    pixels = g.floats((size, channels, *image), "pixel values")
    net.inputs.append(pixels)
    x = g.conv(g.to(pixels, net.input_dtype), projection.weight, projection.bias, grid, "patch embeddings")
    return x.view(size, grid[0] * grid[1], x.shape[1])


def with_tokens(g: Any, tokens: list[Any], x: Any) -> Any:
    """``cat((token.expand(batch), ..., x), dim=1)``; autocast brings all parts to the widest dtype first."""
    b, s, width = x.shape
    if g.t.autocast is not None:
        x = g.to(x, tokens[0].dt)
    parts = [g.expand_view(token, (b, 1, width)) for token in tokens]
    return g.cat((*parts, x), (b, s + len(parts), width))


def self_attention(
    g: Any, m: Any, h: Any, heads: int, dropout: float, mask: Any = None, *, fp32_softmax: bool = True
) -> Any:
    """q, k, v, attention, output projection."""
    q = heads_first(m.q(g, h), heads)
    k = heads_first(m.k(g, h), heads)
    v = heads_first(m.v(g, h), heads)
    if not fp32_softmax:
        return m.o(g, plain_attention(g, q, k, v, mask, dropout))
    return m.o(g, g.attention(q, k, v, mask, causal=False, dropout=dropout))


def drop_path(g: Any, x: Any, rate: float) -> Any:
    """Stochastic depth: ``x.div(keep) * random`` with one random number a sample."""
    if rate <= 0.0 or not g.training:
        return x
    random = g.ones((x.shape[0], *(1 for _ in x.shape[1:])), x.dt, "drop path")
    return g.mul(g.scale(x, "drop path div"), random)
