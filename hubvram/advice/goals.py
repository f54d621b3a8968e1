"""The goals, and the ladder of set-ups that leads to each: the best first, then what to fall back on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hubvram.errors import SettingError

Policy = Literal["ladder", "smallest_card"]


@dataclass(frozen=True, slots=True)
class Rung:
    """A method with the settings that make it what it is. What the user has set himself stays as he set it."""

    title: str
    method: str
    why: str
    """What speaks for it, in one clause."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Settings`."""
    sharded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Strategy over several cards -> what changes then. Empty: one card only."""
    short: str = "LoRA"
    """The title where the user's own settings stand in the place of the rung's."""
    max_tokens: int | None = None
    """Samples are cut to this where the user names no length."""
    pure_half: bool = False
    """Weights are trained in 16 bits with nothing wider behind them: only bfloat16 has the range for it."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a user wants."""

    name: str
    title: str
    rungs: tuple[Rung, ...]
    policy: Policy = "ladder"
    """``ladder``: the first rung that can be reached, on the fewest cards and of those on the smallest.
    ``smallest_card``: the smallest single card that holds any rung, and there the first that it holds."""
    one_card: bool = False
    """Whether several cards are out of the question."""


_BF16: Mapping[str, Any] = {"dtype": "bfloat16"}
_ALL_LINEAR: Mapping[str, Any] = {"target_modules": "all-linear"}
_PLAIN: Mapping[str, Mapping[str, Any]] = {"fsdp": {}, "zero3": {}}

FULL_AMP = Rung(
    "full, FP32 weights",
    "full",
    "every weight is trained, with FP32 weights behind 16-bit arithmetic, so that no update is lost to rounding",
    {"dtype": "float32", "mixed_precision": "bf16"},
    # DeepSpeed trains 16-bit weights and keeps the FP32 ones beside them itself
    {"fsdp": {}, "zero3": {"dtype": "bfloat16", "mixed_precision": "no"}},
    short="full",
)
FULL_BF16 = Rung(
    "full, BF16 weights",
    "full",
    "every weight is trained, in BF16 throughout, which rounds small updates away",
    {"dtype": "bfloat16", "mixed_precision": "no"},
    {"fsdp": {}},
    pure_half=True,
    short="full",
)
FULL_8BIT = Rung(
    "full, BF16 weights, 8-bit AdamW",
    "full",
    "every weight is trained, in BF16 throughout, with the optimizer's states in 8 bits",
    {"dtype": "bfloat16", "mixed_precision": "no", "optim": "adamw_bnb_8bit"},
    pure_half=True,
    short="full",
)
LORA_WIDE = Rung(
    "LoRA, r 64 on every linear layer",
    "lora",
    "full fine-tuning is out of reach, and LoRA of high rank comes nearest to it",
    {**_BF16, "peft": {"r": 64, **_ALL_LINEAR}},
    _PLAIN,
)
QLORA_WIDE = Rung(
    "QLoRA, r 64 on every linear layer",
    "qlora",
    "the base can only be held in 4 bits, and high rank comes nearest to full fine-tuning",
    {**_BF16, "peft": {"r": 64, **_ALL_LINEAR}},
    {"fsdp": {}},
    short="QLoRA",
)
LORA = Rung(
    "LoRA on every linear layer",
    "lora",
    "LoRA on every linear layer comes close to full fine-tuning at a fraction of its memory",
    {**_BF16, "peft": _ALL_LINEAR},
    _PLAIN,
)
QLORA = Rung(
    "QLoRA on every linear layer",
    "qlora",
    "the base can only be held in 4 bits, at the price of slower steps",
    {**_BF16, "peft": _ALL_LINEAR},
    {"fsdp": {}},
    short="QLoRA",
)
LORA_SMALL = Rung(
    "LoRA",
    "lora",
    "LoRA trains a small part of the weights, and the base is held as it is",
    _BF16,
    _PLAIN,
)
QLORA_SMALL = Rung(
    "QLoRA",
    "qlora",
    "LoRA on a base in 4 bits takes the least memory of the common methods",
    {**_BF16, "optim": "paged_adamw_8bit"},
    {"fsdp": {"optim": "adamw_torch_fused"}},
    short="QLoRA",
)
_QUICK: Mapping[str, Any] = {**_BF16, "gradient_checkpointing": False}
LORA_QUICK = Rung(
    "LoRA, no checkpointing",
    "lora",
    "with LoRA on the base as it is and nothing recomputed, steps are as fast as one card makes them",
    _QUICK,
    max_tokens=512,
)
LORA_CHECKPOINTED = Rung(
    "LoRA, checkpointing",
    "lora",
    "LoRA on the base as it is has fast steps, though the layers must be recomputed to fit",
    _BF16,
    max_tokens=512,
)
QLORA_QUICK = Rung(
    "QLoRA, no checkpointing",
    "qlora",
    "the base fits on one card only in 4 bits, and there is room to recompute nothing",
    _QUICK,
    max_tokens=512,
    short="QLoRA",
)
QLORA_CHECKPOINTED = Rung(
    "QLoRA, checkpointing",
    "qlora",
    "the base fits on one card only in 4 bits, and the layers must be recomputed",
    _BF16,
    max_tokens=512,
    short="QLoRA",
)

GOALS: tuple[Goal, ...] = (
    Goal("best_quality", "best quality", (FULL_AMP, FULL_BF16, FULL_8BIT, LORA_WIDE, QLORA_WIDE)),
    Goal("balance", "balance", (LORA, QLORA)),
    Goal("smallest_card", "smallest card", (FULL_AMP, FULL_8BIT, LORA_SMALL, QLORA_SMALL), policy="smallest_card"),
    Goal(
        "fastest_to_try",
        "fastest to try",
        (LORA_QUICK, LORA_CHECKPOINTED, QLORA_QUICK, QLORA_CHECKPOINTED),
        one_card=True,
    ),
)
"""In the order of the table. To add a goal, add a record."""


def names() -> tuple[str, ...]:
    """The names of the goals, in the order of the table."""
    return tuple(goal.name for goal in GOALS)


def find(wanted: Sequence[str] | None) -> tuple[Goal, ...]:
    """The goals by name, in the order of the table; all where none is named.

    Raises:
        SettingError: no such goal; names the nearest.
    """
    if not wanted:
        return GOALS
    if isinstance(wanted, str):
        raise SettingError(f"goals is {wanted!r}: it must be a list of names.")
    plain = [name.lower().replace("-", "_").replace(" ", "_") for name in wanted]
    for given, name in zip(wanted, plain, strict=True):
        if name not in names():
            near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(names())}."
            raise SettingError(f"There is no goal {given!r}.", hint=hint)
    return tuple(goal for goal in GOALS if goal.name in plain)
