"""Optimizers of packages of their own: GrokAdamW, StableAdamW, AnyPrecision AdamW, LoRA-FA.

Sources: grokadamw 0.1.2, torch-optimi 0.3.3 ``stableadamw.py``, torchdistx ``anyprecision_optimizer.py``,
peft 0.21 ``optimizers/lorafa.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.plan.optimizers.base import Optimizer, Scratch, Trained, no_states, sequence
from hubvram.timeline.dtypes import BF16, F32
from hubvram.timeline.tracer import Storage


def grokadamw(m: Scratch, params: Sequence[Trained]) -> None:
    """States come from the host for one parameter at a time and go back."""
    first: Storage | None = None
    second: Storage | None = None
    slow: Storage | None = None
    grad: Storage | None = None
    for p in sequence(params):
        first = m.like(p, "first moment")
        second = m.like(p, "second moment")
        slow = m.like(p, "slow gradient")
        scaled = m.like(p, "scaled slow gradient")
        grad = m.like(p, "amplified gradient")
        del scaled
        root = m.like(p, "square root")
        del root
    del first, second, slow, grad


def stable_states(p: Trained) -> Sequence[int]:
    """Two moments and, for 16-bit parameters, the Kahan compensation; small constants."""
    one = p.n * p.dtype.size
    compensation = one if p.dtype.size == 2 else 1
    return (one, one, compensation, p.dtype.size, 4)


def any_precision_states(p: Trained) -> Sequence[int]:
    """Two fp32 moments (momentum_dtype and variance_dtype, as Trainer passes them)."""
    return (p.n * 4, p.n * 4)


def any_precision(m: Scratch, params: Sequence[Trained]) -> None:
    """The centred variance of one parameter."""
    centred: Storage | None = None
    for p in sequence(params):
        root = m.like(p, "square root of the variance", F32)
        centred = m.like(p, "centred variance", F32)
        del root
    del centred


def lora_fa_states(p: Trained) -> Sequence[int]:
    """Two states in the parameter's dtype, for B only: A is frozen."""
    return (p.n * p.dtype.size, p.n * p.dtype.size)


def lora_fa(m: Scratch, params: Sequence[Trained]) -> None:
    """The gradient of B times the inverse of A A^T, under bf16 autocast."""
    grad: Storage | None = None
    denom: Storage | None = None
    for p in sequence(params):
        low = m.like(p, "bf16 gradient", BF16) if p.dtype is not BF16 else None
        product = m.like(p, "preconditioned gradient", BF16)
        del low
        grad = m.like(p, "scaled gradient", BF16)
        del product
        if p.dtype is not BF16:
            grad = m.like(p, "gradient in its own dtype")
        denom = m.like(p, "denominator")
    del grad, denom


def freezes_lora_a(name: str) -> bool:
    """``create_lorafa_optimizer`` sets requires_grad False on every lora_A."""
    return name.endswith("lora_A")


OPTIMIZERS = (
    Optimizer(
        "grokadamw",
        no_states,
        "0 on the GPU (3 states in host memory); at the step 5 to 6 times the largest parameter",
        "grokadamw 0.1.2 grokadamw.py",
        step=grokadamw,
        notes="states are moved to the GPU for one parameter at a time",
    ),
    Optimizer(
        "stable_adamw",
        stable_states,
        "2 states in the parameter's dtype, 3 for 16-bit parameters (Kahan compensation); no temporaries (Triton)",
        "torch-optimi 0.3.3 stableadamw.py",
    ),
    Optimizer(
        "adamw_anyprecision",
        any_precision_states,
        "2 states of 4 bytes (use_kahan_summation off); at the step 8 bytes per element of the largest parameter",
        "torchdistx optimizers/anyprecision_optimizer.py with transformers 5.23's arguments",
        step=any_precision,
    ),
    Optimizer(
        "lora_fa",
        lora_fa_states,
        "B matrices: 2 states in their dtype; A matrices are frozen",
        "peft 0.21 optimizers/lorafa.py create_lorafa_optimizer",
        aliases=("lorafa",),
        step=lora_fa,
        freezes=freezes_lora_a,
    ),
)
