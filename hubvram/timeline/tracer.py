"""A small autograd on tensors without data: what PyTorch would allocate and free, in order.

The description of a model (``architecture/families``) is run like PyTorch code:
ops make `Tensor`s, tensors own `Storage`s, graph `Node`s own what autograd
saves for backward. Lifetimes are those of the Python references, exactly as in
PyTorch, where a storage is freed when its last reference goes: every
allocation and every free is one entry of `Tracer.log`. Nothing here knows
about models, methods or optimizers.

This relies on CPython's reference counting (as PyTorch's memory behaviour
does). Rules for code that runs under the tracer: backward closures capture
numbers and flags, never tensors; nothing may form a reference cycle; a function
must not depend on freeing its own arguments early.

Repeated layers are traced once. `Tracer.repeat` marks the forward part of the
log (and, when backward passes through its nodes, the backward part) as
standing for ``m`` equal copies; `peak.py` multiplies.

Sources: torch 2.13 ``autograd/engine.cpp`` (ready queue by sequence number),
``input_buffer.cpp`` (in-place accumulation when the buffer is the only owner),
``accumulate_grad.h`` (stealing), ``utils/checkpoint.py`` (non-reentrant
checkpointing with early stop), ``aten/src/ATen/autocast_mode.cpp`` (weight cache).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from math import prod
from sys import getrefcount
from typing import Any
from weakref import ref

from hubvram.timeline.dtypes import F32, DType

# What a storage is, for the breakdown.
WEIGHTS, GRADIENTS, OPTIMIZER, ACTIVATIONS, TEMPORARY = range(5)

# How ops treat autograd.
GRAD = 0  # build the graph, keep what is saved
DROP = 1  # inside a checkpointed layer: build the graph, keep nothing, count what would be saved
RECOMPUTE = 2  # the second run of a checkpointed layer: no graph, hand the saved storages to the first run's nodes
OFF = 3  # torch.no_grad()

ALLOC_ROUND = 512  # bytes; CUDACachingAllocator kMinBlockSize

LEAF_INDEX = 1 << 62  # sequence number of AccumulateGrad nodes: run at once when ready

Backward = Callable[["Storage"], Sequence["Storage | None"]]


class Storage:
    """One allocation. Its ``__del__`` is the free."""

    __slots__ = ("__weakref__", "also", "log", "sid")

    def __init__(self, sid: int, log: list[int]) -> None:
        """Remember the id and the log to write the free to."""
        self.sid = sid
        self.log = log
        self.also: Storage | None = None
        """Another storage that this one keeps alive (see `Tracer.carry`)."""

    def __del__(self) -> None:
        """Freed: the last reference is gone."""
        self.log.append(~self.sid)


class Tensor:
    """A view of a storage: shape and dtype, and its place in the graph."""

    __slots__ = ("__weakref__", "dt", "n", "node", "rg", "shape", "st")

    def __init__(
        self,
        st: Storage | None,
        shape: tuple[int, ...],
        n: int,
        dt: DType,
        rg: bool = False,
        node: Node | None = None,
    ) -> None:
        """``n`` is the number of elements of the view; ``rg`` is requires_grad."""
        self.st = st
        self.shape = shape
        self.n = n
        self.dt = dt
        self.rg = rg
        self.node = node

    def view(self, *shape: int) -> Tensor:
        """Same storage, other shape; one side may be -1."""
        if -1 in shape:
            known = prod(s for s in shape if s != -1)
            shape = tuple(self.n // known if s == -1 else s for s in shape)
        return Tensor(self.st, shape, self.n, self.dt, self.rg, self.node)

    def narrow(self, *shape: int) -> Tensor:
        """A smaller view of the same storage (slice, select, split).

        The gradient of a slice is padded to the whole; where that costs
        memory, use `Ops.split`.
        """
        return Tensor(self.st, shape, prod(shape), self.dt, self.rg, self.node)

    def detach(self) -> Tensor:
        """Same storage, outside the graph."""
        return Tensor(self.st, self.shape, self.n, self.dt)


class Param(Tensor):
    """A weight. Its own memory is accounted for by the plan, not by a storage here."""

    __slots__ = ("count", "grad", "name")

    def __init__(self, name: str, shape: tuple[int, ...], dt: DType, trainable: bool, count: int = 1) -> None:
        """``count`` is how many equal ones there are (layers); 0: no weight, but a leaf of the graph all the same."""
        super().__init__(None, shape, prod(shape), dt, trainable, None)
        self.name = name
        self.count = count
        self.grad: Storage | None = None
        if trainable:
            self.node = AccumulateGrad(self)

    def nbytes(self) -> int:
        """Bytes of one copy after the allocator's rounding."""
        return rounded(self.n * self.dt.size)


