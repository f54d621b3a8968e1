"""BAdam's block optimizer: fp32 copies of the block that is trained now.

Source: badam 1.4 ``block_optim.py`` (_grad_to_hp, step_single_gpu); the optimizer it wraps is torch's AdamW (foreach).
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.plan.optimizers.base import Optimizer, Scratch, Trained
from hubvram.timeline.dtypes import F32


def states(p: Trained) -> Sequence[int]:
    """An fp32 copy of the weight and two fp32 moments; those of other blocks are dropped at the switch."""
    return (p.n * 4, p.n * 4, p.n * 4)


def step(m: Scratch, params: Sequence[Trained]) -> None:
    """Gradients become fp32 and go, then the foreach step runs on the copies."""
    gradients = m.each(params, "fp32 gradient", F32)
    m.release()
    root = m.each(params, "foreach square root", F32)
    del gradients, root


OPTIMIZERS = (
    Optimizer(
        "badam",
        states,
        "12 bytes per parameter of the active block (fp32 copy and 2 states); at the step 8 more, its gradients gone",
        "badam 1.4 block_optim.py BlockOptimizer over torch AdamW",
        notes="belongs to the method badam",
        step=step,
    ),
)
