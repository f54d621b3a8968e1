"""The settings of an estimate, under the names that `TrainingArguments`, PEFT and bitsandbytes use.

One frozen record, checked when it is made: parse, don't validate. The command
line, the Python API and the cache key all go through it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hubvram.errors import SettingError

DTYPES = ("auto", "float32", "bfloat16", "float16")
MIXED_PRECISION = ("no", "bf16", "fp16", "fp8")
ATTN_IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2")
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")
OFFLOADS = ("none", "optimizer", "params")
DEFAULT_SEQ_LEN = 2048

QUANTIZATION_DEFAULTS: Mapping[str, Any] = {
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "prepare_model_for_kbit_training": True,
}
"""What `qlora` and `lora_int8` take when nothing is said (the interface's defaults)."""

QUANTIZATION_KEYS = (
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_compute_dtype",
    "prepare_model_for_kbit_training",
    "quant_method",
    "bits",
    "group_size",
    "num_codebooks",
    "nbits_per_codebook",
    "in_group_size",
    "out_group_size",
    "weight_block_size",
    "dequantize",
)
STACK_KEYS = (
    "transformers",
    "peft",
    "torch",
    "bitsandbytes",
    "accelerate",
    "trl",
    "flash-attn",
    "liger-kernel",
    "cuda",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of an estimate. Every field is in the JSON's ``settings`` as applied.

    Raises:
        SettingError: on a value outside its domain; the message names the
            setting, the value and what is allowed.
    """

    batch_size: int = 1
    """Samples per device and step (`per_device_train_batch_size`)."""
    seq_len: int | None = None
    """Tokens per sample; None = 2048, cut to the model's maximum."""
    source_len: int | None = None
    """Encoder tokens of an encoder-decoder; None = as seq_len."""
    dtype: str = "auto"
    mixed_precision: str = "no"
    optim: str = "adamw_torch_fused"
    gradient_checkpointing: bool = True
    attn_implementation: str = "sdpa"
    padding: bool = False
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    use_liger_kernel: bool = False
    peft: Mapping[str, Any] = field(default_factory=dict)
    """PEFT config keys of the method asked for."""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    stack: Mapping[str, str] = field(default_factory=dict)
    num_gpus: int = 1
    strategy: str = "ddp"
    offload: str = "none"
    keep_outputs: bool | None = None
    """Whether the loop holds the model's outputs (logits) during backward, as a hand-written
    ``out = model(**batch); out.loss.backward()`` does and Trainer does not. None: held where gradients
    are not clipped (max_grad_norm 0, which Trainer never has unless told), dropped otherwise."""
    image_tokens: int | None = None
    """Image tokens per sample for vision-language models; None = the model's own."""

    def __post_init__(self) -> None:
        """Check every field."""
        _positive("batch_size", self.batch_size)
        if self.seq_len is not None:
            _positive("seq_len", self.seq_len)
        if self.source_len is not None:
            _positive("source_len", self.source_len)
        if self.image_tokens is not None and self.image_tokens < 0:
            raise SettingError(f"image_tokens is {self.image_tokens}: it must be 0 or more.")
        _positive("gradient_accumulation_steps", self.gradient_accumulation_steps)
        _positive("num_gpus", self.num_gpus)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("mixed_precision", self.mixed_precision, MIXED_PRECISION)
        _one_of("attn_implementation", self.attn_implementation, ATTN_IMPLEMENTATIONS)
        _one_of("strategy", self.strategy, STRATEGIES)
        _one_of("offload", self.offload, OFFLOADS)
        if self.max_grad_norm < 0 or self.max_grad_norm != self.max_grad_norm:
            raise SettingError(f"max_grad_norm is {self.max_grad_norm}: it must be 0 (off) or more.")
        _known_keys("quantization", self.quantization, QUANTIZATION_KEYS)
        _known_keys("stack", self.stack, STACK_KEYS)

    def with_(self, **changes: Any) -> Settings:
        """A copy with some fields changed (checked again)."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values, in a fixed order."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        for key in ("peft", "quantization", "stack"):
            data[key] = dict(sorted(data[key].items()))
        return data

    def key(self) -> str:
        """Canonical JSON text: equal settings give equal keys (used by the cache)."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> Settings:
        """Settings from keyword arguments; an unknown one is an error that names the nearest.

        Values of None mean "not given". A strategy may be spelt out (``DeepSpeed ZeRO-2``, ``single``).
        """
        names = [f.name for f in fields(cls)]
        _known_keys("settings", kwargs, names)
        given = {k: v for k, v in kwargs.items() if v is not None}
        if isinstance(given.get("strategy"), str):
            given["strategy"] = _strategy(given["strategy"])
        for key in ("peft", "quantization", "stack"):
            if key in given and not isinstance(given[key], Mapping):
                raise SettingError(f"{key} must be a mapping of names to values, not {type(given[key]).__name__}.")
        return cls(**given)


def _strategy(text: str) -> str:
    """A strategy by the name it contains: ``DeepSpeed ZeRO-2`` is zero2, ``single`` is ddp on one GPU."""
    if text == "single":
        return "ddp"
    named = re.search(r"zero[123]|fsdp|ddp", text.lower().replace("-", "").replace("_", ""))
    return named.group() if named else text


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingError(f"{name} is {value!r}: it must be a whole number of at least 1.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingError(f"{name} is {value!r}: it must be one of {', '.join(allowed)}.")


def _known_keys(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
            raise SettingError(f"{what} has no key {key!r}.", hint=hint)
