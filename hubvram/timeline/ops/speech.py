"""What speech models need beside convolutions: group norm, weight norm, the CTC loss."""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.timeline.dtypes import F32, I64
from hubvram.timeline.ops.quantized import QuantizedOps
from hubvram.timeline.tracer import Storage, Tensor


class SpeechOps(QuantizedOps):
    """Sources: torch 2.13 ``derivatives.yaml`` (native_group_norm, _weight_norm_interface, _ctc_loss, index_put_)."""

    def group_norm(self, x: Tensor, w: Tensor, b: Tensor, groups: int) -> Tensor:
        """``F.group_norm``: keeps x and two numbers a group; fp32 under autocast."""
        if self.t.autocast is not None:
            x, w, b = self.upper(x), self.upper(w), self.upper(b)
        t = self.t
        new, dt = t.new, x.dt
        rx, nx, xs = x.rg, x.n * dt.size, x.shape
        rw, nw, ws, wd = w.rg, w.n * w.dt.size, w.shape, w.dt
        rb = b.rg

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (
                new(nx, "group_norm backward", xs, dt) if rx else None,
                new(nw, "group_norm grad weight", ws, wd) if rw else None,
                new(nw, "group_norm grad bias", ws, wd) if rb else None,
            )

        out = self.apply("group_norm", (x, w, b), xs, dt, bw, save=(x, w))
        if out.rg:
            mean = t.tensor((xs[0], groups), dt, "group_norm mean")
            rstd = t.tensor((xs[0], groups), dt, "group_norm rstd")
            t.save(out.node, "group_norm", mean, rstd)
        return out

    def weight_norm(self, v: Tensor, g: Tensor) -> Tensor:
        """``v * (g / |v|)``, made anew at every call: keeps v, g and the norms."""
        t = self.t
        new, nv, vs, ng, gs, dt = t.new, v.n * v.dt.size, v.shape, g.n * g.dt.size, g.shape, v.dt
        rv, rg = v.rg, g.rg

        def bw(grad: Storage) -> Sequence[Storage | None]:
            return (
                new(nv, "weight_norm grad v", vs, dt) if rv else None,
                new(ng, "weight_norm grad g", gs, dt) if rg else None,
            )

        out = self.apply("weight_norm", (v, g), vs, dt, bw, save=(v, g))
        if out.rg:
            t.save(out.node, "weight_norm", t.tensor(gs, F32, "weight_norm norms"))
        return out

    def as_leaf(self, x: Tensor) -> Tensor:
        """``x.requires_grad = True`` on an input: its gradient is computed and kept by nobody here."""
        return Tensor(x.st, x.shape, x.n, x.dt, True, self.t.node(lambda grad: (), ()))

    def overwrite(self, x: Tensor) -> Tensor:
        """``x[mask] = value``: in place; backward makes a copy of the gradient with zeros there."""
        if not self.t.wants_grad(x):
            return x
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape
        node = self.t.node(lambda grad: (new(n * dt.size, "index_put backward", shape, dt),), (x,))
        return Tensor(x.st, x.shape, x.n, x.dt, True, node)

    def ctc_loss(self, logits: Tensor, labels: int) -> Tensor:
        """``ForCTCLoss``: fp32 log-probabilities and the table of log alphas (batch, frames, 2 labels + 1) are kept.

        Backward makes the table of log betas beside the gradient.
        """
        b, frames, vocab = logits.shape
        logp = self.log_softmax(self.float(logits))
        t = self.t
        new, n = t.new, logp.n
        table = b * frames * (2 * labels + 1) * F32.size

        def bw(g: Storage) -> Sequence[Storage | None]:
            betas = new(table, "ctc_loss log beta", (b, frames, 2 * labels + 1), F32)
            out = new(n * F32.size, "ctc_loss backward", (frames, b, vocab), F32)
            del betas
            return (out,)

        losses = self.apply("ctc_loss", (logp,), (b,), F32, bw, save=(logp,))
        alphas = t.tensor((b, frames, 2 * labels + 1), F32, "ctc_loss log alpha")
        lengths = t.tensor((b,), I64, "ctc lengths")
        if losses.rg:
            t.save(losses.node, "ctc_loss", losses, alphas, lengths)
        return self.mean_loss(losses)

    def mean_loss(self, x: Tensor) -> Tensor:
        """The sum or mean of a few losses: one number."""

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (g,)

        return self.apply("reduce loss", (x,), (), x.dt, bw)
