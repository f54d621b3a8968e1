"""ReLoRA: LoRA that is merged and started anew every ``relora_steps``.

As axolotl runs it on PEFT: between merges memory is LoRA's; a merge makes one layer's product at a
time and prunes optimizer states in place, so it is no higher than a step.
"""

from __future__ import annotations

from hubvram.plan.methods.base import Context, Method, MethodPlan
from hubvram.plan.methods.lora import KEYS, LoraPlan


def _apply(ctx: Context) -> MethodPlan:
    return LoraPlan(ctx, ctx.peft)


METHODS = [
    Method(
        name="relora",
        title="ReLoRA",
        group="lora",
        trains="LoRA's two matrices beside each target, merged into the weights and started anew every relora_steps",
        formula="r x (in + out) per target (between two merges)",
        source="axolotl monkeypatch/relora.py on peft 0.21; arXiv:2307.05695",
        apply=_apply,
        peft_type="LORA",
        keys={**KEYS, "relora_steps": 150, "relora_warmup_steps": 10, "relora_cpu_offload": False},
    ),
]
