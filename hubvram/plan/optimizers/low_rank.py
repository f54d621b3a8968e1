"""GaLore, Q-GaLore and APOLLO: Adam's states in a low-rank projection of the gradient.

Trainer's defaults: rank 128, a new projection every 200 steps, GaLore by SVD (``proj_type`` std),
APOLLO by a random matrix. ``optim_target_modules`` has no default there; what is assumed is what
transformers' documentation shows (attention and MLP): every linear layer inside the blocks. Other
parameters have Adam's states in their own shape. The step that renews the projections is counted,
cuSOLVER's workspace is not. ``_layerwise``: every parameter is updated during backward and its
gradient dropped (post-accumulate hooks; one GPU, no accumulation of gradients).

Source: galore-torch 1.0 (adamw.py, adamw8bit.py, adafactor.py, galore_projector.py), apollo-torch 1.0.3,
transformers 5.23 ``trainer_optimizer.py`` _setup_low_rank_optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hubvram.plan.optimizers import adafactor
from hubvram.plan.optimizers.base import Optimizer, Scratch, States, Step, Trained, sequence
from hubvram.plan.optimizers.bitsandbytes import CODES, bits_8
from hubvram.timeline.dtypes import F32, DType
from hubvram.timeline.tracer import Storage

RANK = 128
"""transformers' default for both."""

Targets = Callable[[Trained], bool]


def linear_layers(p: Trained) -> bool:
    """Weights of ``nn.Linear`` inside the blocks."""
    return p.kind == "linear" and len(p.shape) == 2


def with_embeddings(p: Trained) -> bool:
    """The same, embeddings and head too (ms-swift's ``galore_with_embedding``)."""
    return len(p.shape) == 2 and p.kind in ("linear", "embedding", "head")


def low_shape(p: Trained, rank: int) -> tuple[tuple[int, int], int]:
    """Shape of the projected gradient, and elements of the projection (``proj_type`` std)."""
    rows, columns = p.shape
    r = min(rank, rows, columns)
    if rows >= columns:
        return (rows, r), r * columns
    return (r, columns), rows * r


def _low(p: Trained, rank: int) -> Trained:
    shape, _ = low_shape(p, rank)
    return Trained(p.name + " (projected)", shape, p.dtype, p.count)


def projected(rank: int, targets: Targets, inner: States, *, svd: DType | None = None) -> States:
    """States of the projected gradient and the projection; of the whole parameter where it is no target.

    An SVD of an fp32 gradient is not cast: the projection is a view and keeps the whole factor alive.
    ``svd`` is the dtype of the decomposed gradient where it is not the parameter's.
    """

    def states(p: Trained) -> Sequence[int]:
        if not targets(p):
            return inner(p)
        _, projection = low_shape(p, rank)
        size = projection * p.dtype.size
        if (svd or p.dtype) is F32:
            size = min(p.shape) ** 2 * F32.size
        return (*inner(_low(p, rank)), size)

    return states


def random_projected(rank: int, targets: Targets) -> States:
    """The same with a random projection, and the norm of the last scaled gradient."""

    def states(p: Trained) -> Sequence[int]:
        if not targets(p):
            return adam_states(p)
        _, projection = low_shape(p, rank)
        return (*adam_states(_low(p, rank)), projection * p.dtype.size, p.dtype.size)

    return states


def adam_states(p: Trained) -> Sequence[int]:
    """Two in the gradient's dtype."""
    return (p.n * p.dtype.size, p.n * p.dtype.size)


def _svd(m: Scratch, p: Trained) -> None:
    """``get_orthogonal_matrix``: fp32 copy, what torch.linalg.svd copies and returns."""
    rows, columns = p.shape
    k = min(rows, columns)
    matrix = m.like(p, "fp32 gradient", F32) if p.dtype is not F32 else None
    u = m.tensor(rows * k, F32, f"U of {p.name}")
    vh = m.tensor(k * columns, F32, f"V of {p.name}")
    copy = m.like(p, "copy for the decomposition", F32)
    v = m.tensor(k * columns, F32, f"transposed V of {p.name}")
    del copy, v, u, vh, matrix


