"""How a test holds an estimate against a simulated step of the real code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from small_models import SIMULATED, estimate

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header


@pytest.fixture
def total_parameters() -> Callable[[dict[str, Any]], int]:
    """Parameters of the model a config describes, as ``model.parameters()`` counts them."""

    def total(config: dict[str, Any]) -> int:
        family = families.find(config["model_type"])
        assert family is not None
        return family.build(Config(config), Header(())).total_parameters()

    return total


@pytest.fixture
def check_cell() -> Callable[..., None]:
    """A model of real size, bf16, batch 1: the peak within 0.1 % of the simulated step, what is trained exact."""

    def check(config: dict[str, Any], method: str, peak: int, trainable: int, given: dict[str, Any]) -> None:
        settings: dict[str, Any] = {
            "dtype": "bfloat16",
            "mixed_precision": "no",
            "attn_implementation": "sdpa",
            "gradient_checkpointing": False,
            "batch_size": 1,
        }
        e = estimate(config, method, max_grad_norm=1.0, stack=SIMULATED, **{**settings, **given})
        assert e.trainable_parameters == trainable
        assert e.peak_allocated_bytes == pytest.approx(peak, rel=1e-3)

    return check


@pytest.fixture
def check_small() -> Callable[..., None]:
    """A small model, full and by LoRA: the peaks within 0.05 % of the simulated steps, what is trained exact."""

    def check(attention: str, config: dict[str, Any], full: int, parameters: int, lora: int, trainable: int) -> None:
        settings: dict[str, Any] = {
            "dtype": "bfloat16",
            "mixed_precision": "no",
            "attn_implementation": attention,
            "batch_size": 2,
            "seq_len": 512,
            "optim": "adamw_torch_fused",
            "max_grad_norm": 1.0,
            "stack": SIMULATED,
        }
        e = estimate(config, "full", gradient_checkpointing=False, **settings)
        assert e.trainable_parameters == parameters
        assert e.peak_allocated_bytes == pytest.approx(full, rel=5e-4)
        peft = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
        e = estimate(config, "lora", gradient_checkpointing=True, peft=peft, **settings)
        assert e.trainable_parameters == trainable
        assert e.peak_allocated_bytes == pytest.approx(lora, rel=5e-4)

    return check
