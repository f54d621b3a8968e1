"""The losses transformers computes inside the model.

Source: transformers ``loss/loss_utils.py`` (5.23; the history is in
``plan/stacks.py``), torch ``LossNLL.cpp`` and ``SoftMax.cu``.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.timeline.dtypes import F32, I64
from hubvram.timeline.ops.attention import AttentionOps
from hubvram.timeline.tracer import Storage, Tensor


class LossOps(AttentionOps):
    """Cross entropy and what stands around it."""

    def log_softmax(self, x: Tensor) -> Tensor:
        """Keeps its result; backward makes one tensor of the same size."""
        return self._log_softmax(self.upper(x))

    def _log_softmax(self, x: Tensor) -> Tensor:
        new, n, shape, dt = self.t.new, x.n, x.shape, x.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "log_softmax backward", shape, dt),)

        return self.apply("log_softmax", (x,), shape, dt, bw, save_result=True)

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """``F.cross_entropy`` on (rows, classes): log_softmax, then nll_loss, whose gradient is as large again.

        Autocast finds the log_softmax inside it with the logits' dtype given, and casts to fp32 for nll_loss only.
        """
        logp = self.upper(self._log_softmax(logits))
        new, n, shape, dt = self.t.new, logp.n, logp.shape, logp.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "nll_loss backward", shape, dt),)

        loss = self.apply("nll_loss", (logp,), (), dt, bw, save=(logp,))
        weight = self.t.tensor((), F32, "nll_loss total weight")
        self.t.save(loss.node, "nll_loss", weight)
        return loss

    def shift_logits(self, logits: Tensor) -> Tensor:
        """``logits[..., :-1, :].contiguous()`` as rows: a copy, but for a batch of one, whose slice is contiguous."""
        batch, tokens, vocab = logits.shape
        part = self.slice(logits, (batch, tokens - 1, vocab))
        if batch > 1:
            part = self.clone(part, "shift_logits")
        return part.view(batch * (tokens - 1), vocab)

    def causal_lm_loss(self, logits: list[Tensor], labels: Tensor) -> Tensor:
        """The loss of a causal model on ``logits[0]``, as the stack's transformers writes it.

        ``logits`` is a one-element list, so that an fp32 copy can take the
        place of the 16-bit logits where the model rebinds its variable.

        - before 4.46 the model itself upcasts (the 16-bit logits go) and makes a
          shifted contiguous copy: 12 bytes per logit at the end of forward;
        - 4.46 to 4.49: ``ForCausalLMLoss`` does both, while the model still holds
          the 16-bit logits: 14 bytes;
        - from 4.50 labels are shifted instead: 10 bytes, and backward's 12 are the peak.
        """
        version = self.transformers
        batch, tokens, vocab = logits[0].shape
        if version < (4, 50):
            if version < (4, 46):
                logits[0] = self.float(logits[0])
            full = self.float(logits[0])  # a variable of theirs: alive until the loss is there
            part = self.shift_logits(full)
            return self.cross_entropy(part)
        padded = self.ones((batch, tokens + 1), I64, "labels padded")
        shift = self.ones((batch, tokens), I64, "shift_labels")
        del padded
        full = self.float(logits[0])
        loss = self.cross_entropy(full.view(batch * tokens, vocab))
        del shift
        return loss

    def fused_linear_cross_entropy(self, x: Tensor, w: Tensor) -> Tensor:
        """Liger's fused loss: logits in chunks of rows, gradients of x and w made in the forward pass.

        Chunk size as in liger-kernel ``ops/fused_linear_cross_entropy.py``:
        rows are cut so that one chunk of logits is about as large as x.
        """
        if self.t.autocast is not None:
            x, w = self.lower(x), self.lower(w)
        hidden, vocab = x.shape[-1], w.n // x.shape[-1]
        rows = x.n // hidden
        inc = -(-vocab // hidden)
        chunk = 1
        while chunk < -(-rows // inc):
            chunk *= 2
        t = self.t
        dt = x.dt
        grad_x = Tensor(t.new(x.n * dt.size, "liger grad input", x.shape, dt), x.shape, x.n, dt)
        grad_w: Tensor | None = None
        if w.rg:
            grad_w = Tensor(t.new(w.n * w.dt.size, "liger grad weight", w.shape, w.dt), w.shape, w.n, w.dt)
        per_row = t.tensor((rows,), F32, "liger loss per row")
        logits = t.tensor((min(chunk, rows), vocab), dt, "liger logits chunk")
        if grad_w is not None:
            t.passing(w.n * w.dt.size, op="liger grad weight of a chunk")
        del logits, per_row
        rx, rw = x.rg, w.rg
        gx, gw = grad_x.n * dt.size, (grad_w.n * w.dt.size if grad_w is not None else 0)
        xs, ws, wd = x.shape, w.shape, w.dt
        new = t.new

        def bw(g: Storage) -> Sequence[Storage | None]:
            # the saved gradients are scaled in place and handed on
            return (
                new(gx, "liger grad input", xs, dt) if rx else None,
                new(gw, "liger grad weight", ws, wd) if rw else None,
            )

        return self.apply("liger loss", (x, w), (), F32, bw, save=(grad_x, grad_w), overwrites=True)
