"""Convolutions. cuDNN's workspaces are not counted: their size is the algorithm's, chosen at run time."""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.timeline.ops.speech import SpeechOps
from hubvram.timeline.tracer import Storage, Tensor


def conv_length(length: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Output length of a convolution along one dimension (torch.nn.Conv1d's formula)."""
    return (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


class ConvOps(SpeechOps):
    """``F.conv1d`` and ``F.conv2d``."""

    def conv(self, x: Tensor, w: Tensor, b: Tensor | None, sides: tuple[int, ...], op: str = "conv") -> Tensor:
        """``convolution`` to an output of (batch, out_channels, *sides).

        Its derivative is one formula for input, weight and bias: input and
        weight are kept whichever of them is trained (torch 2.13
        ``derivatives.yaml`` convolution). On autocast's half-precision list.
        """
        x, w = self.lower(x), self.lower(w)
        if b is not None:
            b = self.lower(b)
        new, dt = self.t.new, x.dt
        rx, nx, xs = x.rg, x.n * x.dt.size, x.shape
        rw, nw, ws, wd = w.rg, w.n * w.dt.size, w.shape, w.dt
        rb, nb, bs = (b.rg, b.n * b.dt.size, b.shape) if b is not None else (False, 0, ())

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (
                new(nx, op + " grad input", xs, dt) if rx else None,
                new(nw, op + " grad weight", ws, wd) if rw else None,
                new(nb, op + " grad bias", bs, wd) if rb else None,
            )

        inputs = (x, w) if b is None else (x, w, b)
        return self.apply(op, inputs, (x.shape[0], w.shape[0], *sides), dt, bw, save=(x, w))
