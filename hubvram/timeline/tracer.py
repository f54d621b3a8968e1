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

from heapq import heappop, heappush

from hubvram.timeline.graph import (
    ACTIVATIONS,
    DROP,
    GRAD,
    GRADIENTS,
    LEAF_INDEX,
    OFF,
    OPTIMIZER,
    RECOMPUTE,
    SOLE_OWNER,
    TEMPORARY,
    WEIGHTS,
    AccumulateGrad,
    Backward,
    GatherNode,
    HeldNode,
    Node,
    Param,
    Segment,
    Storage,
    Tensor,
    owners,
    rounded,
)
from hubvram.timeline.tape import Tape

IN_PLACE = ("to", "sum of gradients", "expand backward", "efficient attention dbias")
"""Ops whose gradients of leaves are plain tensors: a later gradient is added in place."""


class Tracer(Tape):
    """Records allocations and frees, builds the graph, runs backward."""

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
        for edge, out in zip(edges, outs, strict=False):  # a backward may return fewer
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
        if owners(node) > SOLE_OWNER:
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
                if not self.info[leaf.grad.sid][0].startswith(IN_PLACE):
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


__all__ = [
    "ACTIVATIONS",
    "DROP",
    "GRAD",
    "GRADIENTS",
    "OFF",
    "OPTIMIZER",
    "RECOMPUTE",
    "TEMPORARY",
    "WEIGHTS",
    "AccumulateGrad",
    "Backward",
    "GatherNode",
    "HeldNode",
    "Node",
    "Param",
    "Segment",
    "Storage",
    "Tensor",
    "Tracer",
    "rounded",
]
