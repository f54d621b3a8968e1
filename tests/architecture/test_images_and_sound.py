"""Image encoders, contrastive pairs, CTC. Expected figures as in ``test_encoders``."""

from __future__ import annotations

from typing import Any

import pytest
from simulated_rows import Row, build, check, check_repeat

from hubvram.errors import UnsupportedError

THOUSAND = {str(i): f"LABEL_{i}" for i in range(1000)}
VIT_BASE: dict[str, Any] = {"model_type": "vit", "id2label": THOUSAND}
VIT: dict[str, Any] = {**VIT_BASE, "num_hidden_layers": 3}
DEIT: dict[str, Any] = {"model_type": "deit", "id2label": THOUSAND, "num_hidden_layers": 3}
DINOV2: dict[str, Any] = {"model_type": "dinov2", "image_size": 518, "patch_size": 14, "num_hidden_layers": 3}
DINOV2_GATED: dict[str, Any] = {**DINOV2, "use_swiglu_ffn": True}
CLIP: dict[str, Any] = {"model_type": "clip", "text_config": {"num_hidden_layers": 3}, "vision_config": {}}
SIGLIP: dict[str, Any] = {
    "model_type": "siglip",
    "text_config": {"max_position_embeddings": 77, "num_hidden_layers": 3},
    "vision_config": {},
}
WAV2VEC2: dict[str, Any] = {
    "model_type": "wav2vec2",
    "num_hidden_layers": 3,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}
WAV2VEC2_STABLE: dict[str, Any] = {
    **WAV2VEC2,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": True,
}
QV = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]}
FOUR: dict[str, Any] = {"batch_size": 4, "seq_len": 128, "dtype": "float32"}
TWO: dict[str, Any] = {"batch_size": 2, "seq_len": 256, "dtype": "float32"}
ROWS: list[Row] = [
    (VIT, "full", 433796608, 22776808, FOUR),
    (VIT, "full", 406576640, 22776808, {**FOUR, "mixed_precision": "bf16", "gradient_checkpointing": True}),
    (DEIT, "full", 434466816, 22778344, FOUR),
    (DINOV2, "full", 803477504, 22778882, TWO),
    (DINOV2_GATED, "full", 697915392, 22781954, {**TWO, "mixed_precision": "bf16"}),
    (CLIP, "full", 1990797312, 122905857, {**FOUR, "mixed_precision": "bf16", "gradient_checkpointing": True}),
    (SIGLIP, "full", 2381468672, 139375106, {**FOUR, "mixed_precision": "bf16"}),
    (WAV2VEC2, "full", 848982528, 30605472, TWO),
    (WAV2VEC2, "full", 776413184, 30605472, {**TWO, "mixed_precision": "bf16", "gradient_checkpointing": True}),
    (WAV2VEC2_STABLE, "full", 1257350144, 50950816, TWO),
    (CLIP, "full", 1986693120, 122905857, FOUR),
    (CLIP, "lora", 666579456, 688128, {**FOUR, "optim": "adamw_torch", "peft": QV}),
]


@pytest.mark.parametrize("row", ROWS, ids=[f"{r[0]['model_type']}-{r[1]}-{i}" for i, r in enumerate(ROWS)])
def test_small_models(row: Row) -> None:
    """Within 0.02 %; CLIP and SigLIP with all layers of their image encoders."""
    check(row)


def test_vit_cell() -> None:
    """sim-35bdd3dbd0: LoRA on q and v."""
    check((VIT_BASE, "lora", 713610752, 589824, {**FOUR, "seq_len": 448, "optim": "adamw_torch", "peft": QV}))


def test_vit_total_from_sizes() -> None:
    """Patches, a class token, positions, twelve layers, a norm and a head."""
    h, f = 768, 3072
    layer = 4 * (h * h + h) + (h * f + f) + (f * h + h) + 4 * h
    outside = (3 * 16 * 16 * h + h) + h + 197 * h + 2 * h + 1000 * (h + 1)
    assert build(VIT_BASE).total_parameters() == 12 * layer + outside == 86567656


def test_vit_paths_before_transformers_5() -> None:
    """PEFT configs of older stacks name ``query`` and ``value``."""
    arch = build(VIT_BASE)
    assert arch.legacy is not None
    old = {m.path for m in arch.legacy().stacks["layers"].blocks[0].modules.values()}
    assert "attention.attention.query" in old
    assert arch.legacy().total_parameters() == arch.total_parameters()


def test_sizes_that_are_none() -> None:
    """An image size that is neither a number nor a pair is named."""
    with pytest.raises(UnsupportedError, match="image_size"):
        build({**VIT_BASE, "image_size": "large"})
    with pytest.raises(UnsupportedError, match="conv_kernel"):
        build({**WAV2VEC2, "conv_kernel": "ten"})


def test_clip_text_is_cut_to_its_positions() -> None:
    """More tokens than positions make no difference."""
    row = CLIP, "full", 1986693120, 122905857, {**FOUR, "seq_len": 640}
    check(row)


@pytest.mark.parametrize(
    "config", [VIT_BASE, CLIP, {**WAV2VEC2, "num_hidden_layers": 10}], ids=lambda c: str(c["model_type"])
)
def test_repeated_layers(config: dict[str, Any], way: tuple[str, dict[str, Any]]) -> None:
    """Traced once, counted n times."""
    method, given = way
    check_repeat(config, method, **given)
