"""Shares of several GPUs, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hubvram import estimator
from hubvram.accuracy.library import load
from hubvram.errors import SettingError
from hubvram.plan.settings import Settings
from hubvram.plan.sharding import NCCL_BYTES, Sharding
from hubvram.report.record import Estimate

N = 134_515_008  # parameters of SmolLM2-135M


def one(root: Path, method: str = "full", **given: Any) -> Estimate:
    """An estimate of SmolLM2-135M in bf16."""
    settings = Settings.from_kwargs(**{"seq_len": 64, "dtype": "bfloat16", "optim": "adamw_torch", **given})
    _, [e] = estimator.estimate(load(root, "HuggingFaceTB/SmolLM2-135M"), settings, [method])
    return e


@pytest.mark.parametrize(
    ("strategy", "weights", "optimizer"),
    [
        ("ddp", 2 * N, 4 * N),
        ("zero1", 2 * N, 12 * N / 4),  # fp32 master, two fp32 states, a quarter of each
        ("zero2", 2 * N, 12 * N / 4),
        ("zero3", 2 * N / 4, 12 * N / 4),
        ("fsdp", 2 * N / 4, 4 * N / 4),
    ],
)
def test_what_is_settled_between_steps(fixtures_dir: Path, strategy: str, weights: float, optimizer: float) -> None:
    e = one(fixtures_dir, num_gpus=4, strategy=strategy)
    assert e.loaded_bytes == pytest.approx(weights, rel=0.01)
    assert e.breakdown is not None
    assert e.breakdown.optimizer_bytes == pytest.approx(optimizer, rel=0.01)


def test_mixed_precision_makes_fsdp_shards_fp32(fixtures_dir: Path) -> None:
    e = one(fixtures_dir, num_gpus=2, strategy="fsdp", mixed_precision="bf16")
    assert e.loaded_bytes == pytest.approx(4 * N / 2, rel=0.01)
    assert e.breakdown is not None
    assert e.breakdown.optimizer_bytes == pytest.approx(8 * N / 2, rel=0.01)


def test_nccl_is_in_the_total_of_several_gpus(fixtures_dir: Path) -> None:
    alone = one(fixtures_dir)
    two = one(fixtures_dir, num_gpus=2)
    assert alone.total_bytes is not None
    assert alone.peak_reserved_bytes is not None
    assert two.total_bytes is not None
    assert two.peak_reserved_bytes is not None
    extra = (two.total_bytes - two.peak_reserved_bytes) - (alone.total_bytes - alone.peak_reserved_bytes)
    assert extra == NCCL_BYTES


@pytest.mark.parametrize(
    ("text", "meant"),
    [("single", "single"), ("DeepSpeed ZeRO-2", "zero2"), ("zero_3", "zero3"), ("FSDP full shard", "fsdp")],
)
def test_strategies_may_be_spelt_out(text: str, meant: str) -> None:
    assert Sharding.of(Settings.from_kwargs(strategy=text, num_gpus=1 if meant == "single" else 2)).strategy == meant


def test_deepspeed_on_one_gpu_still_has_master_weights(fixtures_dir: Path) -> None:
    e = one(fixtures_dir, strategy="zero2")
    assert e.breakdown is not None
    assert e.breakdown.optimizer_bytes == pytest.approx(12 * N, rel=0.01)


def test_offloading_leaves_states_and_then_shards_on_the_host(fixtures_dir: Path) -> None:
    states = one(fixtures_dir, num_gpus=4, strategy="zero3", offload="optimizer")
    assert states.breakdown is not None
    assert states.breakdown.optimizer_bytes == 0
    params = one(fixtures_dir, num_gpus=4, strategy="zero3", offload="params")
    assert params.loaded_bytes is not None
    assert states.loaded_bytes is not None
    assert params.loaded_bytes < 0.01 * states.loaded_bytes


@pytest.mark.parametrize(("strategy", "offload"), [("ddp", "optimizer"), ("zero2", "params")])
def test_offload_needs_a_strategy_that_has_it(fixtures_dir: Path, strategy: str, offload: str) -> None:
    with pytest.raises(SettingError, match="offload"):
        one(fixtures_dir, num_gpus=2, strategy=strategy, offload=offload)


def test_fsdp_computes_in_half_without_a_copy_of_the_whole_model(fixtures_dir: Path) -> None:
    fp32 = one(fixtures_dir, num_gpus=8, strategy="fsdp", dtype="float32", mixed_precision="bf16")
    half = one(fixtures_dir, num_gpus=8, strategy="fsdp", dtype="bfloat16", mixed_precision="bf16")
    assert fp32.peak_allocated_bytes == half.peak_allocated_bytes
