"""bitsandbytes optimizers: 8-bit blockwise states, 32-bit ones, paged ones, and the kernels work in place.

8-bit: one byte per element and state and an fp32 absmax per block of 256; parameters of
fewer than 4096 elements keep fp32 states. Paged: states of parameters of at least 100,000
elements are in managed memory (the host's; the absmax stays on the GPU).

transformers' Trainer registers an override: weights of ``nn.Embedding`` keep 32-bit states
under every 8-bit optimizer (``trainer.py`` create_optimizer, GlobalOptimManager). It is assumed
unless the stack names versions but neither accelerate nor trl: then the loop is a plain one.

Source: bitsandbytes 0.50 ``optim/optimizer.py`` (Optimizer1State, Optimizer2State, get_state_buffer),
``optim/ademamix.py``; transformers 5.23 ``trainer_optimizer.py`` _get_bitsandbytes_optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hubvram.plan.optimizers.base import Optimizer, States, Trained

BLOCK = 256
"""Elements per absmax."""
SMALLEST = 4096
"""min_8bit_size: smaller parameters keep 32-bit states."""
CODES = 256 * 4
"""Bytes of one table of the dynamic 8-bit code."""


def bits_32(count: int) -> States:
    """``count`` fp32 states."""

    def states(p: Trained) -> Sequence[int]:
        return [p.n * 4] * count

    return states


def bits_8(count: int) -> States:
    """``count`` one-byte states with their absmax."""

    def states(p: Trained) -> Sequence[int]:
        if p.n < SMALLEST:
            return [p.n * 4] * count
        return [p.n] * count + [-(-p.n // BLOCK) * 4] * count

    return states


def ademamix_32(p: Trained) -> Sequence[int]:
    """Two first moments in one buffer, one second moment."""
    return (p.n * 8, p.n * 4)


def ademamix_8(p: Trained) -> Sequence[int]:
    """The same in one byte each; the two first moments have their own absmax."""
    if p.n < SMALLEST:
        return ademamix_32(p)
    blocks = -(-p.n // BLOCK)
    return (p.n * 2, p.n, blocks * 8, blocks * 4)


SOURCE = "bitsandbytes 0.50 optim/optimizer.py"


ALIASES: Mapping[str, tuple[str, ...]] = {
    "adamw_32bit": ("adamw_bnb_32bit",),
    "adamw_8bit": ("adamw_bnb_8bit", "adam8bit"),
    "ademamix_32bit": ("ademamix",),
    "lion_32bit": ("lion",),
    "rmsprop_bnb_32bit": ("rmsprop_bnb",),
}
"""Other names of the same: ``adamw_bnb_8bit`` is Trainer's first name for ``adamw_8bit``."""


def _family(name: str, kind: str, states_32: States, states_8: States, count: int, per: str) -> list[Optimizer]:
    """The four forms of one algorithm."""
    codes = (CODES,) * min(count, 2)
    eight = f"{count} x 1 byte + {count} x 4/256 bytes of absmax ({count * 4} below 4096 elements)"
    note = "Trainer keeps the states of embeddings in 32 bits"
    paged = "states of parameters from 100,000 elements on are in host memory: 0 on the GPU"
    full, low = f"{name}_32bit", f"{name}_8bit"
    return [
        Optimizer(full, states_32, per, f"{SOURCE} {kind}", aliases=ALIASES.get(full, ())),
        Optimizer(
            low,
            states_8,
            eight,
            f"{SOURCE} {kind}",
            aliases=ALIASES.get(low, ()),
            shared=codes,
            states_32bit=states_32,
            notes=note,
        ),
        Optimizer(
            f"paged_{name}_32bit",
            states_32,
            f"0 on the GPU ({per} in host memory)",
            f"{SOURCE} {kind}",
            paged=True,
            notes=paged,
        ),
        Optimizer(
            f"paged_{name}_8bit",
            states_8,
            f"{count} x 4/256 bytes of absmax ({count} x 1 byte in host memory)",
            f"{SOURCE} {kind}",
            shared=codes,
            paged=True,
            states_32bit=states_32,
            notes=f"{paged}; {note}",
        ),
    ]


OPTIMIZERS = (
    *_family("adamw", "Optimizer2State", bits_32(2), bits_8(2), 2, "2 states of 4 bytes"),
    *_family("ademamix", "ademamix.py AdEMAMix", ademamix_32, ademamix_8, 3, "3 states of 4 bytes"),
    *_family("lion", "Optimizer1State", bits_32(1), bits_8(1), 1, "1 state of 4 bytes"),
    *_family("rmsprop_bnb", "Optimizer1State", bits_32(1), bits_8(1), 1, "1 state of 4 bytes"),
)
