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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A ``named_row`` is each of the module's ``NAMED_ROWS``, a ``size`` each of its ``TOTALS``."""
    if "named_row" in metafunc.fixturenames:
        rows = metafunc.module.NAMED_ROWS
        metafunc.parametrize("named_row", rows, ids=[name for name, *_ in rows])
    if "size" in metafunc.fixturenames:
        totals = metafunc.module.TOTALS
        metafunc.parametrize("size", totals, ids=[config["model_type"] for config, _ in totals])


@pytest.fixture
def check_cell() -> Callable[..., None]:
    """A model of real size: within 0.1 % of the simulated step; what is trained is exact."""

    def check_row(
        name: str, config: dict[str, Any], method: str, peak: int, trainable: int, given: dict[str, Any]
    ) -> None:
        check((config, method, peak, trainable, {"dtype": "bfloat16", **given}), tolerance=1e-3)

    return check_row


@pytest.fixture
def check_small() -> Callable[..., None]:
    """A small model, full and by LoRA: the peaks within 0.05 % of the simulated steps, what is trained exact."""

    def check_both(
        name: str, attention: str, config: dict[str, Any], full: int, parameters: int, lora: int, trainable: int
    ) -> None:
        given = {"dtype": "bfloat16", "attn_implementation": attention, "batch_size": 2, "seq_len": 512}
        check((config, "full", full, parameters, given), tolerance=5e-4)
        peft = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
        check(
            (config, "lora", lora, trainable, {**given, "gradient_checkpointing": True, "peft": peft}), tolerance=5e-4
        )

    return check_both
