"""What tests of several families share: the ways to run layers traced once, small models against simulated steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from simulated_rows import check


@pytest.fixture(
    params=[
        ("full", {}),
        ("full", {"mixed_precision": "bf16"}),
        ("full", {"gradient_checkpointing": True}),
        ("lora", {"peft": {"r": 8, "target_modules": "all-linear"}}),
    ],
    ids=["full", "autocast", "checkpointing", "lora"],
)
def way(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Ways to run a model whose layers are traced once: the method and settings."""
    method, given = request.param
    return method, given


@pytest.fixture
def check_small() -> Callable[..., None]:
    """A small model, full and by LoRA: the peaks within 0.05 % of the simulated steps, what is trained exact."""

    def check_both(
        attention: str, config: dict[str, Any], full: int, parameters: int, lora: int, trainable: int
    ) -> None:
        given = {"dtype": "bfloat16", "attn_implementation": attention, "batch_size": 2, "seq_len": 512}
        check((config, "full", full, parameters, given), tolerance=5e-4)
        peft = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
        check(
            (config, "lora", lora, trainable, {**given, "gradient_checkpointing": True, "peft": peft}), tolerance=5e-4
        )

    return check_both
