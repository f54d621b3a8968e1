"""Whisper: convolutions over mel frames, encoder-decoder; 3000 frames a sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._encoder import convolution, layer_norm, seq2seq_loss
from hubvram.architecture.families._seq2seq import Style, block, layer_of, rates
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Embedding, Linear, Module, Stack


def build(config: Config, header: Header) -> Architecture:
    """From config.json; defaults as in WhisperConfig."""
    width = config.positive("d_model", default=384)
    layers = config.positive("encoder_layers", default=4)
    decoder_layers = config.positive("decoder_layers", default=4)
    heads = config.positive("encoder_attention_heads", default=6)
    decoder_heads = config.positive("decoder_attention_heads", default=6)
    vocab = config.positive("vocab_size", default=51865)
    frames = config.positive("max_source_positions", default=1500)
    targets = config.positive("max_target_positions", default=448)
    mels = config.positive("num_mel_bins", default=80)
    inner = config.positive("encoder_ffn_dim", default=1536)
    decoder_inner = config.positive("decoder_ffn_dim", default=1536)
    common: dict[str, Any] = {
        **rates(config, 0.0),
        "pre_norm": True,
        "clamps": True,
        "contiguous": True,
    }
    modules: dict[str, Module] = {
        "conv1": convolution("model.encoder.conv1", mels, width, 3),
        "conv2": convolution("model.encoder.conv2", width, width, 3),
        "encoder_positions": Embedding("model.encoder.embed_positions", frames, width, frozen=True),
        "encoder_norm": layer_norm("model.encoder.layer_norm", width),
        "embed": Embedding("model.decoder.embed_tokens", vocab, width),
        "decoder_positions": Embedding("model.decoder.embed_positions", targets, width),
        "decoder_norm": layer_norm("model.decoder.layer_norm", width),
        "lm_head": Linear("proj_out", width, vocab, role="head"),
    }
    return Architecture(
        family="whisper",
        model_type="whisper",
        class_name=None,
        task="speech",
        modules=modules,
        stacks={
            "encoder": Stack(
                "model.encoder.layers", (block(width, inner, decoder=False, k_bias=False),), (0,) * layers
            ),
            "decoder": Stack(
                "model.decoder.layers",
                (block(width, decoder_inner, decoder=True, k_bias=False),),
                (0,) * decoder_layers,
            ),
        },
        forward=forward,
        hidden_size=width,
        vocab_size=vocab,
        num_layers=decoder_layers,
        num_attention_heads=decoder_heads,
        num_key_value_heads=decoder_heads,
        head_dim=width // decoder_heads,
        max_seq_len=targets,
        tied={"lm_head": "embed"} if config.flag("tie_word_embeddings", default=True) else {},
        decoder="decoder",
        assumptions=(f"{2 * frames} mel frames a sample; seq_len counts the decoder's tokens, at most {targets}",),
        facts={
            "encoder": Style(heads=heads, **common),
            "decoder": Style(heads=decoder_heads, **common),
            "mels": mels,
            "frames": frames,
            "targets": targets,
        },
    )


def forward(g: Any, net: Any, batch: Any) -> Any:
    """WhisperForConditionalGeneration.forward."""
    arch = net.arch
    facts = arch.facts
    b, frames, width = batch.size, facts["frames"], arch.hidden_size
    tokens = min(batch.tokens, facts["targets"])

    def encoder() -> Any:
        features = g.floats((b, facts["mels"], 2 * frames), "input features")
        net.inputs.append(features)
        x = g.gelu(g.conv(g.to(features, net.input_dtype), net.conv1.weight, net.conv1.bias, (2 * frames,), "conv1"))
        x = g.gelu(g.conv(x, net.conv2.weight, net.conv2.bias, (frames,), "conv2"))
        embedded = x.view(b, frames, width)
        places = g.embedding(g.ids(frames), net.encoder_positions.weight, "position embeddings")
        x = g.add(embedded, places)
        del places
        x = g.dropout(x, facts["encoder"].dropout)
        x = net.run(g, "encoder", layer_of(g, net, facts["encoder"], causal=False, mask=None), x)
        x = g.layer_norm(x, net.encoder_norm.weight, net.encoder_norm.bias)
        del embedded  # held while the layers run
        return x

    def decoder(states: Any) -> Any:
        words = net.embed_targets(g, batch_of(batch, tokens))
        places = g.embedding(g.ids(b, tokens), net.decoder_positions.weight, "position embeddings")
        x = g.add(words, places)
        x = g.dropout(x, facts["decoder"].dropout)
        mask = g.causal_mask(b, tokens, words.dt, False)
        layer = layer_of(g, net, facts["decoder"], causal=True, mask=mask, states=states)
        x = net.run(g, "decoder", layer, x, last_apart=states.rg)
        x = g.layer_norm(x, net.decoder_norm.weight, net.decoder_norm.bias)
        del words, places  # held while the layers run
        return x

    states = encoder()
    x = decoder(states)
    if not net.plan.training:
        return net.lm_head(g, g.slice(x, (b, 1, width)))
    return seq2seq_loss(g, net, net.lm_head(g, x), batch_of(batch, tokens))


def batch_of(batch: Any, tokens: int) -> Any:
    """The batch with its decoder tokens cut to what the model takes."""
    return replace(batch, tokens=tokens)


FAMILY = Family(
    name="whisper",
    model_types=("whisper",),
    build=build,
    source="transformers 5.23 models/whisper/modeling_whisper.py",
    examples=("openai/whisper-small", "distil-whisper/distil-large-v3"),
)
