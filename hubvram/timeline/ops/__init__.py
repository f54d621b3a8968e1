"""Ops: one small pure rule per PyTorch op, grouped by subject.

``elementwise`` (casts, arithmetic, shape), ``linear`` (matrix products,
embedding), ``norm``, ``activation``, ``attention``, ``loss``, ``quantized``. `Ops` has them all.
"""

from hubvram.timeline.ops.quantized import QuantizedOps


class Ops(QuantizedOps):
    """Every op; what families and methods are written in."""


__all__ = ["Ops"]
