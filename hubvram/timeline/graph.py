"""Storages, tensors without data, and the nodes of the autograd graph.

Sources: torch 2.13 ``autograd/function.h`` and ``accumulate_grad.h`` (nodes),
``utils/checkpoint.py`` (frames), ``c10/cuda/CUDACachingAllocator.cpp`` (rounding).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from sys import getrefcount
from typing import Any

from hubvram.timeline.dtypes import DType

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

        super().__init__(LEAF_INDEX, no_backward, ())
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


class StopRecompute(Exception):  # noqa: N818 - a signal, as torch names it
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


def pass_on(grad: Storage) -> Sequence[Storage | None]:
    """Backward of a view: the gradient as it is."""
    return (grad,)


def no_backward(grad: Storage) -> Sequence[Storage | None]:
    """Backward of a node that is never run."""
    raise AssertionError("AccumulateGrad has no backward function")


def owners(node: Node) -> int:
    """References to a node's gradient buffer, as this Python counts them."""
    return getrefcount(node.grad)


def _sole_owner() -> int:
    probe = Node(0, no_backward, ())
    probe.grad = Storage(0, [])
    return owners(probe)


SOLE_OWNER = _sole_owner()
"""What `owners` says when the node's buffer is the only reference (differs between Python versions)."""
