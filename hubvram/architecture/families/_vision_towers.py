"""Vision encoders inside vision-language models: CLIP's and SigLIP's ViT, run on the patches of whole images."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.modules import Block, Embedding, Linear, Module, Norm, Stack, Weight
from hubvram.timeline.dtypes import F32, I64
from hubvram.timeline.tracer import Tensor

CLIP_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
}
"""CLIPVisionConfig, transformers 5.23."""
SIGLIP_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
}
"""SiglipVisionConfig, transformers 5.23."""


def conv2d(path: str, channels: int, out: int, kernel: int, bias: bool) -> Linear:
    """A patch embedding: ``nn.Conv2d`` with stride = kernel."""
    return Linear(
        path, channels * kernel * kernel, out, bias, kind="Conv2d", weight_shape=(out, channels, kernel, kernel)
    )


def vit_block(hidden: int, inner: int) -> dict[str, Module]:
    """One layer of CLIP's or SigLIP's encoder."""
    return {
        "norm1": Norm("layer_norm1", hidden, bias=True, kind="layer"),
        "q_proj": Linear("self_attn.q_proj", hidden, hidden, True),
        "k_proj": Linear("self_attn.k_proj", hidden, hidden, True),
        "v_proj": Linear("self_attn.v_proj", hidden, hidden, True),
        "out_proj": Linear("self_attn.out_proj", hidden, hidden, True, role="attn_out"),
        "norm2": Norm("layer_norm2", hidden, bias=True, kind="layer"),
        "fc1": Linear("mlp.fc1", hidden, inner, True),
        "fc2": Linear("mlp.fc2", inner, hidden, True, role="mlp_out"),
    }


def build_vit(config: Config, path: str, clip: bool) -> tuple[dict[str, Module], Stack, dict[str, Any]]:
    """Modules outside the layers, the layers, and facts of a CLIP (``clip``) or SigLIP vision model at ``path``."""
    hidden, inner = config.positive("hidden_size"), config.positive("intermediate_size")
    layers, heads = config.positive("num_hidden_layers"), config.positive("num_attention_heads")
    size, patch = config.positive("image_size"), config.positive("patch_size")
    channels = config.positive("num_channels")
    grid = size // patch
    positions = grid * grid + (1 if clip else 0)
    modules: dict[str, Module] = {
        "v_patch": conv2d(f"{path}.embeddings.patch_embedding", channels, hidden, patch, not clip),
        "v_position": Embedding(f"{path}.embeddings.position_embedding", positions, hidden),
        "v_ids": Weight(f"{path}.embeddings.position_ids", (1, positions), buffer=True, dtype="int64"),
        "v_post_norm": Norm(f"{path}.post_layernorm", hidden, bias=True, kind="layer"),
    }
    if clip:
        modules["v_class"] = Weight(f"{path}.embeddings.class_embedding", (hidden,))
        modules["v_pre_norm"] = Norm(f"{path}.pre_layrnorm", hidden, bias=True, kind="layer")
    elif config.flag("vision_use_head", default=True):
        modules |= pooling_head(f"{path}.head", hidden, inner)
    facts = {
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "channels": channels,
        "size": size,
        "grid": grid,
        "act": config.text("hidden_act", default="gelu"),
        "clip": clip,
        "dropout": config.number("attention_dropout", default=0.0),
        "head": "v_probe" in modules,
    }
    return modules, Stack(f"{path}.encoder.layers", (Block(vit_block(hidden, inner)),), (0,) * layers), facts


def pooling_head(path: str, hidden: int, inner: int) -> dict[str, Module]:
    """SigLIP's attention pooling head."""
    return {
        "v_probe": Weight(f"{path}.probe", (1, 1, hidden)),
        "v_in_weight": Weight(f"{path}.attention.in_proj_weight", (3 * hidden, hidden)),
        "v_in_bias": Weight(f"{path}.attention.in_proj_bias", (3 * hidden,)),
        "v_pool_out": Linear(f"{path}.attention.out_proj", hidden, hidden, True),
        "v_head_norm": Norm(f"{path}.layernorm", hidden, bias=True, kind="layer"),
        "v_head_fc1": Linear(f"{path}.mlp.fc1", hidden, inner, True),
        "v_head_fc2": Linear(f"{path}.mlp.fc2", inner, hidden, True),
    }


def pixels(g: Any, net: Any, shape: tuple[int, ...]) -> Any:
    """An fp32 image batch, held by the training loop."""
    x = g.ones(shape, F32, "pixel_values")
    net.inputs.append(x)
    return x


