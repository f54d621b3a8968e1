"""Which versions of transformers, peft, torch and bitsandbytes an estimate assumes, and what differs between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubvram.errors import SettingError

NEWEST: Mapping[str, str] = {
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "torch": "2.13.0",
    "bitsandbytes": "0.50.2",
}
"""The versions whose code the rules were read from."""

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """Parsed versions."""

    transformers: Version
    peft: Version
    torch: Version
    bitsandbytes: Version
    trl: Version | None = None
    """None: TRL is not in use."""

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Stack:
        """Given versions over the newest known.

        Raises:
            SettingError: something that is not a version number.
        """
        merged = {**NEWEST, **{k: v for k, v in given.items() if k in NEWEST}}
        parsed = {k: version(k, v) for k, v in merged.items()}
        return cls(**parsed, trl=version("trl", given["trl"]) if "trl" in given else None)


def applied(given: Mapping[str, str]) -> dict[str, str]:
    """The versions assumed, for the report."""
    return {**NEWEST, **given}


def version(name: str, text: str) -> Version:
    """``"4.48.1"`` -> (4, 48, 1); suffixes (``.dev0``, ``+cpu``) are dropped."""
    numbers = re.match(r"\d+(\.\d+)*", str(text))
    if not numbers:
        raise SettingError(f"stack: {name}={text!r} is not a version number.")
    return tuple(int(p) for p in numbers.group().split("."))


@dataclass(frozen=True, slots=True)
class Difference:
    """A release after which memory differs."""

    package: str
    since: str
    what: str
    source: str


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "transformers",
        "5.0",
        "the experts of a mixture are stacked parameters run by one grouped product, not "
        "linear layers: bitsandbytes leaves them whole, PEFT folds LoRA into a copy of them at every call",
        "transformers integrations/moe.py; peft tuners/lora/layer.py ParamWrapper",
    ),
    Difference(
        "transformers",
        "4.46",
        "the loss function upcasts the logits while the model still holds "
        "the 16-bit ones: 14 bytes per logit instead of 12",
        "transformers loss/loss_utils.py 4.46",
    ),
    Difference(
        "transformers",
        "4.50",
        "the loss shifts labels instead of copying shifted logits: 12 bytes per logit",
        "transformers loss/loss_utils.py 4.50",
    ),
    Difference(
        "transformers",
        "4.48",
        "sdpa gets grouped keys and values instead of repeated ones (torch >= 2.5)",
        "transformers integrations/sdpa_attention.py",
    ),
    Difference(
        "transformers",
        "4.40",
        "rotary cos and sin are made per batch; before, every layer of "
        "Llama and Mistral held tables of max_position_embeddings rows",
        "transformers models/mistral/modeling_mistral.py 4.39",
    ),
    Difference(
        "trl",
        "0.7",
        "SFTTrainer on a prepared 4-bit base with bf16=True casts embeddings and head "
        "back to bf16; norms and adapters stay fp32 (peft_module_casting_to_bf16)",
        "trl trainer/utils.py 0.9 to 0.13",
    ),
    Difference(
        "liger-kernel",
        "0.3",
        "use_liger_kernel alone means the fused loss, RMSNorm and rotary kernels, "
        "which every build of fused kernels has; a stack that names liger-kernel also has its SwiGLU, which "
        "keeps a third less",
        "liger-kernel ops/swiglu.py 0.8; measured runs of other fused-kernel builds keep the plain MLP",
    ),
    Difference(
        "torch",
        "2.0",
        "zero_grad lets go of gradients; before, it filled them with zeros, and they were alive "
        "through the next forward pass",
        "torch nn/modules/module.py and optim/optimizer.py 1.13 and 2.0",
    ),
    Difference(
        "torch",
        "2.14",
        "the memory-efficient attention kernel takes grouped keys and values",
        "torch aten/src/ATen/native/transformers/cuda/sdp_utils.cpp",
    ),
    Difference(
        "bitsandbytes",
        "0.50",
        "a fused 4-bit product for small batches: no dequantised weight in the forward",
        "bitsandbytes backends/cuda/ops.py",
    ),
)


def catalogue() -> list[dict[str, Any]]:
    """For ``hubvram stacks``: plain values."""
    return [
        {
            "package": d.package,
            "since": d.since,
            "newest": NEWEST.get(d.package, "not assumed"),
            "what": d.what,
            "source": d.source,
        }
        for d in DIFFERENCES
    ]
