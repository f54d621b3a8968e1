"""What an optimizer is to the planner: its states, and what one step makes in passing.

A step is written as the real one is, on tensors without data: `Scratch` makes
them, Python references free them. A loop over parameters therefore has the
peak that the real loop has, with the locals that the previous parameter left
behind; a ``foreach`` step makes lists over all parameters at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hubvram.timeline.dtypes import DType
from hubvram.timeline.tracer import TEMPORARY, Storage, Tracer, rounded


@dataclass(frozen=True, slots=True)
class Trained:
    """One trained parameter as an optimizer sees it, and how many equal ones there are."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    """dtype it is trained in (that of its gradient)."""
    count: int = 1
    kind: str = ""
    """``embedding``, ``linear`` (inside the layers), ``head`` (a linear layer that gives logits) or empty."""

    @property
    def n(self) -> int:
        """Elements."""
        n = 1
        for side in self.shape:
            n *= side
        return n


class Scratch:
    """Makes the tensors of an optimizer step."""

    __slots__ = ("part", "release", "tracer")

    def __init__(self, tracer: Tracer, part: int = 1, release: Callable[[], None] = lambda: None) -> None:
        """``part``: over how many GPUs what the optimizer works on is spread; ``release`` drops all gradients."""
        self.tracer = tracer
        self.part = part
        self.release = release

    def tensor(self, n: int, dtype: DType, what: str) -> Storage | None:
        """One tensor of ``n`` elements; lives as long as the reference."""
        return self.tracer.new(-(-n * dtype.size // self.part), what, (n,), dtype)

    def like(self, p: Trained, what: str, dtype: DType | None = None) -> Storage | None:
        """A tensor of a parameter's shape."""
        return self.tensor(p.n, dtype or p.dtype, f"{what} of {p.name}")

    def each(self, params: Sequence[Trained], what: str, dtype: DType | None = None) -> list[Storage | None]:
        """One tensor for every parameter (a foreach operation's result)."""
        hold = self.tracer.hold
        out = []
        for p in params:
            dt = dtype or p.dtype
            out.append(hold(-(-p.n * dt.size // self.part), p.count, TEMPORARY, f"{what} of {p.name}", p.shape, dt))
        return out


States = Callable[[Trained], Sequence[int]]
"""Bytes of each state tensor of one parameter, unrounded."""

Step = Callable[[Scratch, Sequence[Trained]], None]
"""One optimizer step over all parameters (`sequence` unrolls equal layers for loops)."""


def no_states(p: Trained) -> Sequence[int]:
    """Keeps nothing."""
    return ()


def no_temporaries(m: Scratch, params: Sequence[Trained]) -> None:
    """Works in place, in one kernel per parameter or per list."""


def like_parameter(count: int, *more: int) -> States:
    """``count`` states in the parameter's shape and dtype, and some of fixed size."""

    def states(p: Trained) -> Sequence[int]:
        return (*[p.n * p.dtype.size] * count, *more)

    return states


def foreach(*whats: str) -> Step:
    """A foreach step that holds these lists over all parameters at its highest."""

    def step(m: Scratch, params: Sequence[Trained]) -> None:
        held = [m.each(params, what) for what in whats]
        del held

    return step


@dataclass(frozen=True, slots=True)
class Optimizer:
    """A catalogue entry."""

    name: str
    states: States
    per_parameter: str
    """Bytes per parameter, for people: states, and what a step makes."""
    source: str
    aliases: tuple[str, ...] = ()
    step: Step = no_temporaries
    shared: tuple[int, ...] = ()
    """Bytes of tensors that exist once for all parameters (code tables)."""
    paged: bool = False
    """States of parameters of at least 100,000 elements live in managed memory, which is the host's."""
    in_backward: bool = False
    """Parameters are updated and their gradients dropped during backward, as each arrives."""
    lag: bool = False
    """In backward, a gradient is used when the next one arrives (a hook before accumulation)."""
    states_32bit: States | None = None
    """What Trainer has ``nn.Embedding`` weights keep instead (GlobalOptimManager); None: no such override."""
    freezes: Callable[[str], bool] | None = None
    """Which of a method's own parameters the optimizer keeps fixed, by name."""
    notes: str = ""
    """What is assumed, and what lives elsewhere."""


def sequence(params: Sequence[Trained]) -> list[Trained]:
    """The order in which a loop meets the parameters; of equal layers, the first two.

    What a loop over the third layer makes is what it makes over the second.
    """
    out: list[Trained] = []
    at = 0
    while at < len(params):
        end = at + 1
        while end < len(params) and params[end].count == params[at].count:
            end += 1
        run = list(params[at:end])
        out += run * (2 if run[0].count > 1 else 1)
        at = end
    return out


PAGED_FROM = 100_000
"""Elements from which a paged optimizer's state lives in managed memory (bitsandbytes ``get_state_buffer``)."""


def state_sizes(optimizer: Optimizer, p: Trained, *, trainer: bool = True) -> list[int]:
    """Bytes on the GPU of each state tensor of one parameter, unrounded."""
    states = optimizer.states
    if optimizer.states_32bit is not None and trainer and p.kind == "embedding":
        states = optimizer.states_32bit
    sizes = states(p)
    if optimizer.paged and p.n >= PAGED_FROM:
        return [size for size in sizes if size < p.n]  # absmax stays on the GPU
    return list(sizes)


def state_bytes(optimizer: Optimizer, p: Trained, *, trainer: bool = True) -> int:
    """Bytes on the GPU of all states of one parameter after the allocator's rounding."""
    return sum(rounded(size) for size in state_sizes(optimizer, p, trainer=trainer))
