"""Encoder-decoders: T5 and BART lines, Whisper. Expected figures as in ``test_encoders``."""

from __future__ import annotations

from typing import Any

import pytest
from simulated_rows import Row, build, check, check_repeat

T5_BASE: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 768,
    "d_ff": 3072,
    "d_kv": 64,
    "num_layers": 12,
    "num_heads": 12,
    "vocab_size": 32128,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
}
FLAN_T5_XL: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 2048,
    "d_ff": 5120,
    "d_kv": 64,
    "num_layers": 24,
    "num_heads": 32,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
T5: dict[str, Any] = {**T5_BASE, "num_layers": 5}
MT5: dict[str, Any] = {
    "model_type": "mt5",
    "d_model": 768,
    "d_ff": 2048,
    "num_layers": 3,
    "num_heads": 12,
    "vocab_size": 250112,
}
UMT5: dict[str, Any] = {
    "model_type": "umt5",
    "d_model": 512,
    "d_ff": 1024,
    "num_layers": 3,
    "num_heads": 6,
    "vocab_size": 256384,
}
THREE = {"encoder_layers": 3, "decoder_layers": 3}
BART_LARGE: dict[str, Any] = {"model_type": "bart"}
BART: dict[str, Any] = {**BART_LARGE, **THREE}
MBART: dict[str, Any] = {"model_type": "mbart", "vocab_size": 250054, **THREE}
PEGASUS: dict[str, Any] = {"model_type": "pegasus", "vocab_size": 96103, **THREE}
MARIAN: dict[str, Any] = {
    "model_type": "marian",
    "d_model": 512,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "vocab_size": 58101,
    **THREE,
}
WHISPER_SMALL: dict[str, Any] = {
    "model_type": "whisper",
    "d_model": 768,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "num_mel_bins": 80,
    "vocab_size": 51865,
    "architectures": ["WhisperForConditionalGeneration"],
}
WHISPER: dict[str, Any] = {**WHISPER_SMALL, "encoder_layers": 2, "decoder_layers": 2}
LORA = {"r": 16, "lora_alpha": 32}
FOUR: dict[str, Any] = {"batch_size": 4, "seq_len": 128, "dtype": "float32"}
HALF: dict[str, Any] = {"batch_size": 4, "seq_len": 128, "dtype": "bfloat16"}
ROWS: list[Row] = [
    (MT5, "full", 4949417472, 241645056, {**FOUR, "mixed_precision": "bf16"}),
    (UMT5, "full", 1715070464, 147793536, {**HALF, "gradient_checkpointing": True}),
    (
        UMT5,
        "lora",
        1219308544,
        258048,
        {
            **HALF,
            "attn_implementation": "eager",
            "optim": "adamw_torch",
            "peft": {**LORA, "target_modules": ["q", "v"]},
        },
    ),
    (T5, "full", 1834500096, 107271168, {**FOUR, "mixed_precision": "bf16", "gradient_checkpointing": True}),
    (BART, "full", 2650471424, 141755392, FOUR),
    (BART, "lora", 587363840, 589824, {**HALF, "optim": "adamw_torch", "peft": LORA}),
    (BART, "full", 2531312640, 141755392, {**FOUR, "mixed_precision": "bf16", "attn_implementation": "eager"}),
    (MBART, "full", 7563445760, 346343424, FOUR),
    (PEGASUS, "full", 3407099904, 186592256, {**FOUR, "mixed_precision": "bf16"}),
    (MARIAN, "full", 536298496, 51816960, {**HALF, "gradient_checkpointing": True}),
    (
        WHISPER,
        "full",
        2555623424,
        75209472,
        {**FOUR, "batch_size": 2, "mixed_precision": "bf16", "attn_implementation": "eager"},
    ),
]
TWO: dict[str, Any] = {"batch_size": 2, "seq_len": 256, "dtype": "float32", "optim": "adamw_torch"}
SPEECH: dict[str, Any] = {"batch_size": 4, "seq_len": 640, "dtype": "float32", "optim": "adamw_torch"}
CELLS: list[tuple[str, Row]] = [
    ("sim-525fbe4a23", (FLAN_T5_XL, "full", 55696228864, 2783959040, TWO)),
    ("sim-076decab49", (T5_BASE, "full", 4475119104, 222903552, TWO)),
    ("sim-d995fb2c79", (T5_BASE, "lora", 1131188224, 1769472, {**TWO, "dtype": "bfloat16", "peft": LORA})),
    ("sim-5785a3eea5", (FLAN_T5_XL, "lora", 9738826752, 9437184, {**TWO, "dtype": "bfloat16", "peft": LORA})),
    (
        "sim-609fad6bfa",
        (
            T5_BASE,
            "full",
            1915890176,
            222903552,
            {"batch_size": 4, "seq_len": 512, "dtype": "bfloat16", "gradient_checkpointing": True},
        ),
    ),
    # the simulated BART has the defaults of transformers, not the dropouts of facebook/bart-large
    ("sim-aa42d22348", (BART_LARGE, "full", 8143078400, 406291456, TWO)),
    ("sim-f58aa212ac", (BART_LARGE, "lora", 1513304576, 2359296, {**TWO, "dtype": "bfloat16", "peft": LORA})),
    ("sim-83841b0511", (WHISPER_SMALL, "full", 9477683200, 240582912, SPEECH)),
    (
        "sim-bb99df0c6b",
        (
            WHISPER_SMALL,
            "lora",
            6034291712,
            1769472,
            {**SPEECH, "seq_len": 448, "peft": {**LORA, "target_modules": ["q_proj", "v_proj"]}},
        ),
    ),
    (
        "sim-d20a04bd5c",
        (
            WHISPER_SMALL,
            "full",
            5655881216,
            240582912,
            {
                "batch_size": 8,
                "seq_len": 448,
                "dtype": "float32",
                "mixed_precision": "bf16",
                "gradient_checkpointing": True,
            },
        ),
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[f"{r[0]['model_type']}-{r[1]}-{i}" for i, r in enumerate(ROWS)])
def test_small_models(row: Row) -> None:
    """Within 0.02 %."""
    check(row)


@pytest.mark.parametrize("row", [r for _, r in CELLS], ids=[name for name, _ in CELLS])
def test_simulated_cells(row: Row) -> None:
    """Within 0.02 %."""
    check(row)


def test_t5_head_is_tied_since_transformers_5() -> None:
    """transformers 5 ties every T5; before, the config's word counted."""
    arch = build(FLAN_T5_XL)
    assert arch.total_parameters() == 2783959040
    assert arch.legacy is not None
    assert arch.legacy().total_parameters() == 2783959040 + 32128 * 2048 == 2849757184


def test_frozen_positions() -> None:
    """Whisper's encoder positions are parameters that are never trained."""
    assert build(WHISPER_SMALL).total_parameters() == 240582912 + 1500 * 768


def test_bart_classifier() -> None:
    """A sequence-classification checkpoint has a head of two layers instead of a vocabulary."""
    arch = build({**BART_LARGE, "architectures": ["BartForSequenceClassification"], "num_labels": 3})
    assert arch.task == "seqcls"
    assert arch.total_parameters() == 406291456 + 1024 * 1024 + 1024 + 3 * (1024 + 1)


@pytest.mark.parametrize(
    "config", [T5_BASE, {**UMT5, "num_layers": 8}, BART_LARGE, WHISPER_SMALL], ids=lambda c: str(c["model_type"])
)
def test_repeated_layers(config: dict[str, Any], way: tuple[str, dict[str, Any]]) -> None:
    """Traced once, counted n times, though all layers share encoder states and biases."""
    method, given = way
    check_repeat(config, method, **given)
