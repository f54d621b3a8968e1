"""Ops: one small pure rule per PyTorch op, grouped by subject.

``elementwise`` (casts, arithmetic, shape), ``linear`` (matrix products,
embedding), ``norm``, ``activation``, ``attention``, ``loss``, ``quantized``,
``moe``. `Ops` has them all.
"""

from hubvram.timeline.ops.moe import MoeOps


class Ops(MoeOps):
    """Every op; what families and methods are written in."""


__all__ = ["Ops"]
