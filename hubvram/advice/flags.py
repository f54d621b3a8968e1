"""Settings as the flags of a command line."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any

from hubvram.plan.settings import Settings

_PEFT = ("r", "lora_alpha", "lora_dropout", "target_modules", "num_virtual_tokens")
_QUANTIZATION = {
    "bnb_4bit_quant_type": "bnb-4bit-quant-type",
    "bnb_4bit_use_double_quant": "bnb-4bit-use-double-quant",
    "bnb_4bit_compute_dtype": "bnb-4bit-compute-dtype",
    "prepare_model_for_kbit_training": "prepare-kbit",
}


def command_line(repo_id: str, method: str, settings: Settings, gpu: str | None = None) -> str | None:
    """The command line that estimates just this; None where the settings hold what no flag says."""
    words = flags(settings)
    if words is None:
        return None
    card = ["--gpu", gpu] if gpu else []
    return shlex.join(["hubvram", repo_id, "-m", method, *words, *card])


def flags(settings: Settings) -> list[str] | None:
    """The flags of what differs from the defaults; None where there is none for something that does."""
    words: list[str] = []
    plain = Settings()
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if field.name == "peft":
            found = [_flag(key, value[key]) if key in _PEFT else None for key in value]
        elif field.name == "quantization":
            found = [_flag(_QUANTIZATION[key], value[key]) if key in _QUANTIZATION else None for key in value]
        elif field.name == "stack":
            found = [["--stack", ",".join(f"{k}={v}" for k, v in value.items())]] if value else []
        else:
            found = [_flag(field.name, value)] if value != getattr(plain, field.name) else []
        for flag in found:
            if flag is None:
                return None
            words += flag
    return words


def _flag(name: str, value: Any) -> list[str]:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, (list, tuple)):
        return [f"--{name}", ",".join(str(item) for item in value)]
    return [f"--{name}", str(value)]
