"""BART, mBART, Pegasus, Marian: encoder-decoders with absolute positions."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import biased, classification_loss, layer_norm, num_labels, seq2seq_loss
from hubvram.architecture.families._seq2seq import Style, block, layer_of, rates
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Embedding, Linear, Module, Stack, Weight

PRE_NORM = ("mbart", "pegasus")
SINUSOIDS = ("pegasus", "marian")
"""Frozen sinusoidal positions and no norm after the embeddings."""
VOCAB = {"marian": 58101}


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in transformers' configuration classes."""
    model_type = config.text("model_type", default="bart")
    width = config.positive("d_model", default=1024)
    layers = config.positive("encoder_layers", default=12)
    decoder_layers = config.positive("decoder_layers", default=12)
    heads = config.positive("encoder_attention_heads", default=16)
    decoder_heads = config.positive("decoder_attention_heads", default=16)
    vocab = config.positive("vocab_size", default=VOCAB.get(model_type, 50265))
    places = config.positive("max_position_embeddings", default=1024)
    shared = model_type != "marian" or config.flag("share_encoder_decoder_embeddings", default=True)
    target_vocab = vocab if shared else config.positive("decoder_vocab_size", default=vocab)
    tied = config.flag("tie_word_embeddings", default=True)
    classes = config.raw("architectures")
    classifier = isinstance(classes, list) and any(str(c).endswith("ForSequenceClassification") for c in classes)
    sinusoids = model_type in SINUSOIDS
    offset = 0 if sinusoids else 2

    owner = "model.shared" if shared else "model.encoder.embed_tokens"
    modules: dict[str, Module] = {"embed": Embedding(owner, vocab, width)}
    if not shared:
        modules["targets"] = Embedding("model.decoder.embed_tokens", target_vocab, width)
    for side in ("encoder", "decoder"):
        modules[f"{side}_positions"] = Embedding(
            f"model.{side}.embed_positions", places + offset, width, frozen=sinusoids
        )
        if not sinusoids:
            modules[f"{side}_embed_norm"] = layer_norm(f"model.{side}.layernorm_embedding", width)
        if model_type in PRE_NORM:
            modules[f"{side}_norm"] = layer_norm(f"model.{side}.layer_norm", width)
    if classifier:
        labels = num_labels(config)
        modules["dense"] = biased("classification_head.dense", width, width)
        modules["out_proj"] = biased("classification_head.out_proj", width, labels, "head")
    else:
        modules["lm_head"] = Linear("lm_head", width, target_vocab, role="head")
        modules["logits_bias"] = Weight("final_logits_bias", (1, target_vocab), buffer=True)
    inner = config.positive("encoder_ffn_dim", default=4096)
    decoder_inner = config.positive("decoder_ffn_dim", default=4096)
    common: dict[str, Any] = {
        **rates(config, 0.1),
        "pre_norm": model_type in PRE_NORM,
        "clamps": model_type in PRE_NORM,
    }
    return Architecture(
        family="bart",
        model_type=model_type,
        class_name=None,
        task="seqcls" if classifier else "seq2seq",
        modules=modules,
        stacks={
            "encoder": Stack("model.encoder.layers", (block(width, inner, decoder=False),), (0,) * layers),
            "decoder": Stack(
                "model.decoder.layers", (block(width, decoder_inner, decoder=True),), (0,) * decoder_layers
            ),
        },
        forward=forward,
        hidden_size=width,
        vocab_size=vocab,
        num_layers=decoder_layers,
        num_attention_heads=decoder_heads,
        num_key_value_heads=decoder_heads,
        head_dim=width // decoder_heads,
        max_seq_len=places,
        tied={"lm_head": "embed" if shared else "targets"} if tied and not classifier else {},
        decoder="decoder",
        facts={
            "encoder": Style(heads=heads, **common),
            "decoder": Style(heads=decoder_heads, **common),
            "sinusoids": sinusoids,
            "shared": shared,
            "classifier": classifier,
            "head_dropout": config.number("classifier_dropout", default=0.0),
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """BartForConditionalGeneration.forward and its like."""
    arch = net.arch
    facts = arch.facts
    plain = facts["sinusoids"]

    def stack(side: str, words: Any, layer: Any, rows: int) -> Any:
        style = facts[side]
        s = words.shape[1]
        table = getattr(net, f"{side}_positions").weight
        places = g.embedding(g.ids(s) if plain else g.ids(rows, s), table, "position embeddings")
        x = g.add(words, places)
        if not plain:
            norm = getattr(net, f"{side}_embed_norm")
            x = g.layer_norm(x, norm.weight, norm.bias)
        cell = [g.dropout(x, style.dropout)]
        del x
        x = net.run(g, side, layer, cell[0], last_apart=side == "decoder" and net.plan.trains_anything)
        if style.pre_norm:
            norm = getattr(net, f"{side}_norm")
            x = g.layer_norm(x, norm.weight, norm.bias)
        del words, places  # held while the layers run
        return x

    source = g.scale(net.embed_tokens(g, batch, tokens=batch.source_tokens))
    b, s = source.shape[0], source.shape[1]
    mask = g.causal_mask(b, s, source.dt, batch.padding, causal=False)
    states = stack("encoder", source, layer_of(g, net, facts["encoder"], causal=False, mask=mask), b)
    g.t.settle(states)
    del source, mask
    if facts["classifier"]:
        words = g.scale(net.embed_tokens(g, batch, tokens=batch.source_tokens))
    else:
        words = g.scale(net.embed_targets(g, batch, "embed" if facts["shared"] else "targets"))
    tokens = words.shape[1]
    layer = layer_of(
        g,
        net,
        facts["decoder"],
        causal=True,
        mask=g.causal_mask(b, tokens, words.dt, False),
        states=states,
        cross_mask=g.cross_mask(b, tokens, s, words.dt, batch.padding),
    )
    x = stack("decoder", words, layer, 1)
    del words, layer
    if facts["classifier"]:
        h = g.dropout(g.slice(x, (b, arch.hidden_size)), facts["head_dropout"])
        h = g.dropout(g.tanh(net.dense(g, h)), facts["head_dropout"])
        return classification_loss(g, net, net.out_proj(g, h), batch)
    if not net.plan.training:
        return net.lm_head(g, g.slice(x, (b, 1, arch.hidden_size)))
    logits = g.add(net.lm_head(g, x), net.logits_bias)
    return seq2seq_loss(g, net, logits, batch)


FAMILY = Family(
    name="bart",
    model_types=("bart", "mbart", "pegasus", "marian"),
    build=build,
    source="transformers 5.23 models/{bart,mbart,pegasus,marian}/modeling_*.py",
    examples=("facebook/bart-large",),
)