def galore_adamw(rank: int, targets: Targets) -> Step:
    """AdamW's loop over projected gradients."""

    def step(m: Scratch, params: Sequence[Trained]) -> None:
        grad: Storage | None = None
        denom: Storage | None = None
        normed: Storage | None = None
        for p in sequence(params):
            inner = p
            grad = None
            if targets(p):
                _svd(m, p)
                inner = _low(p, rank)
                grad = m.like(inner, "gradient")
            denom = m.like(inner, "denominator")
            normed = m.like(inner, "update")
            if inner is not p:
                back = m.like(p, "update projected back")
                normed = m.like(p, "scaled update")
                del back
        del grad, denom, normed

    return step


def galore_adamw_8bit(rank: int, targets: Targets) -> Step:
    """The 8-bit form swaps the weight for the projected update while the kernel runs."""

    def step(m: Scratch, params: Sequence[Trained]) -> None:
        grad: Storage | None = None
        for p in sequence(params):
            if not targets(p):
                continue
            _svd(m, p)
            inner = _low(p, rank)
            grad = m.like(inner, "gradient")
            saved = m.like(p, "saved weight")
            update = m.like(inner, "update")
            back = m.like(p, "update projected back")
            scaled = m.like(p, "scaled update")
            del saved, update, back, scaled
        del grad

    return step


def galore_adafactor(rank: int, targets: Targets) -> Step:
    """Adafactor's loop over projected gradients, in fp32."""

    def step(m: Scratch, params: Sequence[Trained]) -> None:
        grad: Storage | None = None
        weight: Storage | None = None
        update: Storage | None = None
        for p in sequence(params):
            low = p.dtype is not F32
            inner = p
            grad = m.like(p, "fp32 gradient", F32) if low else None
            if targets(p):
                _svd(m, Trained(p.name, p.shape, F32))
                inner = _low(p, rank)
                grad = m.like(inner, "gradient", F32)
            weight = m.like(p, "fp32 weight", F32) if low else None
            squared = m.like(inner, "squared gradient", F32)
            update = m.like(inner, "update", F32)
            del squared
            update = m.like(inner, "approximated square", F32)
            if inner is not p:
                back = m.like(p, "update projected back", F32)
                update = m.like(p, "scaled update", F32)
                del back
            negative = m.like(p, "negated update", F32)
            del negative
        del grad, weight, update

    return step


def apollo_adamw(rank: int, targets: Targets) -> Step:
    """The whole gradient is scaled by factors found in the projection."""

    def step(m: Scratch, params: Sequence[Trained]) -> None:
        grad: Storage | None = None
        denom: Storage | None = None
        normed: Storage | None = None
        scaled: Storage | None = None
        for p in sequence(params):
            inner = p
            grad = None
            if targets(p):
                copy = m.like(p, "fp32 gradient", F32) if p.dtype is not F32 else None
                del copy
                inner = _low(p, rank)
                grad = m.like(inner, "gradient")
            denom = m.like(inner, "denominator")
            normed = m.like(inner, "update")
            if inner is not p:
                scaled = m.like(p, "scaled gradient")
                scaled = m.like(p, "limited gradient")
                normed = scaled
        del grad, denom, normed, scaled

    return step


def adam_8bit_states(p: Trained) -> Sequence[int]:
    """bitsandbytes' blockwise states."""
    return bits_8(2)(p)


GALORE = "galore-torch 1.0"
APOLLO = "apollo-torch 1.0.3"
NO_WORKSPACE = "attention and MLP are projected; cuSOLVER's workspace is not counted"
WHOLE = "; an fp32 gradient's decomposition is not cast, so the projection keeps a whole factor alive"
PROJECTED = "linear layers: 2 states of the projected gradient (rank {rank}) and the projection; the rest: {rest}"