class Node:
    """One step of the graph: gradients of the inputs from the gradient of the output."""

    __slots__ = ("bw", "edges", "frame", "grad", "idx", "kept", "overwrites", "saved")

    def __init__(self, idx: int, bw: Backward, edges: tuple[Node | None, ...]) -> None:
        """``edges`` are the nodes of the inputs, None where no gradient is wanted."""
        self.idx = idx
        self.bw = bw
        self.edges = edges
        self.saved: Any = None
        self.kept: Any = None
        self.overwrites = False
        """Backward writes its results over what was saved: that goes first."""
        self.frame: Frame | None = None
        self.grad: Storage | None = None


class GatherNode(Node):
    """A node with several outputs (split): holds one gradient for each until it runs."""

    __slots__ = ("parts",)

    def __init__(self, idx: int, bw: Backward, edges: tuple[Node | None, ...]) -> None:
        """``bw`` gets the first part's gradient; the rest are held beside it."""
        super().__init__(idx, bw, edges)
        self.parts: list[Storage] = []


class HeldNode(Node):
    """A node outside a repeated stretch that stands for one node per copy (a layer's prefix).

    The gradients that wait in it are one per copy.
    """

    __slots__ = ()


class AccumulateGrad(Node):
    """The end of the graph at a trainable weight."""

    __slots__ = ("expected", "param_ref")

    def __init__(self, param: Param) -> None:
        """Points back by weak reference: a strong one would be a cycle."""
        import weakref

        super().__init__(LEAF_INDEX, _no_backward, ())
        self.param_ref = weakref.ref(param)
        self.expected = 0


class Frame:
    """A checkpointed call: its inputs, and the saved-tensor holders of its nodes."""

    __slots__ = ("args", "autocast", "done", "fn", "holders", "packs")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], autocast: DType | None) -> None:
        """Keeps ``args`` alive, as torch's input saver does."""
        self.fn = fn
        self.args = args
        self.autocast = autocast
        self.packs = 0
        self.holders: list[list[Storage | None]] = []
        self.done = False


class _StopRecompute(Exception):
    """The last saved tensor has been recomputed (torch's early stop)."""


class Segment:
    """A stretch of the log that stands for ``m`` equal copies."""

    __slots__ = ("end", "forward", "label", "m", "sid_end", "sid_start", "start")

    def __init__(self, m: int, start: int, sid_start: int, label: str, forward: Segment | None = None) -> None:
        """Opened at log position ``start``; ``forward`` is the forward part of a backward segment."""
        self.forward = forward
        self.m = m
        self.start = start
        self.sid_start = sid_start
        self.end = -1
        self.sid_end = -1
        self.label = label


def rounded(nbytes: int) -> int:
    """Bytes the CUDA caching allocator counts for a request."""
    return (nbytes + (ALLOC_ROUND - 1)) // ALLOC_ROUND * ALLOC_ROUND if nbytes > 0 else 0


def _pass_on(grad: Storage) -> Sequence[Storage | None]:
    return (grad,)


def _no_backward(grad: Storage) -> Sequence[Storage | None]:
    raise AssertionError("AccumulateGrad has no backward function")


def _owners(node: Node) -> int:
    return getrefcount(node.grad)


def _sole_owner() -> int:
    probe = Node(0, _no_backward, ())
    probe.grad = Storage(0, [])
    return _owners(probe)


_SOLE = _sole_owner()
"""What `_owners` says when the node's buffer is the only reference (differs between Python versions)."""


