"""T5, mT5, umT5: encoder-decoders with learned relative position biases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import heads_first, seq2seq_loss
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack

DEFAULT_FF = {"t5": "relu", "mt5": "gated-gelu", "umt5": "gated-gelu"}
DEFAULT_VOCAB = {"t5": 32128, "mt5": 250112, "umt5": 250112}


def attention_modules(name: str, at: str, width: int, inside: int) -> dict[str, Module]:
    """q, k, v, o of one attention layer, none with a bias."""
    return {
        f"{name}_q": Linear(f"{at}.q", width, inside),
        f"{name}_k": Linear(f"{at}.k", width, inside),
        f"{name}_v": Linear(f"{at}.v", width, inside),
        f"{name}_o": Linear(f"{at}.o", inside, width, role="attn_out"),
    }


def build(config: Config, header: Header) -> Architecture:
    """From config.json; transformers 5 ties the head of every T5, earlier versions as the config says."""
    arch = _build(config, tied=True)
    if config.raw("tie_word_embeddings") is False:
        return replace(arch, legacy=lambda: _build(config, tied=False))
    return arch


def _build(config: Config, *, tied: bool) -> Architecture:
    model_type = config.text("model_type", default="t5")
    width = config.positive("d_model", "hidden_size", default=512)
    head_dim = config.positive("d_kv", default=64)
    inner = config.positive("d_ff", default=2048 if model_type == "t5" else 1024)
    layers = config.positive("num_layers", default=6 if model_type == "t5" else 8)
    decoder_layers = config.positive("num_decoder_layers", default=layers)
    heads = config.positive("num_heads", default=8 if model_type == "t5" else 6)
    vocab = config.positive("vocab_size", default=DEFAULT_VOCAB.get(model_type))
    buckets = config.positive("relative_attention_num_buckets", default=32)
    words = config.text("feed_forward_proj", default=DEFAULT_FF.get(model_type, "relu"))
    gated = words.startswith("gated-")
    act = "gelu_new" if words == "gated-gelu" else words.split("-")[-1]
    inside = heads * head_dim

    def block(decoder: bool, bias: bool) -> Block:
        modules = attention_modules("self", "layer.0.SelfAttention", width, inside)
        if bias:
            modules["bias"] = Embedding("layer.0.SelfAttention.relative_attention_bias", buckets, heads)
        modules["self_norm"] = Norm("layer.0.layer_norm", width)
        last = "layer.1"
        if decoder:
            modules.update(attention_modules("cross", "layer.1.EncDecAttention", width, inside))
            modules["cross_norm"] = Norm("layer.1.layer_norm", width)
            last = "layer.2"
        if gated:
            modules["gate"] = Linear(f"{last}.DenseReluDense.wi_0", width, inner)
            modules["up"] = Linear(f"{last}.DenseReluDense.wi_1", width, inner)
        else:
            modules["up"] = Linear(f"{last}.DenseReluDense.wi", width, inner)
        modules["down"] = Linear(f"{last}.DenseReluDense.wo", inner, width, role="mlp_out")
        modules["norm"] = Norm(f"{last}.layer_norm", width)
        return Block(modules, {"bias": bias, "decoder": decoder})

    own = model_type == "umt5"  # a bias in every layer

    def stack(prefix: str, decoder: bool, count: int) -> Stack:
        if own:
            return Stack(prefix, (block(decoder, True),), (0,) * count)
        return Stack(prefix, (block(decoder, True), block(decoder, False)), (0, *(1,) * (count - 1)))

    return Architecture(
        family="t5",
        model_type=model_type,
        class_name=None,
        task="seq2seq",
        modules={
            "embed": Embedding("shared", vocab, width),
            "encoder_norm": Norm("encoder.final_layer_norm", width),
            "decoder_norm": Norm("decoder.final_layer_norm", width),
            "lm_head": Linear("lm_head", width, vocab, role="head"),
        },
        stacks={
            "encoder": stack("encoder.block", False, layers),
            "decoder": stack("decoder.block", True, decoder_layers),
        },
        forward=forward,
        hidden_size=width,
        vocab_size=vocab,
        num_layers=decoder_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        max_seq_len=config.optional("n_positions"),
        tied={"lm_head": "embed"} if tied else {},
        decoder="decoder",
        facts={
            "act": act,
            "gated": gated,
            "dropout": config.number("dropout_rate", default=0.1),
            "own_bias": own,
            # T5 scales the decoder's output unless the config says the head is not tied; umT5 always, mT5 never
            "scaled": model_type == "umt5" or (model_type == "t5" and config.raw("tie_word_embeddings") is not False),
        },
    )


class Layers:
    """The three kinds of sublayers, as T5LayerSelfAttention, T5LayerCrossAttention and T5LayerFF run them."""

    def __init__(self, g: Any, net: Any) -> None:
        """Reads the facts once."""
        self.g = g
        self.net = net
        self.facts = net.arch.facts
        self.heads = net.arch.num_attention_heads
        self.dropout = net.arch.facts["dropout"]

    def attention(self, m: Any, name: str, h: Any, states: Any, bias: Any, mask: Any, causal: bool) -> Any:
        """q, k, v without biases, scores with a position bias, output projection."""
        g = self.g
        q = heads_first(getattr(m, f"{name}_q")(g, h), self.heads)
        k = heads_first(getattr(m, f"{name}_k")(g, states), self.heads)
        v = heads_first(getattr(m, f"{name}_v")(g, states), self.heads)
        if name == "self" and causal:
            k, v, mask = self.net.with_prefix(g, m, k, v, mask)
        out = g.attention_biased(q, k, v, bias, mask, causal=causal, dropout=self.dropout, strided=name == "self")
        return getattr(m, f"{name}_o")(g, out)

    def feed_forward(self, m: Any, h: Any) -> Any:
        """Plain or gated."""
        g, act = self.g, self.facts["act"]
        if self.facts["gated"]:
            gate = g.act(act, m.gate(g, h))
            up = m.up(g, h)
            h = g.mul(gate, up)
        else:
            h = m.up(g, h)
            h = g.act(act, h)
        h = g.dropout(h, self.dropout)
        return m.down(g, h)

    def within(self, m: Any, x: Any, bias: Any, mask: Any, causal: bool) -> Any:
        """Self-attention."""
        g = self.g
        h = g.rms_norm_t5(x, m.self_norm.weight)
        out = self.attention(m, "self", h, h, bias, mask, causal)
        return g.add(x, g.dropout(out, self.dropout))

    def across(self, m: Any, x: Any, states: Any, bias: Any, mask: Any) -> Any:
        """Cross-attention to the encoder's states."""
        g = self.g
        h = g.rms_norm_t5(x, m.cross_norm.weight)
        out = self.attention(m, "cross", h, states, bias, mask, False)
        return g.add(x, g.dropout(out, self.dropout))

    def mlp(self, m: Any, x: Any) -> Any:
        """The feed-forward sublayer."""
        g = self.g
        h = g.rms_norm_t5(x, m.norm.weight)
        h = self.feed_forward(m, h)
        return g.add(x, g.dropout(h, self.dropout))


