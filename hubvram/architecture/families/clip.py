"""CLIP and SigLIP: an image and a text encoder, contrastive loss over the batch."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import biased, heads_first, index_buffer, layer_norm
from hubvram.architecture.families._vision import patch_projection, patches, sides, with_tokens
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Stack, Weight


def tower(prefix: str, width: int, inner: int, layers: int) -> Stack:
    """One encoder; ``prefix`` is its model's path."""
    modules: dict[str, Module] = {
        "k": biased("self_attn.k_proj", width, width),
        "v": biased("self_attn.v_proj", width, width),
        "q": biased("self_attn.q_proj", width, width),
        "o": biased("self_attn.out_proj", width, width, "attn_out"),
        "norm1": layer_norm("layer_norm1", width),
        "up": biased("mlp.fc1", width, inner),
        "down": biased("mlp.fc2", inner, width, "mlp_out"),
        "norm2": layer_norm("layer_norm2", width),
    }
    return Stack(f"{prefix}.encoder.layers", (Block(modules),), (0,) * layers)


def settings(config: Config, act: str) -> tuple[str, float]:
    """Activation and attention dropout of one encoder."""
    return config.text("hidden_act", default=act), config.number("attention_dropout", default=0.0)


def build(config: Config, header: Header) -> Architecture:
    """From config.json and its ``text_config`` and ``vision_config``."""
    model_type = config.text("model_type", default="clip")
    siglip = model_type == "siglip"
    text = config.sub("text_config", "text_config_dict") or Config({}, f"{config.where}:text_config")
    vision = config.sub("vision_config", "vision_config_dict") or Config({}, f"{config.where}:vision_config")
    tw = text.positive("hidden_size", default=768 if siglip else 512)
    vw = vision.positive("hidden_size", default=768)
    vocab = text.positive("vocab_size", default=32000 if siglip else 49408)
    places = text.positive("max_position_embeddings", default=64 if siglip else 77)
    image, patch = sides(vision, "image_size", 224), sides(vision, "patch_size", 16 if siglip else 32)
    grid = (image[0] // patch[0], image[1] // patch[1])
    channels = vision.positive("num_channels", default=3)
    t_layers, v_layers = (c.positive("num_hidden_layers", default=12) for c in (text, vision))
    t_heads = text.positive("num_attention_heads", default=12 if siglip else 8)
    v_heads = vision.positive("num_attention_heads", default=12)
    t_inner = text.positive("intermediate_size", default=3072 if siglip else 2048)
    v_inner = vision.positive("intermediate_size", default=3072)
    act = "gelu_pytorch_tanh" if siglip else "quick_gelu"
    spots = grid[0] * grid[1] + (0 if siglip else 1)
    seen, read = "vision_model", "text_model"
    modules: dict[str, Module] = {
        "projection": patch_projection(f"{seen}.embeddings.patch_embedding", channels, vw, patch, bias=siglip),
        "v_positions": Embedding(f"{seen}.embeddings.position_embedding", spots, vw),
        "v_ids": index_buffer(f"{seen}.embeddings.position_ids", spots),
        "post_norm": layer_norm(f"{seen}.post_layernorm", vw),
        "embed": Embedding(f"{read}.embeddings.token_embedding", vocab, tw),
        "t_positions": Embedding(f"{read}.embeddings.position_embedding", places, tw),
        "t_ids": index_buffer(f"{read}.embeddings.position_ids", places),
        "final_norm": layer_norm(f"{read}.final_layer_norm", tw),
        "scale": Weight("logit_scale", (1,) if siglip else ()),
    }
    head = siglip and vision.flag("vision_use_head", default=True)
    if siglip:
        out = text.positive("projection_size", default=tw)
        modules["text_head"] = biased(f"{read}.head", tw, out)
        modules["bias"] = Weight("logit_bias", (1,))
        if head:
            modules.update(
                {
                    "probe": Weight(f"{seen}.head.probe", (1, 1, vw)),
                    "in_weight": Weight(f"{seen}.head.attention.in_proj_weight", (3 * vw, vw)),
                    "in_bias": Weight(f"{seen}.head.attention.in_proj_bias", (3 * vw,)),
                    "head_o": biased(f"{seen}.head.attention.out_proj", vw, vw),
                    "head_norm": layer_norm(f"{seen}.head.layernorm", vw),
                    "head_up": biased(f"{seen}.head.mlp.fc1", vw, v_inner),
                    "head_down": biased(f"{seen}.head.mlp.fc2", v_inner, vw),
                }
            )
    else:
        shared = config.positive("projection_dim", default=512)
        modules.update(
            {
                "class_token": Weight(f"{seen}.embeddings.class_embedding", (vw,)),
                "pre_norm": layer_norm(f"{seen}.pre_layrnorm", vw),
                "see": Linear("visual_projection", vw, shared),
                "read": Linear("text_projection", tw, shared),
            }
        )
    return Architecture(
        family="clip",
        model_type=model_type,
        class_name=None,
        task="contrastive",
        modules=modules,
        stacks={"vision": tower(seen, vw, v_inner, v_layers), "text": tower(read, tw, t_inner, t_layers)},
        forward=forward,
        hidden_size=tw,
        vocab_size=vocab,
        num_layers=t_layers,
        num_attention_heads=t_heads,
        num_key_value_heads=t_heads,
        head_dim=tw // t_heads,
        max_seq_len=places,
        decoder="text",
        assumptions=(
            f"contrastive loss over image-text pairs: {image[0]} x {image[1]} pixels, at most {places} tokens",
        ),
        facts={
            "vision": (v_heads, *settings(vision, act)),
            "text": (t_heads, *settings(text, act)),
            "siglip": siglip,
            "head": head,
            "channels": channels,
            "image": image,
            "grid": grid,
            "places": places,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """CLIPModel.forward and SiglipModel.forward with return_loss."""
    facts = net.arch.facts
    siglip = facts["siglip"]
    b = batch.size

    def encoder(name: str, x: Any, mask: Any = None, causal: bool = False) -> Any:
        heads, act, dropout = facts[name]

        def attention(m: Any, h: Any) -> Any:
            q, k, v = m.q(g, h), m.k(g, h), m.v(g, h)
            q, k, v = heads_first(q, heads), heads_first(k, heads), heads_first(v, heads)
            return m.o(g, g.attention(q, k, v, mask, causal=causal, dropout=dropout))

        def mlp(m: Any, h: Any) -> Any:
            h = m.up(g, h)
            h = g.act(act, h)
            return m.down(g, h)

        def layer(m: Any, x: Any) -> Any:
            h = g.layer_norm(x, m.norm1.weight, m.norm1.bias)
            h = attention(m, h)
            x = g.add(x, h)
            h = g.layer_norm(x, m.norm2.weight, m.norm2.bias)
            h = mlp(m, h)
            return g.add(x, h)

        return net.run(g, name, layer, x)

    def image() -> tuple[Any, Any]:
        x = patches(g, net, net.projection, b, facts["channels"], facts["image"], facts["grid"])
        if not siglip:
            x = with_tokens(g, [net.class_token], x)
        ids = g.stored((1, x.shape[1]))
        x = g.add(x, g.embedding(ids, net.v_positions.weight, "position embeddings"))
        if not siglip:
            x = g.layer_norm(x, net.pre_norm.weight, net.pre_norm.bias)
        last = encoder("vision", x)
        if siglip:
            last = g.layer_norm(last, net.post_norm.weight, net.post_norm.bias)
            return last, pooling(last) if facts["head"] else last
        pooled = g.slice(last, (b, last.shape[2]))
        pooled = g.layer_norm(pooled, net.post_norm.weight, net.post_norm.bias)
        return last, net.see(g, pooled)

    def pooling(x: Any) -> Any:
        """One query attends to all patches (torch.nn.MultiheadAttention, weights asked for)."""
        heads, act, _ = facts["vision"]
        _, s, w = x.shape
        probe = g.expand(net.probe, (b, 1, w), "repeat")
        wq, wkv = g.split(net.in_weight, [(w, w), (2 * w, w)])
        bq, bkv = g.split(net.in_bias, [(w,), (2 * w,)])
        q = g.linear(probe, wq, bq, "pooling query")
        kv = g.clone(g.linear(x, wkv, bkv, "pooling keys and values"))
        k, v = g.split(kv, [(b, heads, s, w // heads)] * 2)
        scores = g.matmul(g.scale(q.view(b, heads, 1, w // heads)), k, (b, heads, 1, s), "pooling scores")
        out = g.matmul(g.softmax(scores, None), v, (b, heads, 1, w // heads), "pooling output")
        out = net.head_o(g, out.view(b, 1, w))
        h = g.layer_norm(out, net.head_norm.weight, net.head_norm.bias)
        h = net.head_down(g, g.act(act, net.head_up(g, h)))
        return g.slice(g.add(out, h), (b, w))

    def text() -> tuple[Any, Any]:
        tokens = min(batch.tokens, facts["places"])
        words = net.embed_tokens(g, batch, tokens=tokens)
        s = words.shape[1]
        x = g.add(words, g.embedding(g.stored((1, s)), net.t_positions.weight, "position embeddings"))
        del words
        mask = g.causal_mask(b, s, x.dt, batch.padding, causal=not siglip)
        x = encoder("text", x, mask, causal=not siglip)
        last = g.layer_norm(x, net.final_norm.weight, net.final_norm.bias)
        pooled = g.slice(last, (b, last.shape[2]))
        return last, net.text_head(g, pooled) if siglip else net.read(g, pooled)

    def normalised(x: Any) -> Any:
        norm = g.rsqrt(g.mean_last(g.pow(x)))
        return g.mul(x, norm)

    seen, picture = image()
    read, words = text()
    if not net.plan.training:
        return words
    picture, words = normalised(picture), normalised(words)
    logits = g.matmul(words, picture, (b, b), "similarity")
    logits = g.mul(logits, g.exp(net.scale))
    if siglip:
        logits = g.add(logits, net.bias)
        loss = g.mean_all(g.unary("log_sigmoid", g.scale(logits)))
    else:
        loss = g.add(g.cross_entropy(logits), g.cross_entropy(logits))
    del seen, read  # the outputs hold both towers' last hidden states
    return loss


FAMILY = Family(
    name="clip",
    model_types=("clip", "siglip"),
    build=build,
    source="transformers 5.23 models/{clip,siglip}/modeling_*.py",
    examples=("openai/clip-vit-large-patch14",),
)
