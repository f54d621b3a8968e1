"""What prompt methods do outside the model's own forward pass.

Source: peft 0.21 ``peft_model.py`` (get_prompt), transformers 5.23
``cache_utils.py`` (DynamicCache, DynamicLayer.update).
"""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.timeline.dtypes import F32
from hubvram.timeline.ops.elementwise import OpsBase
from hubvram.timeline.tracer import GatherNode, HeldNode, Storage, Tensor, Tracer


def many(t: Tracer, nbytes: int, count: int, op: str, shape: tuple[int, ...], like: Tensor) -> Storage | None:
    """One storage outside the layers for each of ``count`` layers."""
    st = t.new(nbytes, op, shape, like.dt)
    if st is not None and count > 1:
        t.mult[st.sid] = count
        t.single.add(st.sid)
    return st


class Prefix:
    """The keys and values in front of every layer's, from one tensor (batch, tokens, 2 x layers x width)."""

    def __init__(self, t: Tracer, whole: Tensor, shape: tuple[int, ...], layers: int) -> None:
        """``shape`` is that of one layer's keys: (batch, heads, tokens, head_dim).

        The split gives each layer a view; the cache copies it (its first ``update`` joins it to an empty tensor).
        """
        self.t = t
        self.shape = shape
        self.left = layers
        self.like = Tensor(None, whole.shape, whole.n, whole.dt)
        self.size = whole.n // (2 * layers) * whole.dt.size
        size, dt, all_shape = whole.n * whole.dt.size, whole.dt, whole.shape
        new = t.new

        def join(g: Storage) -> Sequence[Storage | None]:
            joined = new(size, "prefix split backward", all_shape, dt)
            out = new(size, "prefix view backward", all_shape, dt)
            del joined
            return (out,)

        t._idx += 1  # noqa: SLF001 - ops make nodes
        self.split = GatherNode(t._idx, join, (whole.node,))  # noqa: SLF001
        self.keys = self._hold(layers)
        self.values = self._hold(layers)

    def _hold(self, count: int) -> Storage | None:
        return many(self.t, self.size, count, "prefix in cache", self.shape, self.like)

    def take(self, copies: int) -> tuple[Tensor, Tensor]:
        """Keys and values for the next ``copies`` equal layers."""
        t, size, dt = self.t, self.size, self.like.dt
        self.left -= copies
        if self.left:
            self.keys = self.values = None
            keys, values = self._hold(copies), self._hold(copies)
            self.keys, self.values = self._hold(self.left), self._hold(self.left)
        else:
            keys, values = self.keys, self.values
            self.keys = self.values = None
        pair = (2, *self.shape)
        like = self.like

        def unbind(g: Storage) -> Sequence[Storage | None]:
            stacked = many(t, 2 * size, copies, "prefix unbind backward", pair, like)
            out = many(t, 2 * size, copies, "prefix slice backward", pair, like)
            del stacked
            return (out,)

        t._idx += 3  # noqa: SLF001
        first = GatherNode(t._idx - 2, unbind, (self.split,))  # noqa: SLF001
        n = size // dt.size
        nodes = [HeldNode(t._idx - 1 + i, _pass, (first,)) for i in range(2)]  # noqa: SLF001
        return (
            Tensor(keys, self.shape, n, dt, True, nodes[0]),
            Tensor(values, self.shape, n, dt, True, nodes[1]),
        )


def _pass(grad: Storage) -> Sequence[Storage | None]:
    return (grad,)


class PromptOps(OpsBase):
    """Ops that only prompt methods use."""

    def repeat_batch(self, x: Tensor, batch: int) -> Tensor:
        """``x.repeat(batch, 1, 1)``: always a copy; backward sums over the batch."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "repeat backward", shape, dt),)

        return self.apply("repeat", (x,), (batch, *shape[1:]), dt, bw)

    def lstm(self, x: Tensor, weights: Sequence[Tensor], hidden: int, layers: int) -> Tensor:
        """A bidirectional ``nn.LSTM`` (cuDNN): keeps input, output and a reserve of every layer's gates."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape
        tokens = n // shape[-1]
        sizes = [(w.n, w.shape) for w in weights]

        def bw(g: Storage) -> Sequence[Storage | None]:
            grads = [new(k * F32.size, "lstm grad weight", s, F32) for k, s in sizes]
            return (new(n * dt.size, "lstm grad input", shape, dt), *grads)

        out = self.apply("lstm", (x, *weights), (*shape[:-1], 2 * hidden), dt, bw, save=(x,), save_result=True)
        reserve = self.t.tensor((layers, 2, tokens, 6 * hidden), F32, "lstm reserve")
        if out.rg:
            self.t.save(out.node, "lstm", reserve)
        return out


__all__ = ["Prefix", "PromptOps", "many"]
