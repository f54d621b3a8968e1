"""The rest of torch.optim: SGD, Adagrad, RMSprop, Adadelta, ASGD, Rprop, Muon.

Source: torch 2.13 ``optim/{sgd,adagrad,rmsprop,adadelta,asgd,rprop,_muon}.py``, with the arguments
that transformers 5.23 ``trainer_optimizer.py`` passes where it builds them.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.plan.optimizers.base import (
    Optimizer,
    Scratch,
    Trained,
    foreach,
    like_parameter,
    no_states,
    sequence,
)
from hubvram.timeline.dtypes import BF16, BOOL
from hubvram.timeline.tracer import Storage


def muon(m: Scratch, params: Sequence[Trained]) -> None:
    """Newton-Schulz of every matrix in turn; AdamW (foreach) for the rest."""
    matrices, rest = _split(params)
    update: Storage | None = None
    for p in sequence(matrices):
        update = m.like(p, "nesterov update")
        update = _newton_schulz(m, p, [update])
    update = None
    held = m.each(rest, "foreach square root")
    del held, update


def _newton_schulz(m: Scratch, p: Trained, given: list[Storage | None]) -> Storage | None:
    # the caller's name and the argument both hold the momentum's result until the call returns
    small = min(p.shape)
    ortho = given[0] if p.dtype is BF16 else m.like(p, "bf16 copy", BF16)
    gram: Storage | None = None
    update: Storage | None = None
    for _ in range(2):
        gram = m.tensor(small * small, BF16, f"gram matrix of {p.name}")
        update = m.tensor(small * small, BF16, f"gram polynomial of {p.name}")
        ortho = m.like(p, "orthogonalised update", BF16)
    del gram, update
    return ortho


def rprop(m: Scratch, params: Sequence[Trained]) -> None:
    """Signs of all parameters; each is then replaced through a mask and a copy."""
    signs = m.each(params, "foreach sign")
    for p in sequence(params):
        mask = m.like(p, "mask", BOOL)
        factor = m.like(p, "step factor")
        del mask, factor
    del signs


def _split(params: Sequence[Trained]) -> tuple[list[Trained], list[Trained]]:
    matrices = [p for p in params if len(p.shape) == 2 and p.kind not in ("embedding", "head")]
    return matrices, [p for p in params if p not in matrices]


def muon_states(p: Trained) -> Sequence[int]:
    """One momentum buffer for a matrix, AdamW's two states for anything else."""
    one = p.n * p.dtype.size
    return (one,) if len(p.shape) == 2 and p.kind not in ("embedding", "head") else (one, one)


OPTIMIZERS = (
    Optimizer("sgd", no_states, "no state (momentum 0); no temporaries", "torch 2.13 optim/sgd.py _multi_tensor_sgd"),
    Optimizer(
        "sgd_momentum",
        like_parameter(1),
        "1 state in the parameter's dtype; no temporaries",
        "torch 2.13 optim/sgd.py with momentum",
    ),
    Optimizer(
        "adagrad",
        like_parameter(1),
        "1 state in the parameter's dtype; at the step two more tensors per parameter (foreach)",
        "torch 2.13 optim/adagrad.py _multi_tensor_adagrad",
        step=foreach("foreach square root", "foreach numerator"),
    ),
    Optimizer(
        "rmsprop",
        like_parameter(1),
        "1 state in the parameter's dtype; at the step one more tensor per parameter (foreach)",
        "torch 2.13 optim/rmsprop.py _multi_tensor_rmsprop (momentum 0, not centered)",
        step=foreach("foreach square root"),
    ),
    Optimizer(
        "adadelta",
        like_parameter(2),
        "2 states in the parameter's dtype; at the step two more tensors per parameter (foreach)",
        "torch 2.13 optim/adadelta.py _multi_tensor_adadelta",
        step=foreach("foreach standard deviation", "foreach delta"),
    ),
    Optimizer(
        "asgd",
        like_parameter(1, 4, 4, 4),
        "1 state in the parameter's dtype; at the step one more tensor per parameter (foreach)",
        "torch 2.13 optim/asgd.py _multi_tensor_asgd (step, eta and mu are on the GPU)",
        step=foreach("foreach intermediate"),
    ),
    Optimizer(
        "rprop",
        like_parameter(2),
        "2 states in the parameter's dtype; at the step one more tensor per parameter (foreach) and two of the largest",
        "torch 2.13 optim/rprop.py _multi_tensor_rprop",
        step=rprop,
    ),
    Optimizer(
        "muon",
        muon_states,
        "matrices inside the layers: 1 state in the parameter's dtype; the rest: AdamW's 2",
        "torch 2.13 optim/_muon.py; embeddings, head, norms and biases by AdamW, as its documentation says",
        step=muon,
    ),
)
