"""Element-wise ops, casts, copies and reductions, as torch 2.13's autograd treats them.

Each method says what it keeps for backward and what backward allocates; see
``tools/autograd/derivatives.yaml`` of PyTorch for the formulas.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from math import prod

from hubvram.timeline.dtypes import BF16, BOOL, F16, F32, DType, promote
from hubvram.timeline.tracer import OFF, RECOMPUTE, Backward, Storage, Tensor, Tracer


def wider(a: Tensor, b: Tensor) -> Tensor:
    """The one whose shape a broadcast of both has: more elements, or as many in more dimensions."""
    return a if (a.n, len(a.shape)) >= (b.n, len(b.shape)) else b


class OpsBase:
    """Shared state of all ops: the tracer and the facts about the run that kernels depend on."""

    def __init__(
        self,
        t: Tracer,
        *,
        training: bool = True,
        attn: str = "sdpa",
        sm: int = 80,
        torch: tuple[int, ...] = (2, 13),
        transformers: tuple[int, ...] = (5, 23),
        peft: tuple[int, ...] = (0, 21),
        bitsandbytes: tuple[int, ...] = (0, 50),
        past: int = 0,
        liger: bool = False,
        liger_mlp: bool = False,
    ) -> None:
        """``sm`` is the compute capability x 10 (80 = A100); the version tuples are the stack's.

        ``past``: tokens that the decoder's cache holds before the forward pass (prefix tuning).
        """
        self.t = t
        self.training = training
        self.attn = attn
        self.sm = sm
        self.torch = torch
        self.transformers = transformers
        self.peft = peft
        self.bitsandbytes = bitsandbytes
        self.liger = liger
        self.liger_mlp = liger_mlp
        self.past = past

    # ---- building blocks for the ops -----------------------------------

    def apply(
        self,
        op: str,
        inputs: Sequence[Tensor],
        shape: tuple[int, ...],
        dt: DType,
        bw: Backward,
        *,
        save: Sequence[Tensor | None] = (),
        save_result: bool = False,
        overwrites: bool = False,
    ) -> Tensor:
        """One recorded op: saves, allocates its output, links the graph.

        ``overwrites``: backward writes its results over the saved tensors.
        """
        t = self.t
        n = prod(shape)
        if t.mode == OFF or not any([x.rg for x in inputs]):  # noqa: C419 - faster than a generator on two or three inputs
            return Tensor(t.new(n * dt.size, op, shape, dt), shape, n, dt)
        node = None if t.mode == RECOMPUTE else t.node(bw, inputs)
        if node is not None and overwrites:
            node.overwrites = True
        if save:
            t.save(node, op, *save)
        out = Tensor(t.new(n * dt.size, op, shape, dt), shape, n, dt, True, node)
        if save_result:
            t.save(node, op, out)
        return out

    # ---- casts and copies ----------------------------------------------

    def to(self, x: Tensor, dt: DType) -> Tensor:
        """``x.to(dtype)``: nothing when it is that dtype; backward casts the gradient back."""
        if x.dt is dt:
            return x
        new, n, src, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * src.size, "to", shape, src),)

        return self.apply("to", (x,), shape, dt, bw)

    def float(self, x: Tensor) -> Tensor:
        """``x.float()``."""
        return self.to(x, F32)

    def clone(self, x: Tensor, op: str = "contiguous") -> Tensor:
        """A copy in another memory layout (``.contiguous()`` on a strided view); backward passes the gradient on."""

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (g,)

        return self.apply(op, (x,), x.shape, x.dt, bw)

    def lower(self, x: Tensor) -> Tensor:
        """autocast's cast for ops on its lower-precision list (linear, matmul, conv, sdpa)."""
        ac = self.t.autocast
        if ac is None or x.dt is ac or not x.dt.is_float:
            return x
        return self.t.cached_cast(x, lambda y: self.to(y, ac))

    def upper(self, x: Tensor) -> Tensor:
        """autocast's cast for ops on its fp32 list (softmax, layer_norm, losses, pow, ...)."""
        if self.t.autocast is None or x.dt not in (F16, BF16):
            return x
        return self.to(x, F32)

    # ---- arithmetic ----------------------------------------------------

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """``a + b`` of equal shapes (or b broadcast): saves nothing, backward hands the gradient to both."""
        dt = promote(a.dt, b.dt)
        big = wider(a, b)
        new, n, shape = self.t.new, big.n, big.shape
        ra, rb, da, db, na, nb = a.rg, b.rg, a.dt, b.dt, a.n, b.n

        def bw(g: Storage) -> Sequence[Storage | None]:
            ga: Storage | None = g if ra else None
            gb: Storage | None = g if rb else None
            if ra and (da is not dt or na != n):
                ga = new(na * da.size, "add backward", (na,), da)
            if rb and (db is not dt or nb != n):
                gb = new(nb * db.size, "add backward", (nb,), db)
            return ga, gb

        return self.apply("add", (a, b), shape, dt, bw)

    def index(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``x[..., [i], :]`` with a list: a copy; backward adds into zeros of the whole size."""
        new, n, dt, whole = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "index backward", whole, dt),)

        return self.apply("index", (x,), shape, dt, bw)

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        """``a - b``: the gradient passes to a, negated to b."""
        dt = promote(a.dt, b.dt)
        big = wider(a, b)
        new, n, shape = self.t.new, big.n, big.shape
        ra, rb, na, nb, da, db = a.rg, b.rg, a.n, b.n, a.dt, b.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            ga: Storage | None = g if ra else None
            if ra and (na != n or da is not dt):
                ga = new(na * da.size, "sub backward", (na,), da)
            gb = new(n * dt.size, "sub backward", shape, dt) if rb else None
            if rb and (nb != n or db is not dt):
                gb = new(nb * db.size, "sub backward", (nb,), db)
            return ga, gb

        return self.apply("sub", (a, b), shape, dt, bw)

    def add_(self, x: Tensor, y: Tensor) -> Tensor:
        """``x += y`` (y of x's shape or broadcast): no new tensor; the gradient goes to both."""
        ry, ny, dy, n = y.rg, y.n, y.dt, x.n
        rx, dx, new, ys = x.rg, x.dt, self.t.new, y.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            gy: Storage | None = g if ry else None
            if ry and (ny != n or dy is not dx):
                gy = new(ny * dy.size, "add backward", ys, dy)
            return (g if rx else None, gy)

        if not self.t.wants_grad(x, y):
            return x
        node = self.t.node(bw, (x, y))
        return Tensor(x.st, x.shape, x.n, x.dt, True, node)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """``a * b`` (either may be broadcast): keeps each for the other's gradient."""
        dt = promote(a.dt, b.dt)
        big = wider(a, b)
        new, n, shape, unpacked = self.t.new, big.n, big.shape, self.t.unpacked
        ra, rb, da, db, na, nb = a.rg, b.rg, a.dt, b.dt, a.n, b.n

        def bw(g: Storage) -> Sequence[Storage | None]:
            ga = new(n * dt.size, "mul backward", shape, dt) if ra else None
            gb = new(n * dt.size, "mul backward", shape, dt) if rb else None
            unpacked()
            if ra and (na != n or da is not dt):  # reduced or cast to the input's own shape and dtype
                ga = new(na * da.size, "mul backward", (na,), da)
            if rb and (nb != n or db is not dt):
                gb = new(nb * db.size, "mul backward", (nb,), db)
            return ga, gb

        return self.apply("mul", (a, b), shape, dt, bw, save=(a if rb else None, b if ra else None))

    def scale(self, x: Tensor, op: str = "mul scalar") -> Tensor:
        """``x * number`` (also ``/``, unary minus): saves nothing, backward allocates the scaled gradient."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, op + " backward", shape, dt),)

        return self.apply(op, (x,), shape, dt, bw)

    def scale_(self, x: Tensor) -> Tensor:
        """``x /= number``: in x's own memory; backward allocates the scaled gradient."""
        if not self.t.wants_grad(x):
            return Tensor(x.st, x.shape, x.n, x.dt)
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape
        node = self.t.node(lambda g: (new(n * dt.size, "scale_ backward", shape, dt),), (x,))
        return Tensor(x.st, shape, n, dt, True, node)

    def add_scalar(self, x: Tensor) -> Tensor:
        """``x + number``: a new tensor, the gradient passes through."""

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (g,)

        return self.apply("add scalar", (x,), x.shape, x.dt, bw)

    def pow(self, x: Tensor) -> Tensor:
        """``x.pow(2)`` / ``x ** 3``: keeps x; backward makes e * x^(e-1) and the product. fp32 under autocast."""
        x = self.upper(x)
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            # grad * (e * x.pow(e - 1)): the C++ temporaries live to the end of the expression
            power = new(n * dt.size, "pow backward", shape, dt)
            scaled = new(n * dt.size, "pow backward", shape, dt)
            out = new(n * dt.size, "pow backward", shape, dt)
            del power, scaled
            return (out,)

        return self.apply("pow", (x,), shape, dt, bw, save=(x,))

    def mean_last(self, x: Tensor) -> Tensor:
        """``x.mean(-1, keepdim=True)``: backward expands the gradient (a view) and divides (a tensor)."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "mean backward", shape, dt),)

        return self.apply("mean", (x,), (*shape[:-1], 1), dt, bw)

    def rsqrt(self, x: Tensor) -> Tensor:
        """``torch.rsqrt``: keeps its result; backward makes result^3 and two products."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "rsqrt backward", shape, dt),)

        return self.apply("rsqrt", (x,), shape, dt, bw, save_result=True)

    def unary(self, op: str, x: Tensor, *, keeps: str = "input", passing: int = 0) -> Tensor:
        """A point-wise function with a derivative kernel of its own.

        Args:
            op: the function's name.
            x: its input.
            keeps: ``input``, ``result`` or ``both``: what its derivative needs.
            passing: further tensors of the same size its backward makes in passing.
        """
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            held = [new(n * dt.size, op + " backward", shape, dt) for _ in range(passing)]
            out = new(n * dt.size, op + " backward", shape, dt)
            del held
            return (out,)

        save = (x,) if keeps in ("input", "both") else ()
        return self.apply(op, (x,), shape, dt, bw, save=save, save_result=keeps in ("result", "both"))

    def dropout(self, x: Tensor, p: builtins.float) -> Tensor:
        """``native_dropout``: a new tensor and a 1-byte mask, which is kept. p = 0 or evaluation: x itself."""
        if p <= 0.0 or not self.training:
            return x
        t = self.t
        new, n, dt, shape = t.new, x.n, x.dt, x.shape
        if not t.wants_grad(x):
            return self.apply("dropout", (x,), shape, dt, lambda g: (g,))

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "dropout backward", shape, dt),)

        out = self.apply("dropout", (x,), shape, dt, bw)
        mask = Tensor(new(n, "dropout mask", shape, BOOL), shape, n, BOOL)
        t.save(out.node, "dropout", mask)
        return out

    def mix(self, x: Tensor, others: Sequence[Tensor]) -> Tensor:
        """An op nobody has described, from ``x`` and ``others`` to x's shape: backward makes every gradient."""
        new, size, shape, dt = self.t.new, x.n * x.dt.size, x.shape, x.dt
        rx = x.rg
        more = [(o.rg, o.n * o.dt.size, o.shape, o.dt) for o in others]

        def bw(g: Storage) -> Sequence[Storage | None]:
            grads = [new(n, "unknown op backward", s, d) if rg else None for rg, n, s, d in more]
            return (new(size, "unknown op backward", shape, dt) if rx else None, *grads)

        return self.apply("unknown op", (x, *others), shape, dt, bw)

    # ---- shape ---------------------------------------------------------

    def cat(self, parts: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        """``torch.cat``: a new tensor; backward gives each part a view of the gradient."""
        dt = parts[0].dt
        for p in parts[1:]:
            dt = promote(dt, p.dt)
        wants = [p.rg for p in parts]

        def bw(g: Storage) -> Sequence[Storage | None]:
            return tuple([g if w else None for w in wants])

        return self.apply("cat", parts, shape, dt, bw)

    def split(self, x: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """``x.split`` / ``chunk``: views; backward joins the parts' gradients in one new tensor.

        The joining node waits for the gradients of all parts.
        """
        t = self.t
        if not t.wants_grad(x) or t.mode == RECOMPUTE:
            rg = t.wants_grad(x)
            return [Tensor(x.st, s, prod(s), x.dt, rg) for s in shapes]
        new, n, dt, shape = t.new, x.n, x.dt, x.shape
        nodes = t.gather(lambda g: (new(n * dt.size, "split backward", shape, dt),), x, len(shapes))
        return [Tensor(x.st, s, prod(s), x.dt, True, node) for s, node in zip(shapes, nodes, strict=True)]

    def slice(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A slice, select or index that is a view; backward makes a zero tensor of the whole size."""
        t = self.t
        if not t.wants_grad(x):
            return Tensor(x.st, shape, prod(shape), x.dt)
        new, n, dt, whole = t.new, x.n, x.dt, x.shape
        node = t.node(lambda g: (new(n * dt.size, "slice backward", whole, dt),), (x,))
        return Tensor(x.st, shape, prod(shape), x.dt, True, node)

    def expand(self, x: Tensor, shape: tuple[int, ...], op: str = "repeat_kv") -> Tensor:
        """``x.expand(...).reshape(...)``: a new tensor of the larger shape; backward sums back."""
        new, n, dt, small = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, op + " backward", small, dt),)

        return self.apply(op, (x,), shape, dt, bw)