def galore(
    kind: str = "adamw", *, rank: int = RANK, layerwise: bool = False, targets: Targets = linear_layers
) -> Optimizer:
    """A GaLore optimizer: ``kind`` is adamw, adamw_8bit or adafactor."""
    inner, step, shared = {
        "adamw": (adam_states, galore_adamw, ()),
        "adamw_8bit": (adam_8bit_states, galore_adamw_8bit, (CODES, CODES)),
        "adafactor": (adafactor.states, galore_adafactor, ()),
    }[kind]
    rest = {"adamw": "2 states", "adamw_8bit": "2 x 1 byte + absmax", "adafactor": "rows and columns"}[kind]
    return Optimizer(
        f"galore_{kind}" + ("_layerwise" if layerwise else ""),
        projected(rank, targets, inner, svd=F32 if kind == "adafactor" else None),
        PROJECTED.format(rank=rank, rest=rest),
        GALORE,
        step=step(rank, targets),
        shared=shared,
        in_backward=layerwise,
        notes=NO_WORKSPACE + WHOLE + ("; gradients are dropped as they arrive" if layerwise else ""),
    )


def apollo(*, rank: int = RANK, layerwise: bool = False, targets: Targets = linear_layers) -> Optimizer:
    """An APOLLO optimizer (rank 1: APOLLO-Mini)."""
    return Optimizer(
        "apollo_adamw" + ("_layerwise" if layerwise else ""),
        random_projected(rank, targets),
        PROJECTED.format(rank=rank, rest="2 states"),
        APOLLO,
        step=apollo_adamw(rank, targets),
        in_backward=layerwise,
        notes="attention and MLP are projected" + ("; gradients are dropped as they arrive" if layerwise else ""),
    )


GROUP = 256
"""Elements per scale and zero point of Q-GaLore's integers (weights 8 bits, projections 4 bits in a byte each)."""


def q_galore_states(rank: int, targets: Targets) -> States:
    """8-bit moments of the projected gradient and an integer projection."""

    def states(p: Trained) -> Sequence[int]:
        if not targets(p):
            return adam_8bit_states(p)
        _, n = low_shape(p, rank)
        scales = -(-n // GROUP) * p.dtype.size
        return (*adam_8bit_states(_low(p, rank)), n, scales, scales)

    return states


def q_galore_step(rank: int, targets: Targets) -> Step:
    """Dequantise the weight, project, update, project back, quantise with stochastic rounding."""

    def step(m: Scratch, params: Sequence[Trained]) -> None:
        for p in sequence(params):
            if not targets(p):
                continue
            dequantised = m.like(p, "dequantised weight")
            weight = m.like(p, "weight")
            _svd(m, p)
            grad = m.like(_low(p, rank), "gradient")
            saved = weight
            update = m.like(_low(p, rank), "update")
            back = m.like(p, "update projected back")
            scaled = m.like(p, "scaled update")
            del back, scaled, update, grad, dequantised
            copy = m.like(p, "saved weight")
            rounded = [m.like(p, what) for what in ("scaled", "rounded up", "rounded down", "probability", "random")]
            del copy, rounded, saved, weight

    return step


def q_galore(*, rank: int = 256, layerwise: bool = False, targets: Targets = linear_layers) -> Optimizer:
    """Q-GaLore's 8-bit AdamW."""
    return Optimizer(
        "q_galore_adamw8bit" + ("_layerwise" if layerwise else ""),
        q_galore_states(rank, targets),
        PROJECTED.format(rank=rank, rest="2 x 1 byte + absmax") + "; the projection in one byte an element",
        "q-galore-torch 1.0 q_galore_adamw8bit.py",
        step=q_galore_step(rank, targets),
        shared=(CODES, CODES),
        in_backward=layerwise,
        notes="belongs to the method q_galore, whose weights are integers; cuSOLVER's workspace is not counted",
    )


OPTIMIZERS = (
    *[galore(kind, layerwise=late) for late in (False, True) for kind in ("adamw", "adamw_8bit", "adafactor")],
    apollo(),
    apollo(layerwise=True),
    q_galore(),
    q_galore(layerwise=True),
)