def forward(g: Any, net: Any, batch: Any) -> Any:
    """T5ForConditionalGeneration.forward."""
    arch = net.arch
    facts = arch.facts
    heads, dropout = arch.num_attention_heads, facts["dropout"]
    layers = Layers(g, net)
    leaf = net.plan.checkpointing and not facts["own_bias"]  # the cross attention's zeros then require a gradient

    def stack(name: str, words: Any, norm: Any, mask: Any, states: Any, cross_mask: Any) -> Any:
        s = words.shape[1]
        causal = name == "decoder"
        first: dict[str, Any] = {}  # what the first layer makes for the others; each layer then holds it

        def zeros(x: Any) -> Any:
            shape = (1, heads, s, states.shape[1])
            dt = g.t.autocast or x.dt
            if not leaf:
                return g.ones(shape, dt, "zeros for a bias")
            made = g.leaf(shape, dt, "zeros for a bias")
            if "cross" not in first:
                net.inputs.append(made)  # checkpointing's records hold it, with its gradient, to the end of the step
            return made

        def layer(m: Any, x: Any) -> Any:
            if m.facts["bias"]:
                bias, cross = g.bias_table(m.bias.weight, s, s + (g.past if causal else 0), heads), None
                if not facts["own_bias"]:
                    first.setdefault("self", bias)
            else:
                if m.shared is None:
                    m.shared = first["self"], first.get("cross")
                bias, cross = m.shared
            x = layers.within(m, x, bias, mask, causal)
            if states is not None:
                if cross is None:
                    cross = zeros(x)
                    if not facts["own_bias"]:
                        first.setdefault("cross", cross)
                x = layers.across(m, x, states, cross, cross_mask)
            return layers.mlp(m, x)

        x = g.dropout(words, dropout)
        shared = not facts["own_bias"] or states is not None
        x = net.run(g, name, layer, x, last_apart=shared and net.plan.trains_anything)
        first.update(self=None, cross=None)  # a recomputed first layer hands on nothing
        x = g.rms_norm_t5(x, norm.weight)
        return g.dropout(x, dropout)

    words = net.embed_tokens(g, batch, tokens=batch.source_tokens)
    b, source = words.shape[0], words.shape[1]
    mask = g.causal_mask(b, source, words.dt, batch.padding, causal=False)
    states = stack("encoder", words, net.encoder_norm, mask, None, None)
    del words, mask
    targets = net.embed_targets(g, batch)
    tokens = targets.shape[1]
    own = g.causal_mask(b, tokens, targets.dt, False)
    cross = g.cross_mask(b, tokens, source, targets.dt, batch.padding)
    x = stack("decoder", targets, net.decoder_norm, own, states, cross)
    del targets, own, cross
    if not net.plan.training:
        return net.lm_head(g, g.slice(x, (b, 1, arch.hidden_size)))
    out = g.scale(x) if facts["scaled"] else x
    return seq2seq_loss(g, net, net.lm_head(g, out), batch)


FAMILY = Family(
    name="t5",
    model_types=("t5", "mt5", "umt5"),
    build=build,
    source="transformers 5.23 models/{t5,mt5,umt5}/modeling_*.py",
    examples=("google-t5/t5-base", "google/flan-t5-xl", "google/mt5-base"),
)