def entering(g: Any, net: Any, x: Any) -> Any:
    """Checkpointing makes a frozen patch embedding's output require gradients, as it does the tokens'."""
    if net.plan.input_require_grads and not x.rg:
        return Tensor(x.st, x.shape, x.n, x.dt, True, g.t.node(lambda grad: (), ()))
    return x


def vit(g: Any, net: Any, images: int, f: Any, upto: int | None = None) -> tuple[Any, list[Any]]:
    """``CLIPVisionModel.forward``: the output of layer ``upto`` (None: the last, after SigLIP's norm).

    Also returns what the model's output record holds: it outlives the layers.
    """
    x = pixels(g, net, (images, f["channels"], f["size"], f["size"]))
    x = embed(g, net, x, images, f)
    if f["clip"]:
        x = g.layer_norm(x, net.v_pre_norm.weight, net.v_pre_norm.bias)

    def layer(m: Any, x: Any) -> Any:
        return vit_layer(g, m, x, f)

    stop = f["layers"] if upto is None else upto
    x = net.run(g, "vision", layer, x, only=(0, stop))
    if f["clip"]:
        last = net.run(g, "vision", layer, x, only=(stop, f["layers"])) if stop < f["layers"] else x
        pooled = g.slice(last, (images, f["hidden"]))
        pooled = g.layer_norm(pooled, net.v_post_norm.weight, net.v_post_norm.bias)
        return x, [last, pooled]
    last = net.run(g, "vision", layer, x, only=(stop, f["layers"])) if stop < f["layers"] else x
    last = g.layer_norm(last, net.v_post_norm.weight, net.v_post_norm.bias)
    held = [last]
    if f["head"]:
        held.append(pool(g, net, last, f))
    return (last if upto is None else x), held


def embed(g: Any, net: Any, x: Any, images: int, f: Any) -> Any:
    """Patches, class token, learned positions."""
    grid, hidden = f["grid"], f["hidden"]
    low = g.to(x, net.v_patch.weight.dt)
    x = g.conv(low, net.v_patch.weight, net.v_patch.bias, (grid, grid), "patch embedding")
    del low
    x = entering(g, net, x)
    tokens = grid * grid
    x = Tensor(x.st, (images, tokens, hidden), x.n, x.dt, x.rg, x.node)
    if f["clip"]:
        first = g.spread(net.v_class, (images, 1, hidden))
        x = g.cat((first, x), (images, tokens + 1, hidden))
        tokens += 1
    ids = Tensor(None, (1, tokens), tokens, I64)
    return g.add(x, g.embedding(ids, net.v_position.weight, "position embedding"))


def vit_layer(g: Any, m: Any, x: Any, f: Any) -> Any:
    """``CLIPEncoderLayer.forward``."""
    h = g.layer_norm(x, m.norm1.weight, m.norm1.bias)
    h = vit_attention(g, m, h, f)
    x = g.add(x, h)
    h = g.layer_norm(x, m.norm2.weight, m.norm2.bias)
    h = vit_mlp(g, m, h, f)
    return g.add(x, h)


def vit_mlp(g: Any, m: Any, h: Any, f: Any) -> Any:
    """``CLIPMLP.forward``."""
    h = m.fc1(g, h)
    h = g.act(f["act"], h)
    return m.fc2(g, h)


def vit_attention(g: Any, m: Any, h: Any, f: Any) -> Any:
    """``CLIPAttention.forward``: no mask."""
    b, s, hidden = h.shape
    shape = (b, f["heads"], s, hidden // f["heads"])
    q, k, v = m.q_proj(g, h), m.k_proj(g, h), m.v_proj(g, h)
    q, k, v = q.view(*shape), k.view(*shape), v.view(*shape)
    return m.out_proj(g, g.attention(q, k, v, None, causal=False, dropout=f["dropout"]))


def pool(g: Any, net: Any, x: Any, f: Any) -> Any:
    """SigLIP's head: one learned query over all patches (its output is not used by language models)."""
    b, s, hidden = x.shape
    heads = f["heads"]
    probe = g.expand(net.v_probe, (b, 1, hidden), "repeat")
    q = g.linear(probe, net.v_in_weight.narrow(hidden, hidden), None, "pooling q")
    kv = g.linear(x, net.v_in_weight.narrow(2 * hidden, hidden), None, "pooling kv")
    k, v = g.split(kv, [(b, heads, s, hidden // heads)] * 2)
    out = g.attention(q.view(b, heads, 1, hidden // heads), k, v, None, causal=False)
    out = net.v_pool_out(g, out)
    h = g.layer_norm(out, net.v_head_norm.weight, net.v_head_norm.bias)
    h = net.v_head_fc2(g, g.act(f["act"], net.v_head_fc1(g, h)))
    return g.add(out, h)
