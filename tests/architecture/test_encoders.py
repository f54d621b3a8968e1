"""Encoders as sequence classifiers: totals from sizes, peaks of simulated training steps.

Expected peaks and trained parameters come from real transformers 5.23, peft 0.21 and torch 2.13 code
run on tensors without data; rows with a cell's id are in the project's published truth, the others are
smaller models (three layers) run in the same way.
"""

from __future__ import annotations

from typing import Any

import pytest
from simulated_rows import Row, build, check, check_repeat

from hubvram.errors import UnsupportedError

BERT_BASE: dict[str, Any] = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
BERT: dict[str, Any] = {"model_type": "bert", "num_hidden_layers": 3}
ROBERTA_LARGE: dict[str, Any] = {
    "model_type": "roberta",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}
ELECTRA: dict[str, Any] = {"model_type": "electra", "num_hidden_layers": 3}
DISTILBERT: dict[str, Any] = {"model_type": "distilbert", "n_layers": 3}
ALBERT: dict[str, Any] = {
    "model_type": "albert",
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_hidden_layers": 3,
}
MPNET: dict[str, Any] = {"model_type": "mpnet", "num_hidden_layers": 3}
DEBERTA_V3: dict[str, Any] = {
    "model_type": "deberta-v2",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 128100,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "max_relative_positions": -1,
    "position_biased_input": False,
}
DEBERTA_OWN_KEYS: dict[str, Any] = {
    **DEBERTA_V3,
    "num_hidden_layers": 3,
    "share_att_key": False,
    "position_biased_input": True,
    "type_vocab_size": 2,
}
DEBERTA_CONV: dict[str, Any] = {**DEBERTA_V3, "num_hidden_layers": 3, "conv_kernel_size": 3, "conv_act": "gelu"}
MODERNBERT: dict[str, Any] = {"model_type": "modernbert"}
LORA = {"r": 16, "lora_alpha": 32}
HALF = {"dtype": "bfloat16", "optim": "adamw_torch"}
ROWS: list[Row] = [
    (
        ROBERTA_LARGE,
        "full",
        1472640000,
        90841090,
        {"batch_size": 4, "seq_len": 128, "dtype": "float32", "mixed_precision": "bf16"},
    ),
    (ROBERTA_LARGE, "lora", 264880128, 1248258, {"batch_size": 4, "seq_len": 128, **HALF, "peft": LORA}),
    (
        BERT,
        "full",
        803791872,
        45692930,
        {
            "batch_size": 4,
            "seq_len": 256,
            "dtype": "float32",
            "mixed_precision": "bf16",
            "attn_implementation": "eager",
        },
    ),
    (
        BERT,
        "full",
        384204800,
        45692930,
        {"batch_size": 4, "seq_len": 256, "dtype": "bfloat16", "gradient_checkpointing": True},
    ),
    (BERT, "lora", 195750400, 148994, {"batch_size": 4, "seq_len": 256, **HALF, "peft": LORA}),
    (ELECTRA, "full", 124785664, 6441474, {"batch_size": 4, "seq_len": 128, "dtype": "float32"}),
    (ELECTRA, "lora", 45329920, 115458, {"batch_size": 4, "seq_len": 128, **HALF, "peft": LORA}),
    (
        DISTILBERT,
        "full",
        749714944,
        45691394,
        {"batch_size": 4, "seq_len": 128, "dtype": "float32", "mixed_precision": "bf16"},
    ),
    (ALBERT, "full", 314435584, 11685122, {"batch_size": 4, "seq_len": 128, "dtype": "float32"}),
    (
        MPNET,
        "full",
        749783040,
        45695618,
        {"batch_size": 4, "seq_len": 128, "dtype": "float32", "attn_implementation": "eager"},
    ),
    (
        MPNET,
        "lora",
        166675968,
        739586,
        {
            "batch_size": 4,
            "seq_len": 128,
            **HALF,
            "attn_implementation": "eager",
            "peft": {**LORA, "target_modules": ["q", "v"]},
        },
    ),
    (
        DEBERTA_OWN_KEYS,
        "full",
        2011799040,
        124571138,
        {"batch_size": 4, "seq_len": 128, "dtype": "float32", "attn_implementation": "eager"},
    ),
    (
        DEBERTA_CONV,
        "full",
        1977129472,
        122404610,
        {
            "batch_size": 4,
            "seq_len": 128,
            "dtype": "float32",
            "mixed_precision": "bf16",
            "attn_implementation": "eager",
        },
    ),
]
SMALL: dict[str, Any] = {"batch_size": 8, "seq_len": 128, "dtype": "float32", "optim": "adamw_torch"}
CELLS: list[tuple[str, Row]] = [
    ("sim-1a7b4da787", (BERT_BASE, "full", 2206734848, 109483778, SMALL)),
    ("sim-eb47e755c2", (BERT_BASE, "lora", 918625280, 296450, {**SMALL, "peft": {"r": 8, "lora_alpha": 32}})),
    ("sim-8ceba5ff53", (MODERNBERT, "full", 3009181184, 149606402, SMALL)),
    (
        "sim-952d493435",
        (
            MODERNBERT,
            "lora",
            1764548608,
            1703426,
            {**SMALL, "peft": {"r": 8, "lora_alpha": 32, "target_modules": "all-linear"}},
        ),
    ),
    (
        "sim-5ce1174ab9",
        (
            MODERNBERT,
            "full",
            4629623296,
            149606402,
            {"batch_size": 8, "seq_len": 512, "dtype": "float32", "mixed_precision": "fp16"},
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


@pytest.mark.parametrize(
    ("method", "peak", "trainable"),
    [("full", 4035106304, 184423682), ("lora", 2308610560, 296450)],
    ids=["sim-c8cd54f11c", "sim-9e1ec06cb7"],
)
def test_deberta_v3_cells(method: str, peak: int, trainable: int) -> None:
    """Within 0.4 %: the simulated run scatters gather's gradient out of place, CUDA does it in place."""
    peft = {"r": 8, "lora_alpha": 32} if method == "lora" else {}
    check((DEBERTA_V3, method, peak, trainable, {**SMALL, "attn_implementation": "eager", "peft": peft}), 4e-3)


def test_bert_total_from_sizes() -> None:
    """Three tables and a norm; per layer four h x h, two h x f, biases and two norms; pooler and head."""
    h, f = 768, 3072
    layer = 4 * (h * h + h) + (h * f + f) + (f * h + h) + 2 * 2 * h
    outside = (30522 + 512 + 2) * h + 2 * h + (h * h + h) + (2 * h + 2)
    assert build(BERT_BASE).total_parameters() == 12 * layer + outside == 109483778


def test_albert_counts_shared_layers_once() -> None:
    """Twelve applications, one set of weights."""
    more = build({**ALBERT, "num_hidden_layers": 12})
    assert more.total_parameters() == build(ALBERT).total_parameters() == 11685122
    assert more.num_layers == 12


def test_new_head_is_an_assumption() -> None:
    """A masked-language checkpoint gets a head; a classifier keeps its own labels and needs no word."""
    assert "new head" in build(BERT_BASE).assumptions[0]
    five = {str(i): str(i) for i in range(5)}
    own = build({**BERT_BASE, "architectures": ["BertForSequenceClassification"], "id2label": five})
    assert own.assumptions == ()
    assert own.total_parameters() == 109483778 + 3 * (768 + 1)


def test_bad_size_is_an_error() -> None:
    """Never a silent zero."""
    with pytest.raises(UnsupportedError, match="hidden_size"):
        build({**BERT_BASE, "hidden_size": "wide"})


@pytest.mark.parametrize("config", [BERT_BASE, DEBERTA_V3, MODERNBERT], ids=lambda c: str(c["model_type"]))
def test_repeated_layers(config: dict[str, Any], way: tuple[str, dict[str, Any]]) -> None:
    """Traced once, counted n times."""
    method, given = way
    check_repeat({**config, "num_hidden_layers": 10}, method, **given)
