"""Adam and its relatives in torch.optim, as transformers' Trainer and plain loops build them.

Without a flag the foreach form runs on CUDA: it holds one list of temporaries
over all parameters. Step counters are tensors on the CPU (on the GPU when fused).

Source: torch 2.13 ``optim/{adam,adamw,nadam,radam,adamax}.py`` (``_multi_tensor_*``, ``_fused_adam``).
"""

from __future__ import annotations

from hubvram.plan.optimizers.base import Optimizer, foreach, like_parameter

SQRT = foreach("foreach square root")

OPTIMIZERS = (
    Optimizer(
        "adamw_torch_fused",
        like_parameter(2, 4),
        "2 states in the parameter's dtype; no temporaries",
        "torch 2.13 optim/adamw.py _fused_adam (step counters are on the GPU)",
        aliases=("adamw_fused", "adam_fused"),
    ),
    Optimizer(
        "adamw_torch",
        like_parameter(2),
        "2 states in the parameter's dtype; at the step one more tensor per parameter (foreach)",
        "torch 2.13 optim/adamw.py _multi_tensor_adamw (_foreach_sqrt)",
        aliases=("adamw_torch_foreach", "adamw", "adam", "adamw_hf", "adamw_apex_fused"),
        step=SQRT,
        notes="adamw_hf and adamw_apex_fused, which newer transformers no longer have, hold the same states",
    ),
    Optimizer(
        "adamw_torch_xla",
        like_parameter(2),
        "2 states in the parameter's dtype",
        "torch_xla amp/syncfree AdamW, as transformers 5.23 builds it",
        notes="runs on XLA devices; the figures are those of a GPU of the same size",
    ),
    Optimizer(
        "adamw_torch_npu_fused",
        like_parameter(2),
        "2 states in the parameter's dtype",
        "torch_npu optim NpuFusedAdamW, as transformers 5.23 builds it",
        notes="runs on Ascend devices; the copies into one flat buffer that it makes are not counted",
    ),
    Optimizer(
        "nadam",
        like_parameter(2),
        "2 states in the parameter's dtype; at the step one more tensor per parameter (foreach)",
        "torch 2.13 optim/nadam.py _multi_tensor_nadam",
        aliases=("nadamw",),
        step=SQRT,
    ),
    Optimizer(
        "radam",
        like_parameter(2),
        "2 states in the parameter's dtype; at the step one more tensor per parameter (foreach)",
        "torch 2.13 optim/radam.py _multi_tensor_radam",
        step=SQRT,
    ),
    Optimizer(
        "adamax",
        like_parameter(2),
        "2 states in the parameter's dtype; at the step one more tensor per parameter (foreach)",
        "torch 2.13 optim/adamax.py _multi_tensor_adamax (_foreach_abs of the gradients)",
        step=foreach("foreach absolute gradient"),
    ),
    Optimizer(
        "amsgrad",
        like_parameter(3),
        "3 states in the parameter's dtype; at the step one more tensor per parameter (foreach)",
        "torch 2.13 optim/adam.py with amsgrad=True",
        step=SQRT,
    ),
)
