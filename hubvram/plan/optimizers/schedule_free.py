"""Schedule-free AdamW, RAdam and SGD: a second copy of the weights instead of a schedule.

Source: schedulefree 1.4.1 (foreach forms; the gradient's buffer is used for the update).
"""

from __future__ import annotations

from hubvram.plan.optimizers.base import Optimizer, foreach, like_parameter

TWO = "2 states in the parameter's dtype (z, second moment); at the step one more tensor per parameter (foreach)"

OPTIMIZERS = (
    Optimizer(
        "schedule_free_adamw",
        like_parameter(2),
        TWO,
        "schedulefree 1.4.1 adamw_schedulefree.py",
        step=foreach("foreach denominator"),
    ),
    Optimizer(
        "schedule_free_radam",
        like_parameter(2),
        TWO,
        "schedulefree 1.4.1 radam_schedulefree.py",
        step=foreach("foreach denominator"),
    ),
    Optimizer(
        "schedule_free_sgd",
        like_parameter(1),
        "1 state in the parameter's dtype (z); no temporaries",
        "schedulefree 1.4.1 sgd_schedulefree.py",
    ),
)
