"""Mixture of experts: routing, gathering tokens, grouped products, adapted expert weights.

Sources: transformers 5.23 ``integrations/moe.py`` (grouped_mm_experts_forward),
torch 2.13 ``derivatives.yaml`` (_grouped_mm, baddbmm, topk, index, gather), peft 0.21
``tuners/lora/layer.py`` (ParamWrapper).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Protocol

from hubvram.timeline.dtypes import BOOL, F32, I32, I64, DType
from hubvram.timeline.ops.quantized import QuantizedOps
from hubvram.timeline.tracer import Storage, Tensor


class Fold(Protocol):
    """An expert weight for the length of one call: plain or with a method's change folded in."""

    def value(self, g: Any) -> Tensor:
        """The weight that the model's code sees; made once per call."""


class PlainFold:
    """A weight without an adapter."""

    __slots__ = ("weight",)

    def __init__(self, weight: Tensor) -> None:
        """Keeps the weight itself."""
        self.weight = weight

    def value(self, g: Any) -> Tensor:
        """The weight itself."""
        return self.weight


Gate = Callable[[Tensor], Tensor]


class MoeOps(QuantizedOps):
    """What sparse layers run beside plain linear layers."""

    def opened(self, weight: Any) -> Fold:
        """``weight`` for one call: its adapter, if it has one, makes its factors here."""
        if isinstance(weight, Tensor):
            return PlainFold(weight)
        return weight.fold(self)  # type: ignore[no-any-return]  # AdaptedWeight of the network

    def baddbmm(self, base: Tensor, lhs: Tensor, rhs: Tensor, scaled: bool = True) -> Tensor:
        """``torch.baddbmm(base, lhs, rhs, alpha=scale)`` over a frozen ``base``: keeps the two factors.

        Backward multiplies the gradient of each factor by alpha in a further tensor unless alpha is 1.
        """
        new, dt = self.t.new, base.dt
        rb, rl, rr = base.rg, lhs.rg, rhs.rg
        nl, nr, sl, sr = lhs.n * dt.size, rhs.n * dt.size, lhs.shape, rhs.shape

        def factor(n: int, shape: tuple[int, ...]) -> Storage | None:
            plain = new(n, "baddbmm backward", shape, dt)
            return new(n, "baddbmm backward (times alpha)", shape, dt) if scaled else plain

        def bw(g: Storage) -> Sequence[Storage | None]:
            return g if rb else None, factor(nl, sl) if rl else None, factor(nr, sr) if rr else None

        save = (lhs if rr else None, rhs if rl else None)
        return self.apply("baddbmm", (base, lhs, rhs), base.shape, dt, bw, save=save)

    def copied_back(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A reshaped and permuted view whose gradient is copied on the way back (it is laid out otherwise)."""
        if not self.t.wants_grad(x):
            return Tensor(x.st, shape, x.n, x.dt)
        new, n, dt, whole = self.t.new, x.n, x.dt, x.shape
        node = self.t.node(lambda g: (new(n * dt.size, "reshape backward", whole, dt),), (x,))
        return Tensor(x.st, shape, x.n, x.dt, True, node)

    def fill_parts(self, parts: Sequence[Tensor], shape: tuple[int, ...], op: str) -> Tensor:
        """A fresh tensor whose slices are copied into one after the other (``y[..., :n].copy_(x)``).

        A part of one head is expanded over all. Backward (``CopySlices``) copies the whole gradient
        once per part, newest first, and the part's own slice of it.
        """
        out = self.ones(shape, parts[0].dt, op)
        for part in parts:
            out = self._fill_part(out, part, op)
        return out

    def fill_more(self, whole: Tensor, part: Tensor, op: str) -> Tensor:
        """``whole[:, :, i] = part``: one more slice copied in, a fixed share of the whole."""
        t = self.t
        if not t.wants_grad(whole, part):
            return whole
        new, dt, shape, n = t.new, whole.dt, whole.shape, whole.n
        size, ps, rw, rp = part.n * dt.size, part.shape, whole.rg, part.rg

        def bw(g: Storage) -> Sequence[Storage | None]:
            rest = new(n * dt.size, op + " backward", shape, dt)
            own = new(size, op + " backward (slice)", ps, dt) if rp else None
            return rest if rw else None, own

        node = t.node(bw, (whole, part))
        return Tensor(whole.st, shape, n, dt, True, node)

    def _fill_part(self, whole: Tensor, part: Tensor, op: str) -> Tensor:
        t = self.t
        if not t.wants_grad(whole, part):
            return whole
        new, dt, shape, n = t.new, whole.dt, whole.shape, whole.n
        wide = (*shape[:-1], part.shape[-1])
        rows, ps, pn, rw, rp = prod(wide), part.shape, part.n, whole.rg, part.rg

        def bw(g: Storage) -> Sequence[Storage | None]:
            rest = new(n * dt.size, op + " backward", shape, dt)
            own = new(rows * dt.size, op + " backward (slice)", wide, dt) if rp else None
            if rp and pn != rows:  # expanded over the heads: summed back
                own = new(pn * dt.size, op + " backward (sum)", ps, dt)
            return rest if rw else None, own

        node = t.node(bw, (whole, part))
        return Tensor(whole.st, shape, n, dt, True, node)

    def spread(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``x.expand(shape)``, a view: backward sums into a tensor of x's size."""
        if not self.t.wants_grad(x):
            return Tensor(x.st, shape, prod(shape), x.dt)
        new, n, dt, small = self.t.new, x.n, x.dt, x.shape
        node = self.t.node(lambda g: (new(n * dt.size, "expand backward", small, dt),), (x,))
        return Tensor(x.st, shape, prod(shape), x.dt, True, node)

    # ---- routing --------------------------------------------------------

    def topk(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """``torch.topk``: values and int64 indices; backward scatters into zeros of the whole size."""
        new, n, dt, whole = self.t.new, x.n, x.dt, x.shape
        shape = (*whole[:-1], k)
        values = self.apply("topk", (x,), shape, dt, lambda g: (new(n * dt.size, "topk backward", whole, dt),))
        indices = self.ones(shape, I64, "topk indices")
        if values.rg:
            self.t.save(values.node, "topk", indices)
        return values, indices

    def take_along(self, x: Tensor, index: Tensor) -> Tensor:
        """``x.gather(1, index)``: keeps the index; backward scatters into zeros of the whole size."""
        new, n, dt, whole = self.t.new, x.n, x.dt, x.shape
        return self.apply(
            "gather", (x,), index.shape, dt, lambda g: (new(n * dt.size, "gather backward", whole, dt),), save=(index,)
        )

    def sum_last(self, x: Tensor) -> Tensor:
        """``x.sum(-1, keepdim=True)``: backward is a view."""
        shape = (*x.shape[:-1], 1)
        return self.apply("sum", (x,), shape, x.dt, lambda g: (g,))

    def div_(self, x: Tensor, by: Tensor) -> Tensor:
        """``x /= by`` (row sums): keeps a copy of x and ``by``; x's own memory holds the result."""
        t = self.t
        new, n, dt, shape, m = t.new, x.n, x.dt, x.shape, by.n
        if not t.wants_grad(x, by):
            return x

        def bw(g: Storage) -> Sequence[Storage | None]:
            other = new(n * dt.size, "div backward", shape, dt)
            first = new(n * dt.size, "div backward", shape, dt)
            second = new(m * dt.size, "div backward", (m,), dt)
            del other
            return first, second

        original = self.ones(shape, dt, "div original")
        node = t.node(bw, (x, by))
        t.save(node, "div", original, by)
        return Tensor(x.st, shape, n, dt, True, node)

    def softmax_topk(self, logits: Tensor, k: int, *, normalise: bool, cast: DType | None) -> tuple[Tensor, Tensor]:
        """The usual router: fp32 softmax over experts, the best k, their sum made 1, cast back to the logits' dtype."""
        probs = self.softmax(logits, F32)
        top, index = self.topk(probs, k)
        if normalise:
            top = self.div_(top, self.sum_last(top))
        if cast is not None:
            top = self.to(top, cast)
        return top, index

    def mixer_weight(self, scores: Tensor, gates: Tensor, index: Tensor) -> Tensor:
        """``PhimoeMultiplier``: the chosen gate's value; keeps it, the choice and all gates for its own backward."""
        t = self.t
        new, n, dt, shape = t.new, scores.n, scores.dt, scores.shape
        rows = shape[0]
        chosen = self.take_along(gates, index)
        mask = self.ones((rows, 1), dt, "mask_for_one")

        def bw(g: Storage) -> Sequence[Storage | None]:
            held = new(n * dt.size, "mixer backward", shape, dt)
            out = new(n * dt.size, "mixer backward", shape, dt)
            del held
            return (out,)

        out = self.apply("mixer", (scores,), (rows, 1), dt, bw, save=(chosen.detach(), index, gates.detach()))
        del mask
        return out

    # ---- tokens to experts and back -------------------------------------

    def index_rows(self, x: Tensor, index: Tensor, op: str = "index") -> Tensor:
        """``x[index]`` by rows: keeps the index; backward adds into zeros of the whole size."""
        new, n, dt, whole = self.t.new, x.n, x.dt, x.shape
        shape = (index.n, *whole[1:])
        return self.apply(
            op, (x,), shape, dt, lambda g: (new(n * dt.size, op + " backward", whole, dt),), save=(index,)
        )

    def grouped_mm(self, x: Tensor, w: Tensor, n_out: int, offsets: Tensor, op: str) -> Tensor:
        """``F.grouped_mm``: rows sorted by expert times stacked weights (E, ...). Keeps both."""
        x = self.to(x, w.dt)
        new, dt, rx, rw = self.t.new, w.dt, x.rg, w.rg
        nx, nw, sx, sw = x.n * dt.size, w.n * dt.size, x.shape, w.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (
                new(nx, op + " grad input", sx, dt) if rx else None,
                new(nw, op + " grad weight", sw, dt) if rw else None,
            )

        return self.apply(op, (x, w), (x.shape[0], n_out), dt, bw, save=(x if rw else None, w if rx else None, offsets))

    def sum_groups(self, x: Tensor, groups: int) -> Tensor:
        """``x.view(n, groups, h).sum(1)``: backward copies the expanded gradient."""
        new, n, dt, whole = self.t.new, x.n, x.dt, x.shape
        shape = (whole[0] // groups, *whole[1:])
        return self.apply("sum", (x,), shape, dt, lambda g: (new(n * dt.size, "sum backward", whole, dt),))

    def gated(self, act: str, x: Tensor) -> Tensor:
        """``act(gate) * up`` on the halves of one tensor."""
        half = (*x.shape[:-1], x.shape[-1] // 2)
        gate, up = self.split(x, [half, half])
        return self.mul(self.act(act, gate), up)

    def experts_grouped(
        self,
        x: Tensor,
        index: Tensor,
        weights: Tensor,
        up: Any,
        down: Any,
        gate: Gate,
        *,
        num_experts: int,
        up_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
    ) -> Tensor:
        """``grouped_mm_experts_forward``: x (tokens, hidden), index and weights (tokens, k) -> (tokens, hidden).

        ``up`` and ``down`` are stacked weights or adapted ones; adapters open from the outermost
        (down) inwards, as PEFT nests them, and close together at the end.
        """
        down_fold = self.opened(down)
        up_fold = self.opened(up)
        tokens, hidden = x.shape
        k = index.shape[-1]
        pairs = tokens * k
        sorted_ids = self.ones((pairs,), I64, "expert ids sorted")
        perm = self.ones((pairs,), I64, "expert permutation")
        chosen = self.index_rows(x, self.ones((pairs,), I64, "token index"), "tokens by expert")
        chosen_weights = self.index_rows(weights.view(pairs, 1), perm, "routing weights by expert")
        counts = self.ones((num_experts,), I32, "tokens per expert")
        offsets = self.ones((num_experts,), I32, "expert offsets")
        w = up_fold.value(self)
        rows = None if up_bias is None else self.index_rows(up_bias, sorted_ids, "experts up bias")
        out = self.grouped_mm(chosen, w, _out_features(w, hidden), offsets, "experts up")
        if rows is not None:
            out = self.add_(out, rows)
        out = gate(out)
        w = down_fold.value(self)
        if down_bias is not None:
            rows = self.index_rows(down_bias, sorted_ids, "experts down bias")
        out = self.grouped_mm(out, w, hidden, offsets, "experts down")
        if rows is not None:
            out = self.add_(out, rows)
        weighted = self.mul(out, chosen_weights)
        inverse = self.ones((pairs,), I64, "inverse permutation")
        self.t.passing(pairs * 8, op="arange")
        weighted = self.index_rows(weighted, inverse, "experts to tokens")
        final = self.sum_groups(weighted, k)
        del counts
        return self.to(final, x.dt)

    def experts_looped(
        self,
        x: Tensor,
        index: Tensor,
        weights: Tensor,
        experts: Sequence[Callable[[Tensor], Tensor]],
    ) -> Tensor:
        """The loop of transformers < 5 over expert modules, tokens spread evenly over the experts.

        Each expert's result is added in place into one tensor (``index_add_``), whose backward
        looks up the rows of the gradient again.
        """
        tokens, hidden = x.shape
        k = index.shape[-1]
        count = len(experts)
        total = self.ones((tokens, hidden), x.dt, "final_hidden_states")
        one_hot = self.ones((count, k, tokens), I64, "expert mask")
        base, more = divmod(tokens * k, count)
        for i, expert in enumerate(experts):
            rows = base + (1 if i < more else 0)
            if rows == 0:
                continue
            place = self.ones((rows,), I64, "expert slots")
            who = self.ones((rows,), I64, "expert tokens")
            state = self.index_rows(x, who, "tokens of one expert")
            scale = self.index_rows(weights.view(tokens * k, 1), who, "routing weights of one expert")
            out = self.to(self.mul(expert(state), scale), total.dt)
            total = self.index_add_(total, who, out)
            del place, who, state, scale, out
        del one_hot
        return total

    def clamp(self, x: Tensor, sides: int) -> Tensor:
        """``x.clamp(min, max)``: keeps x; backward compares it with each given side."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            masks = [new(n, "clamp backward (mask)", shape, BOOL) for _ in range(sides)]
            if sides > 1:
                masks = [new(n, "clamp backward (mask)", shape, BOOL)]
            out = new(n * dt.size, "clamp backward", shape, dt)
            del masks
            return (out,)

        return self.apply("clamp", (x,), shape, dt, bw, save=(x,))

    def subtract_max(self, x: Tensor) -> Tensor:
        """``x - x.max(-1, keepdim=True).values``: keeps the indices of the maxima."""
        t = self.t
        new, n, dt, shape = t.new, x.n, x.dt, x.shape
        small = (*shape[:-1], 1)
        top = self.apply("max", (x,), small, dt, lambda g: (new(n * dt.size, "max backward", shape, dt),))
        if top.rg:
            t.save(top.node, "max", self.ones(small, I64, "max indices"))
        else:
            t.passing(prod(small) * 8, op="max indices")
        rx, rt, m = x.rg, top.rg, top.n

        def bw(g: Storage) -> Sequence[Storage | None]:
            other = None
            if rt:
                other = new(n * dt.size, "sub backward (neg)", shape, dt)
                other = new(m * dt.size, "sub backward (sum)", small, dt)
            return g if rx else None, other

        return self.apply("sub", (x, top), shape, dt, bw)

    def clamp_(self, x: Tensor) -> Tensor:
        """``x.clamp_(min, max)``: in place; keeps a copy of what x was."""
        t = self.t
        if not t.wants_grad(x):
            return x
        new, n, dt, shape = t.new, x.n, x.dt, x.shape
        original = self.ones(shape, dt, "clamp original")

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "clamp backward", shape, dt),)

        node = t.node(bw, (x,))
        t.save(node, "clamp", original)
        return Tensor(x.st, shape, n, dt, True, node)

    def index_add_(self, total: Tensor, index: Tensor, rows: Tensor) -> Tensor:
        """``total.index_add_(0, index, rows)``: in place; backward selects the rows of the gradient."""
        t = self.t
        if not t.wants_grad(total, rows):
            return total
        new, n, dt, shape, rt, rr = t.new, rows.n, rows.dt, rows.shape, total.rg, rows.rg

        def bw(g: Storage) -> Sequence[Storage | None]:
            return g if rt else None, new(n * dt.size, "index_add backward", shape, dt) if rr else None

        node = t.node(bw, (total, rows))
        t.save(node, "index_add", index)
        return Tensor(total.st, total.shape, total.n, total.dt, True, node)


def _out_features(w: Tensor, hidden: int) -> int:
    return prod(w.shape) // w.shape[0] // hidden


__all__ = ["Fold", "MoeOps", "PlainFold"]
