"""Anchors from runs on real cards (A100-80GB, TRL SFTTrainer, packed to 4096 tokens).

Source: foundation-model-stack/fms-acceleration benchmark results; bytes as its
Trainer's memory metrics report them. Not fitted: see docs/accuracy.md for all rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hubvram import estimator
from hubvram.accuracy.library import load
from hubvram.plan.settings import Settings

NEW = {"transformers": "4.48.1", "peft": "0.13.2", "torch": "2.4.1", "bitsandbytes": "0.43.3", "trl": "0.13.0"}
OLD = {"transformers": "4.44.2", "peft": "0.12.0", "torch": "2.4.1", "bitsandbytes": "0.43.3", "trl": "0.10.1"}
OLDEST = {"transformers": "4.39.3", "peft": "0.11.1", "torch": "2.2.2", "bitsandbytes": "0.43.1", "trl": "0.9.6"}
RUN: dict[str, Any] = {
    "seq_len": 4096,
    "dtype": "bfloat16",
    "mixed_precision": "bf16",
    "optim": "adamw_torch",
    "attn_implementation": "flash_attention_2",
}
LORA = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
NF4 = {"load_in_4bit": True, "prepare_model_for_kbit_training": False}
KBIT = {"load_in_4bit": True, "prepare_model_for_kbit_training": True}


def peak(root: Path, method: str, **given: Any) -> int:
    """peak_allocated_bytes of Mistral-7B."""
    settings = Settings.from_kwargs(**{**RUN, **given})
    _, [e] = estimator.estimate(load(root, "mistralai/Mistral-7B-v0.1"), settings, [method])
    assert e.peak_allocated_bytes is not None
    return e.peak_allocated_bytes


@pytest.mark.parametrize(
    ("measured", "method", "given"),
    [
        (72_434_837_504, "full", {"batch_size": 4, "mixed_precision": "no", "stack": NEW}),
        (72_434_853_376, "full", {"batch_size": 4, "stack": OLD}),
        (72_435_246_592, "full", {"batch_size": 8, "stack": OLD}),
        (72_972_297_728, "full", {"batch_size": 4, "dtype": "float16", "mixed_precision": "no", "stack": OLDEST}),
        (25_681_144_320, "lora", {"batch_size": 4, "peft": LORA, "stack": OLD}),
        (20_669_338_112, "qlora", {"batch_size": 4, "peft": LORA, "quantization": KBIT, "stack": NEW}),
        (16_373_838_336, "qlora", {"batch_size": 4, "peft": LORA, "quantization": NF4, "stack": NEW}),
        (36_225_939_968, "full", {
            "batch_size": 2, "mixed_precision": "no", "num_gpus": 2, "strategy": "fsdp", "stack": NEW,
        }),
    ],
)  # fmt: skip
def test_peaks_on_real_cards(fixtures_dir: Path, measured: int, method: str, given: dict[str, Any]) -> None:
    assert peak(fixtures_dir, method, **given) == pytest.approx(measured, rel=3e-4)


@pytest.mark.parametrize(
    ("per_token", "stack", "quantization"),
    [
        # 32 checkpoints x 4096 x 2 + 14 x 32,000 logits + 3 x 4096 x 2 + 42 of ids and labels
        (734_762, NEW, NF4),
        # 12 bytes per logit: the 16-bit logits are gone before the loss
        (670_760, OLD, NF4),
        # the checkpointed stream is fp32 after prepare_model_for_kbit_training
        (996_906, NEW, KBIT),
    ],
)
def test_slopes_per_token(
    fixtures_dir: Path, per_token: int, stack: dict[str, str], quantization: dict[str, Any]
) -> None:
    def at(batch: int) -> int:
        return peak(fixtures_dir, "qlora", batch_size=batch, peft=LORA, quantization=quantization, stack=stack)

    assert (at(8) - at(4)) / (4 * 4096) == pytest.approx(per_token, rel=2e-4)


def test_full_fine_tuning_in_bf16_is_ten_bytes_a_parameter(fixtures_dir: Path) -> None:
    """Weights 2, gradients 2, states 4, a foreach temporary 2: the optimizer step is the peak."""
    parameters = 7_241_732_096
    assert peak(fixtures_dir, "full", batch_size=4, stack=NEW) == pytest.approx(10 * parameters, rel=5e-4)


def test_fsdp_holds_a_share_of_everything(fixtures_dir: Path) -> None:
    """bf16 flag on: fp32 shards, 16 bytes settled and 20 at the peak per local parameter."""
    local = 7_241_732_096 / 4
    given = {"batch_size": 4, "num_gpus": 4, "strategy": "fsdp", "stack": NEW}
    assert peak(fixtures_dir, "full", **given) == pytest.approx(20 * local, rel=1e-3)
