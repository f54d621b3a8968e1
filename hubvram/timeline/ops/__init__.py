"""Ops: one small pure rule per PyTorch op, grouped by subject.

``elementwise`` (casts, arithmetic, shape), ``linear`` (matrix products,
embedding), ``norm``, ``activation``, ``attention``, ``loss``, ``quantized``,
``moe``, ``scan``, ``conv``, ``position``, ``peft``, ``peft_prompt``, ``peft_weights``,
``packed``. `Ops` has them all.
"""

from hubvram.timeline.ops.conv import ConvOps
from hubvram.timeline.ops.moe import MoeOps
from hubvram.timeline.ops.packed import PackedOps
from hubvram.timeline.ops.peft_weights import PeftWeightOps
from hubvram.timeline.ops.position import PositionOps
from hubvram.timeline.ops.scan import ScanOps


class Ops(ScanOps, ConvOps, PositionOps, PeftWeightOps, PackedOps, MoeOps):
    """Every op; what families and methods are written in."""


__all__ = ["Ops"]
