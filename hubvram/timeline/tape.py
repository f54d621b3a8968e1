"""The recording half of the tracer: allocations, the graph, autocast, checkpointing, repetition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any
from weakref import ref

from hubvram.timeline.dtypes import F32, DType
from hubvram.timeline.graph import (
    ACTIVATIONS,
    DROP,
    GRAD,
    LEAF_INDEX,
    OFF,
    RECOMPUTE,
    TEMPORARY,
    Backward,
    Frame,
    GatherNode,
    Node,
    Param,
    Segment,
    StopRecompute,
    Storage,
    Tensor,
    pass_on,
)


class Tape:
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
        self._carried: list[tuple[int, ref[Storage]]] = []

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
            nodes.append(Node(idx, pass_on, (joined,)))
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
                    raise StopRecompute
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
        except StopRecompute:
            pass
        finally:
            self.mode, self._frame, self.scope, self._next_holder, self._packs = saved

    def repeat(self, m: int, label: str, body: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
        """Run ``body`` once as one of ``m`` equal copies; returns what it hands on."""
        carried, self._carried = self._carried, []
        segment = Segment(m, len(self.log), len(self.sizes), label)
        first = self._idx + 1
        out = body()
        segment.end, segment.sid_end = len(self.log), len(self.sizes)
        while carried:  # the last first: taking one back moves only what came after it
            at, made = carried.pop()
            stand_in = made()
            if stand_in is not None:
                self._same(at, stand_in, segment)
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
            self._carried.append((len(self.log) - 1, ref(st)))
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
        """``x``, handed out by the last copy of a stretch, goes to other stretches, whose copies share it."""
        if x.st is not None and x.st.sid in self.single:
            self.single.discard(x.st.sid)
            self.mult[x.st.sid] = 1
