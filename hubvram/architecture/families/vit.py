"""ViT, DeiT, DINOv2: image encoders, trained as image classifiers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import biased, classification_loss, layer_norm, num_labels
from hubvram.architecture.families._vision import (
    drop_path,
    patch_projection,
    patches,
    self_attention,
    sides,
    with_tokens,
)
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Linear, Module, Stack, Weight

LEGACY = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
"""Paths before transformers 5."""
LEGACY_MLP = {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in transformers' configuration classes."""
    return replace(_build(config, legacy=False), legacy=lambda: _build(config, legacy=True))


def _build(config: Config, *, legacy: bool) -> Architecture:
    model_type = config.text("model_type", default="vit")
    dino = model_type == "dinov2"
    hidden = config.positive("hidden_size", default=768)
    layers = config.positive("num_hidden_layers", default=12)
    heads = config.positive("num_attention_heads", default=12)
    channels = config.positive("num_channels", default=3)
    if dino:
        inner = int(hidden * config.number("mlp_ratio", default=4))
    else:
        inner = config.positive("intermediate_size", default=3072)
    image = sides(config, "image_size", 224)
    patch = sides(config, "patch_size", 14 if dino else 16)
    grid = (image[0] // patch[0], image[1] // patch[1])
    labels = num_labels(config)
    qkv_bias = config.flag("qkv_bias", default=True)
    gated = dino and config.flag("use_swiglu_ffn", default=False)
    names = {**LEGACY, **({} if dino else LEGACY_MLP)} if legacy else {}

    def named(path: str) -> str:
        return names.get(path, path)

    before, after = ("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after")
    block: dict[str, Module] = {
        "q": Linear(named("attention.q_proj"), hidden, hidden, qkv_bias),
        "k": Linear(named("attention.k_proj"), hidden, hidden, qkv_bias),
        "v": Linear(named("attention.v_proj"), hidden, hidden, qkv_bias),
        "o": biased(named("attention.o_proj"), hidden, hidden, "attn_out"),
        "before": layer_norm(before, hidden),
        "after": layer_norm(after, hidden),
    }
    if dino:
        block["scale1"] = Weight("layer_scale1.lambda1", (hidden,))
        block["scale2"] = Weight("layer_scale2.lambda1", (hidden,))
    if gated:
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
        if legacy:
            block["gate_up"] = biased("mlp.weights_in", hidden, 2 * inner)
            block["down"] = biased("mlp.weights_out", inner, hidden, "mlp_out")
        else:
            block["gate"] = biased("mlp.gate_proj", hidden, inner)
            block["up"] = biased("mlp.up_proj", hidden, inner)
            block["down"] = biased("mlp.down_proj", inner, hidden, "mlp_out")
    else:
        block["up"] = biased(named("mlp.fc1"), hidden, inner)
        block["down"] = biased(named("mlp.fc2"), inner, hidden, "mlp_out")
    base = model_type
    extra = 2 if model_type == "deit" else 1
    at = f"{base}.embeddings"
    modules: dict[str, Module] = {"cls": Weight(f"{at}.cls_token", (1, 1, hidden))}
    if model_type == "deit":
        modules["distillation"] = Weight(f"{at}.distillation_token", (1, 1, hidden))
    if dino and config.flag("use_mask_token", default=True):
        modules["mask_token"] = Weight(f"{at}.mask_token", (1, hidden))
    modules.update(
        {
            "positions": Weight(f"{at}.position_embeddings", (1, grid[0] * grid[1] + extra, hidden)),
            "projection": patch_projection(f"{at}.patch_embeddings.projection", channels, hidden, patch),
            "norm": layer_norm(f"{base}.layernorm", hidden),
            "classifier": biased("classifier", hidden * (2 if dino else 1), labels, "head"),
        }
    )
    return Architecture(
        family="vit",
        model_type=model_type,
        class_name=None,
        task="image",
        modules=modules,
        stacks={
            "layers": Stack(
                f"{base}.encoder.layer" if dino or legacy else f"{base}.layers", (Block(block),), (0,) * layers
            )
        },
        forward=forward,
        hidden_size=hidden,
        vocab_size=labels,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_seq_len=None,
        assumptions=(f"image classification with {labels} labels, images of {image[0]} x {image[1]} pixels",),
        facts={
            "act": config.text("hidden_act", default="gelu"),
            "dropout": config.number("hidden_dropout_prob", default=0.0),
            "attn_dropout": config.number("attention_probs_dropout_prob", default=0.0),
            "drop_path": config.number("drop_path_rate", default=0.0) if dino else 0.0,
            "channels": channels,
            "image": image,
            "grid": grid,
            "gated": gated,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """ViTForImageClassification.forward and its like."""
    arch = net.arch
    facts = arch.facts
    heads, dropout, dino = arch.num_attention_heads, facts["dropout"], arch.model_type == "dinov2"

    def embeddings() -> Any:
        x = patches(g, net, net.projection, batch.size, facts["channels"], facts["image"], facts["grid"])
        tokens = [net.cls, net.distillation] if arch.model_type == "deit" else [net.cls]
        x = with_tokens(g, tokens, x)
        x = g.add(x, net.positions)
        return g.dropout(x, dropout)

    def mlp(m: Any, h: Any) -> Any:
        if facts["gated"]:
            if hasattr(m, "gate_up"):
                both = m.gate_up(g, h)
                half = (*both.shape[:-1], both.shape[-1] // 2)
                gate, up = g.split(both, [half, half])
                return m.down(g, g.mul(g.silu(gate), up))
            return m.down(g, g.mul(g.silu(m.gate(g, h)), m.up(g, h)))
        h = m.up(g, h)
        h = g.act(facts["act"], h)
        return m.down(g, h)

    def part(m: Any, norm: Any, run: Any, scale: str, x: Any) -> Any:
        residual = x
        x = g.layer_norm(x, norm.weight, norm.bias)
        x = run(x)
        if dino:
            x = g.mul(x, getattr(m, scale))
            return g.add(drop_path(g, x, facts["drop_path"]), residual)
        x = g.dropout(x, dropout)
        return g.add(x, residual)

    def layer(m: Any, x: Any) -> Any:
        x = part(m, m.before, lambda h: self_attention(g, m, h, heads, facts["attn_dropout"]), "scale1", x)
        return part(m, m.after, lambda h: mlp(m, h), "scale2", x)

    embedded = embeddings()
    x = net.run(g, "layers", layer, embedded)
    x = g.layer_norm(x, net.norm.weight, net.norm.bias)
    b, s, width = x.shape
    pooled = g.slice(x, (b, width))
    if dino:
        means = g.mean_tokens(g.slice(x, (b, s - 1, width)))
        pooled = g.cat((pooled, means), (b, 2 * width))
    loss = classification_loss(g, net, net.classifier(g, pooled), batch)
    del embedded  # held while the layers run
    return loss


FAMILY = Family(
    name="vit",
    model_types=("vit", "deit", "dinov2"),
    build=build,
    source="transformers 5.23 models/{vit,deit,dinov2}/modeling_*.py",
    examples=("google/vit-base-patch16-224", "facebook/dinov2-base"),
)
