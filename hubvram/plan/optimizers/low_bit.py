"""torchao's 8-bit and 4-bit AdamW.

Blocks of 256 (Trainer passes ``block_size``); parameters of fewer than 4096 elements, or whose size is
no multiple of the block, keep states in their own dtype. One code table per state and parameter.

Source: torchao 0.18 ``optim/adam.py``, ``optim/subclass_8bit.py``, ``optim/subclass_4bit.py``. The update of one
parameter is a compiled kernel that computes in fp32: the two fp32 moments are taken to be its buffers.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.plan.optimizers.base import Optimizer, Scratch, States, Trained, sequence
from hubvram.timeline.dtypes import F32

BLOCK = 256
SMALLEST = 4096


def quantised(p: Trained) -> bool:
    """Whether the parameter's states are stored in few bits."""
    return p.n >= SMALLEST and p.n % BLOCK == 0


def states(bits: int) -> States:
    """Codes, fp32 scales and a code table, twice."""

    def of(p: Trained) -> Sequence[int]:
        if not quantised(p):
            return (p.n * p.dtype.size,) * 2
        return (p.n * bits // 8, p.n // BLOCK * 4, 2**bits * 4) * 2

    return of


def step(m: Scratch, params: Sequence[Trained]) -> None:
    """fp32 moments of one parameter at a time."""
    for p in sequence(params):
        if quantised(p):
            first = m.like(p, "fp32 first moment", F32)
            second = m.like(p, "fp32 second moment", F32)
            del first, second


OPTIMIZERS = tuple(
    Optimizer(
        f"adamw_torch_{bits}bit",
        states(bits),
        f"2 x {bits / 8:g} bytes + 2 x 4/256 bytes of scales (2 states in its own dtype below 4096 elements)",
        f"torchao 0.18 optim/subclass_{bits}bit.py",
        aliases=(f"adamw_torchao_{bits}bit",),
        step=step,
        notes="the compiled update is taken to hold two fp32 buffers of one parameter",
    )
    for bits in (8, 4)
)
