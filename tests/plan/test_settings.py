"""Settings are checked when they are made."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubvram.errors import SettingError
from hubvram.plan.settings import Settings
from hubvram.plan.stacks import Stack


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0), ("batch_size", -1), ("batch_size", 1.5), ("batch_size", True), ("seq_len", 0),
        ("source_len", 0), ("gradient_accumulation_steps", 0), ("num_gpus", 0), ("dtype", "int8"),
        ("mixed_precision", "bfloat16"), ("attn_implementation", "flash"), ("strategy", "zero4"),
        ("offload", "disk"), ("max_grad_norm", -1.0), ("max_grad_norm", float("nan")), ("image_tokens", -1),
        ("quantization", {"load_in_3bit": True}), ("stack", {"transfomers": "4.48"}), ("peft", ["r"]),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_kwargs(**{field: value})
    key = next(iter(value)) if isinstance(value, dict) else field
    assert key in str(caught.value)


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(SettingError) as caught:
        Settings.from_kwargs(batchsize=2)
    assert caught.value.hint == "Did you mean batch_size?"


def test_none_means_not_given_and_single_is_one_gpu() -> None:
    assert Settings.from_kwargs(batch_size=None, strategy="single") == Settings()


@given(st.integers(1, 4096), st.integers(1, 1 << 20), st.booleans())
def test_equal_settings_have_equal_keys(batch: int, tokens: int, padding: bool) -> None:
    one = Settings(batch_size=batch, seq_len=tokens, padding=padding, peft={"r": 8, "lora_alpha": 16})
    two = Settings(batch_size=batch, seq_len=tokens, padding=padding, peft={"lora_alpha": 16, "r": 8})
    assert one.key() == two.key()
    assert one.with_(batch_size=batch + 1).key() != one.key()


@pytest.mark.parametrize("text", ["four", "", "v4"])
def test_versions_must_be_numbers(text: str) -> None:
    with pytest.raises(SettingError, match="transformers"):
        Stack.parse({"transformers": text})


def test_version_suffixes_are_dropped() -> None:
    stack = Stack.parse({"torch": "2.13.0+cpu", "peft": "0.19.2.dev0"})
    assert stack.torch == (2, 13, 0)
    assert stack.peft == (0, 19, 2)
    assert stack.trl is None