class Tracer:
    """Records allocations and frees, builds the graph, runs backward."""

    def __init__(self, *, explain: bool = False) -> None:
        """``explain`` also records which op keeps each storage."""
        self.log: list[int] = []
        self.sizes: list[int] = []
        self.cats: list[int] = []
        self.info: list[tuple[str, str, tuple[int, ...], DType]] = []
        self.kept_by: dict[int, list[str]] | None = {} if explain else None
        self.single: set[int] = set()
        """Storages born in a repeated segment that exist once all the same (what one copy hands to the next)."""
        self.held: set[int] = set()
        """Storages made by `hold`: weights, states, workspaces."""
        self.mult: dict[int, int] = {}
        """Storages born outside segments that stand for several."""
        self.segments: list[Segment] = []
        self.phases: list[tuple[str, int]] = []
        self.mode = GRAD
        self.cat = ACTIVATIONS
        self.scope = ""
        self.autocast: DType | None = None
        self.shares = [1, 1, 1, 1, 1]
        """Per category: over how many GPUs what `hold` makes is spread."""
        self.accumulates = False
        """Gradients of weights exist already (an earlier micro step) and take new ones in place."""
        self.lingering: list[Storage | None] | None = None
        """Where a wrapper keeps what backward would free (see `Sharding.keeps_inputs`); None: nowhere."""
        self.grad_share: tuple[int, int] = (1, 1)
        """What a weight's gradient becomes once it is whole: bytes times the first over the second (sharding)."""
        self.on_gradient: Callable[[Param], None] | None = None
        """Called when a weight's gradient is whole, after the node that made it has let go (post-accumulate hooks)."""
        self._whole: list[Param] = []
        self._cache: dict[int, Tensor] = {}
        self._frame: Frame | None = None
        self._idx = 0
        self._ranges: list[tuple[int, int, Segment]] = []
        self._now: Node | None = None
        self._carried: tuple[int, ref[Storage]] | None = None

    # ---- memory -------------------------------------------------------

    def new(self, nbytes: int, op: str, shape: tuple[int, ...] = (), dt: DType = F32) -> Storage | None:
        """Allocate; None for zero bytes."""
        if nbytes <= 0:
            return None
        sizes = self.sizes
        sid = len(sizes)
        sizes.append((nbytes + 511) & -512)
        self.cats.append(self.cat)
        self.info.append((op, self.scope, shape, dt))
        log = self.log
        log.append(sid)
        return Storage(sid, log)

    def passing(self, *nbytes: int, op: str) -> None:
        """Buffers that live only inside one kernel call, all at once."""
        held = [self.new(n, op) for n in nbytes]
        del held

    def tensor(self, shape: tuple[int, ...], dt: DType, op: str) -> Tensor:
        """A new tensor outside the graph."""
        n = prod(shape)
        return Tensor(self.new(n * dt.size, op, shape, dt), shape, n, dt)

    def hold(self, nbytes: int, count: int, cat: int, op: str, shape: tuple[int, ...], dt: DType) -> Storage | None:
        """One storage that stands for ``count`` equal ones, of a given category."""
        before, self.cat = self.cat, cat
        st = self.new(-(-nbytes // self.shares[cat]), op, shape, dt)
        self.cat = before
        if st is not None:
            self.held.add(st.sid)
            if count != 1:
                self.mult[st.sid] = count
        return st

    def phase(self, name: str) -> None:
        """Start a phase: load, forward, backward, optimizer."""
        self.phases.append((name, len(self.log)))
        self.cat = ACTIVATIONS if name == "forward" else TEMPORARY

    # ---- graph --------------------------------------------------------

    def node(self, bw: Backward, inputs: Sequence[Tensor]) -> Node | None:
        """A node over ``inputs``; None when recomputing (the first run's nodes serve)."""
        if self.mode == RECOMPUTE:
            return None
        edges = tuple([t.node if t.rg else None for t in inputs])
        for e in edges:
            if e is not None and e.idx == LEAF_INDEX:
                e.expected += 1  # type: ignore[attr-defined]  # only AccumulateGrad has LEAF_INDEX
        self._idx = idx = self._idx + 1
        return Node(idx, bw, edges)

    def gather(self, bw: Backward, x: Tensor, parts: int) -> list[Node]:
        """The graph of a split of ``x``: one node per part, all feeding one that joins the gradients."""
        self._idx = idx = self._idx + 1
        joined = GatherNode(idx, bw, (x.node,))
        if x.node is not None and x.node.idx == LEAF_INDEX:
            x.node.expected += 1  # type: ignore[attr-defined]  # only AccumulateGrad has LEAF_INDEX
        nodes = []
        for _ in range(parts):
            self._idx = idx = self._idx + 1
            nodes.append(Node(idx, _pass_on, (joined,)))
        return nodes

    def save(self, node: Node | None, op: str, *tensors: Tensor | None) -> None:
        """Keep ``tensors`` for ``node``'s backward. Weights count, but keep nothing alive.

        Call before the op allocates its output for saved inputs, after for
        saved results, as PyTorch's generated code does: it decides where a
        recomputation stops.
        """
        kept = [t for t in tensors if t is not None]
        if not kept:
            return
        mode = self.mode
        if mode == GRAD:
            if node is not None:
                more = [t.st for t in kept]
                node.saved = more if node.saved is None else node.saved + more
        elif mode == DROP:
            frame = self._frame
            if node is not None and frame is not None:
                frame.packs += len(kept)
                holder: list[Storage | None] = []
                frame.holders.append(holder)
                node.frame = frame
                node.saved = [holder] if node.saved is None else [*node.saved, holder]
            return
        elif mode == RECOMPUTE:
            frame = self._frame
            if frame is not None:
                frame.holders[self._next_holder].extend([t.st for t in kept])
                self._next_holder += 1
                self._packs += len(kept)
                if self._packs >= frame.packs:
                    if self.kept_by is not None:
                        self._note(kept, op)
                    raise _StopRecompute
        if self.kept_by is not None:
            self._note(kept, op)

    def attach(self, node: Node | None, op: str, *tensors: Tensor) -> None:
        """Tensors a Python autograd function keeps as plain attributes of its context.

        Checkpointing does not see them: they stay from the first forward pass on.
        """
        if node is not None:
            node.kept = [t.st for t in tensors]
            if self.kept_by is not None:
                self._note(tensors, op)

    def _note(self, kept: Sequence[Tensor], op: str) -> None:
        notes = self.kept_by
        if notes is None:
            return
        label = f"{self.scope}.{op}" if self.scope else op
        for t in kept:
            if t.st is not None:
                users = notes.setdefault(t.st.sid, [])
                if label not in users:
                    users.append(label)

    def wants_grad(self, *inputs: Tensor) -> bool:
        """Whether an op on these inputs is recorded."""
        if self.mode == OFF:
            return False
        return any(t.rg for t in inputs)

    # ---- autocast -----------------------------------------------------

    def cached_cast(self, t: Tensor, cast: Callable[[Tensor], Tensor]) -> Tensor:
        """autocast's cast: trainable fp32 weights once per region, anything else at every call."""
        if not (isinstance(t, Param) and t.rg and t.dt is F32):
            return cast(t)
        hit = self._cache.get(id(t))
        if hit is None:
            hit = self._cache[id(t)] = cast(t)
        return hit

    @contextmanager
    def autocasting(self, dt: DType | None) -> Iterator[None]:
        """torch.autocast: the weight cache is dropped when the outermost region ends."""
        before, cache = self.autocast, self._cache
        self.autocast, self._cache = dt, ({} if before is None else cache)
        try:
            yield
        finally:
            self.autocast, self._cache = before, cache

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """torch.no_grad()."""
        before, self.mode = self.mode, OFF
        try:
            yield
        finally:
            self.mode = before

    # ---- checkpointing and repetition ---------------------------------

    def checkpoint(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Non-reentrant checkpointing of ``fn(*args)``."""
        if self.mode != GRAD:
            return fn(*args)
        frame = Frame(fn, args, self.autocast)
        self.mode, self._frame = DROP, frame
        try:
            return fn(*args)
        finally:
            self.mode, self._frame = GRAD, None

    _next_holder = 0
    _packs = 0

    def _recompute(self, frame: Frame) -> None:
        frame.done = True
        if self.lingering is not None:
            for arg in frame.args:
                if isinstance(arg, Tensor) and arg.st is not None:
                    size = self.sizes[arg.st.sid]
                    self.lingering.append(self.new(size, "layer input kept by FSDP's hooks", arg.shape, arg.dt))
                    self.lingering.append(self.new(size, "its gradient kept by FSDP's hooks", arg.shape, arg.dt))
        saved = self.mode, self._frame, self.scope, self._next_holder, self._packs
        self.mode, self._frame, self._next_holder, self._packs = RECOMPUTE, frame, 0, 0
        try:
            with self.autocasting(frame.autocast):
                frame.fn(*frame.args)
        except _StopRecompute:
            pass
        finally:
            self.mode, self._frame, self.scope, self._next_holder, self._packs = saved

    def repeat(self, m: int, label: str, body: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
        """Run ``body`` once as one of ``m`` equal copies; returns what it hands on."""
        carried, self._carried = self._carried, None
        segment = Segment(m, len(self.log), len(self.sizes), label)
        first = self._idx + 1
        out = body()
        segment.end, segment.sid_end = len(self.log), len(self.sizes)
        stand_in = carried[1]() if carried is not None else None
        if carried is not None and stand_in is not None:
            self._same(carried[0], stand_in, segment)
            del stand_in
        self.segments.append(segment)
        for t in out:
            if t.st is not None:
                self.single.add(t.st.sid)
        self._ranges.append((first, self._idx, segment))
        return out

    def carry(self, x: Tensor, *, kept: bool) -> Tensor:
        """``x`` as the input of a repeated stretch; ``kept``: the caller keeps ``x`` itself alive.

        The copies after the first free their input, which is the output of the
        copy before; where the caller keeps the first input, a stand-in of the
        same size lets the traced copy do so too. If the layer turns out to save
        its input, the stand-in was not needed: `repeat` takes it back.
        """
        if x.st is None:
            return x
        if not kept:
            self.single.add(x.st.sid)
            return x
        op, _, shape, dt = self.info[x.st.sid]
        st = self.new(self.sizes[x.st.sid], op, shape, dt)
        if st is not None:
            self.single.add(st.sid)
            st.also = x.st
            self._carried = (len(self.log) - 1, ref(st))
        return Tensor(st, x.shape, x.n, x.dt, x.rg, x.node)

    def _same(self, at: int, stand_in: Storage, segment: Segment) -> None:
        """Make a stand-in (allocated at log position ``at``) and what it stands for one storage."""
        original = stand_in.also
        if original is None:
            return
        stand_in.log = []
        del self.log[at]
        segment.start -= 1
        segment.end -= 1
        self.single.add(original.sid)
        if self.kept_by is not None and stand_in.sid in self.kept_by:
            self.kept_by.setdefault(original.sid, []).extend(self.kept_by.pop(stand_in.sid))

    def release(self, kept: list[Tensor]) -> None:
        """Let go of what every copy of a repeated stretch handed on and the caller kept: each copy's is freed."""
        at = len(self.log)
        kept.clear()
        for entry in self.log[at:]:
            if entry < 0:
                self.single.discard(~entry)

    def settle(self, x: Tensor) -> None:
        """``x``, handed out by the last copy of a stretch, goes to other stretches: all their copies share the one tensor."""
        if x.st is not None and x.st.sid in self.single:
            self.single.discard(x.st.sid)
            self.mult[x.st.sid] = 1

    # ---- backward -----------------------------------------------------

    def backward(self, loss: Tensor) -> None:
        """Run the graph from ``loss``; gradients of weights end in `Param.grad`."""
        node = loss.node
        if node is None:
            return
        node.grad = self.new(loss.n * loss.dt.size, "ones_like", loss.shape, loss.dt)
        heap: list[tuple[int, Node]] = [(-node.idx, node)]
        self._pending = heap
        del node
        self._late: list[AccumulateGrad] = []
        self._copies = 1
        ranges = self._ranges
        at = len(ranges) - 1
        segment: Segment | None = None
        while heap:
            idx = -heap[0][0]
            while at >= 0 and idx < ranges[at][0]:
                if segment is not None:
                    self._close(segment)
                    segment = None
                at -= 1
            if segment is None and at >= 0 and idx <= ranges[at][1] and ranges[at][2].m > 1:
                forward = ranges[at][2]
                segment = Segment(forward.m, len(self.log), len(self.sizes), forward.label, forward)
                self._copies = forward.m
                self._hand_on(heap)
            current = heappop(heap)[1]
            self._step(current, heap)
            del current
            if self._whole:
                self._notify()
        if segment is not None:
            self._close(segment)
        if self._whole:
            self._notify()

    def _notify(self) -> None:
        """Hand whole gradients to the hook, in the order in which they came."""
        whole, self._whole = self._whole, []
        hook = self.on_gradient
        if hook is not None:
            for param in whole:
                hook(param)

    def _close(self, segment: Segment) -> None:
        segment.end, segment.sid_end = len(self.log), len(self.sizes)
        self.segments.append(segment)
        self._hand_on(self._pending)
        self._copies = 1
        for leaf in self._late:  # the one buffer into which all copies add
            param = leaf.param_ref()
            if param is not None:
                leaf.grad = self.new(param.n * param.dt.size, "grad of " + param.name, param.shape, param.dt)
                self._finish(leaf)
        self._late.clear()

    def _hand_on(self, heap: list[tuple[int, Node]]) -> None:
        """Gradients on their way from one copy to the next exist once."""
        for _, node in heap:
            if node.grad is not None and node.__class__ is not HeldNode:
                self.single.add(node.grad.sid)

    def _step(self, node: Node, heap: list[tuple[int, Node]]) -> None:
        frame = node.frame
        if frame is not None:
            if not frame.done:
                self._recompute(frame)
            del frame
        grad, node.grad = node.grad, None
        assert grad is not None  # noqa: S101 - a node is queued only when a gradient has arrived
        if node.overwrites:
            self._release(node)
        self._now = node
        outs = node.bw(grad)
        self._now = None
        del grad
        if node.__class__ is GatherNode:
            node.parts.clear()
        self._release(node)
        edges, node.edges = node.edges, ()
        for edge, out in zip(edges, outs):
            if edge is None:
                continue
            if edge.idx == LEAF_INDEX:
                self._arrive(edge, out)  # type: ignore[arg-type]
            elif out is not None:
                if edge.grad is None:
                    edge.grad = out
                    heappush(heap, (-edge.idx, edge))
                elif edge.__class__ is GatherNode:
                    edge.parts.append(out)
                else:
                    self._add(edge, out)

    def unpacked(self) -> None:
        """For a backward rule, between the derivative and the engine's casts and sums of its results.

        A recomputed tensor is a temporary of the derivative's own call and goes there;
        one that was saved goes when the node is done.
        """
        node = self._now
        if node is not None and node.frame is not None:
            for holder in node.saved:
                holder.clear()

    @staticmethod
    def _release(node: Node) -> None:
        if node.frame is not None:
            for holder in node.saved:
                holder.clear()
            node.frame = None
        node.saved = node.kept = None

    def _add(self, node: Node, more: Storage) -> None:
        """InputBuffer::accumulate: in place when nothing else holds the buffer."""
        if node.grad is more:
            return
        if _owners(node) > _SOLE:
            have = node.grad
            if have is not None:
                size, (op, _, shape, dt) = self.sizes[have.sid], self.info[have.sid]
                node.grad = self.new(size, "add gradients of " + op, shape, dt)

    def _arrive(self, leaf: AccumulateGrad, grad: Storage | None) -> None:
        leaf.expected -= 1
        if grad is not None and self._copies > 1 and self._shared(leaf):
            if leaf.grad is not None:
                self._finish(leaf)
            elif leaf not in self._late:
                self._late.append(leaf)
            return
        if grad is not None:
            if leaf.grad is None:
                leaf.grad = grad
            else:
                # A weight used twice (tied head). A product's gradient is a transposed view of its
                # buffer and the sum is made out of place; a cast's or an earlier sum takes it in place.
                size, (op, _, shape, dt) = self.sizes[grad.sid], self.info[grad.sid]
                if not self.info[leaf.grad.sid][0].startswith(("to", "sum of gradients", "expand backward")):
                    leaf.grad = self.new(size, "sum of gradients of " + op, shape, dt)
        self._finish(leaf)

    @staticmethod
    def _shared(leaf: AccumulateGrad) -> bool:
        """Whether a weight used inside a repeated stretch is one for all copies."""
        param = leaf.param_ref()
        return param is not None and param.count == 1

    def _finish(self, leaf: AccumulateGrad) -> None:
        if leaf.expected > 0:
            return
        param = leaf.param_ref()
        buffer, leaf.grad = leaf.grad, None
        if param is None or buffer is None or self.accumulates:
            return
        if param.count == 0:  # no weight: a constant that was made to require a gradient keeps it
            param.grad = buffer
            return
        if param.grad is None:
            more, over = self.grad_share
            if more != over:  # reduce-scatter: the whole gradient goes, this rank's share stays
                op, _, shape, dt = self.info[buffer.sid]
                share = self.new(-(-self.sizes[buffer.sid] * more // over), op + " (share)", shape, dt)
                if share is None:
                    return
                buffer = share
            param.grad = buffer
            self.cats[buffer.sid] = GRADIENTS
            if self.on_gradient is not None:
                self._whole.append(param)
