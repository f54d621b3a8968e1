"""Full fine-tuning with an optimizer that is the method: GaLore, Q-GaLore, APOLLO, LOMO, AdaLomo.

Every parameter is trained. Weights are updated layer by layer during backward where the papers'
code does that and the run allows it (one GPU, no gradient accumulation), unless ``--optim`` names
another form of the same optimizer (``galore_adamw_8bit``, ``apollo_adamw``...).

Sources: galore-torch 1.0, q-galore-torch 1.0, apollo-torch 1.0.3, lomo-optim 0.1.1; key names as ms-swift's.
"""

from __future__ import annotations

from typing import Any

from hubvram.architecture.modules import Linear, Module
from hubvram.errors import SettingError
from hubvram.plan.methods.base import Context, Method, MethodPlan
from hubvram.plan.methods.full import FullPlan
from hubvram.plan.optimizers import find, low_rank
from hubvram.plan.optimizers.base import Optimizer

GALORE_KEYS = {
    "galore_rank": low_rank.RANK,
    "galore_update_proj_gap": 200,
    "galore_scale": 0.25,
    "galore_proj_type": "std",
    "galore_with_embedding": False,
    "galore_per_parameter": False,
    "galore_quantize": False,
    "galore_proj_quant": False,
    "exp_name": None,
}
"""``galore_per_parameter`` (one optimizer for each parameter) and the scale change no figure."""
APOLLO_KEYS = {
    "apollo_rank": low_rank.RANK,
    "apollo_update_interval": 200,
    "apollo_scale": 1.0,
    "apollo_proj": "random",
    "apollo_scale_type": "channel",
}


class WithOptimizer(FullPlan):
    """Full fine-tuning under the method's own optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        """``optimizer`` takes the place of the one asked for."""
        self.optimizer = optimizer


class QGalorePlan(WithOptimizer):
    """Weights of the layers' linear modules are 8-bit integers; everything else stays as loaded."""

    def stores(self, path: str, module: Module) -> str | None:
        """Groups of 256 with a scale and a zero point."""
        if isinstance(module, Linear) and module.kind == "Linear" and module.role not in ("head", "router"):
            return "q_galore"
        return None


def truth(value: Any) -> bool:
    """A yes or no that may be text, as in exported command lines."""
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def rank(ctx: Context, key: str) -> int:
    """A rank of at least one.

    Raises:
        SettingError: no whole number above zero.
    """
    value = int(ctx.peft[key])
    if value < 1:
        raise SettingError(f"{key} is {value}: it must be at least 1.")
    return value


def _asked(ctx: Context, prefix: str) -> str | None:
    name = ctx.optimizer.name if ctx.optimizer is not None else ""
    return name if name.startswith(prefix) else None


def _galore(ctx: Context) -> MethodPlan:
    asked = _asked(ctx, "galore_")
    layerwise = asked.endswith("_layerwise") if asked else ctx.layerwise
    kind = asked.removeprefix("galore_").removesuffix("_layerwise") if asked else "adamw"
    targets = low_rank.with_embeddings if truth(ctx.peft["galore_with_embedding"]) else low_rank.linear_layers
    if truth(ctx.peft["galore_quantize"]):
        kind = "adamw_8bit"
    return WithOptimizer(low_rank.galore(kind, rank=rank(ctx, "galore_rank"), layerwise=layerwise, targets=targets))


def _q_galore(ctx: Context) -> MethodPlan:
    return QGalorePlan(low_rank.q_galore(rank=rank(ctx, "galore_rank"), layerwise=ctx.layerwise))


def _apollo(ctx: Context) -> MethodPlan:
    asked = _asked(ctx, "apollo_")
    layerwise = asked.endswith("_layerwise") if asked else ctx.layerwise
    return WithOptimizer(low_rank.apollo(rank=rank(ctx, "apollo_rank"), layerwise=layerwise))


def _lomo(ctx: Context) -> MethodPlan:
    return WithOptimizer(find("lomo"))


def _adalomo(ctx: Context) -> MethodPlan:
    return WithOptimizer(find("adalomo"))


def _method(name: str, title: str, trains: str, source: str, apply: Any, keys: dict[str, Any] | None = None) -> Method:
    return Method(
        name=name,
        title=title,
        group="full",
        trains=trains,
        formula="all parameters, tied weights once",
        source=source,
        apply=apply,
        keys=keys or {},
    )


METHODS = [
    _method(
        "galore",
        "GaLore",
        "every parameter; Adam works on gradients of linear layers projected to rank 128, layer by layer in backward",
        "galore-torch 1.0; arXiv:2403.03507",
        _galore,
        GALORE_KEYS,
    ),
    _method(
        "q_galore",
        "Q-GaLore",
        "every parameter; linear layers are 8-bit integers, 8-bit Adam works on projected gradients, 4-bit projections",
        "q-galore-torch 1.0; arXiv:2407.08296",
        _q_galore,
        {**GALORE_KEYS, "galore_rank": 256},
    ),
    _method(
        "apollo",
        "APOLLO",
        "every parameter; gradients are scaled by channel, with factors found in a random projection of rank 128",
        "apollo-torch 1.0.3; arXiv:2412.05270",
        _apollo,
        APOLLO_KEYS,
    ),
    _method(
        "apollo_mini",
        "APOLLO-Mini",
        "every parameter; gradients are scaled tensor by tensor with a factor found in a random projection of rank 1",
        "apollo-torch 1.0.3; arXiv:2412.05270",
        _apollo,
        {**APOLLO_KEYS, "apollo_rank": 1, "apollo_scale": 128.0, "apollo_scale_type": "tensor"},
    ),
    _method(
        "lomo",
        "LOMO",
        "every parameter, by SGD during backward: no gradient waits for the others",
        "lomo-optim 0.1.1; arXiv:2306.09782",
        _lomo,
    ),
    _method(
        "adalomo",
        "AdaLomo",
        "every parameter, with a factored second moment, during backward",
        "lomo-optim 0.1.1; arXiv:2310.10195",
        _adalomo,
    ),
]
