"""Full fine-tuning, and inference as its comparison."""

from __future__ import annotations

from hubvram.architecture.modules import Embedding, Module, Weight
from hubvram.plan.methods.base import Context, Method, MethodPlan


class FullPlan(MethodPlan):
    """Every parameter is trained, in the dtype it is loaded in."""

    def trains(self, path: str, module: Module, part: str) -> bool:
        """All but buffers and what the model itself freezes."""
        if isinstance(module, Embedding) and module.frozen:
            return False
        return not (isinstance(module, Weight) and module.buffer)


def _apply_full(ctx: Context) -> MethodPlan:
    return FullPlan()


def _apply_inference(ctx: Context) -> MethodPlan:
    return MethodPlan()


METHODS = [
    Method(
        name="full",
        title="Full fine-tuning",
        group="full",
        trains="every parameter, in the dtype it is loaded in",
        formula="all parameters, tied weights once",
        source="transformers 5.23 Trainer; torch 2.13 optimizers",
        apply=_apply_full,
    ),
    Method(
        name="inference",
        title="Inference (for comparison)",
        group="reference",
        trains="nothing: weights, KV cache for seq_len tokens, one prefill forward pass",
        formula="0",
        source="transformers 5.23 generation",
        apply=_apply_inference,
        training=False,
    ),
]
