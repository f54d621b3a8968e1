"""Activation functions, under the names of transformers' ACT2FN (activations.py, 5.23)."""

from __future__ import annotations

from collections.abc import Sequence

from hubvram.timeline.dtypes import BOOL
from hubvram.timeline.ops.norm import NormOps
from hubvram.timeline.tracer import Storage, Tensor


class ActivationOps(NormOps):
    """``hidden_act`` and friends."""

    def act(self, name: str, x: Tensor) -> Tensor:
        """The activation called ``name`` in a config.

        Raises:
            KeyError: an activation this version does not know; the caller makes it a partial result.
        """
        return getattr(self, ACTIVATIONS[name])(x)  # type: ignore[no-any-return]  # methods below

    def glu(self, name: str, gate: Tensor, up: Tensor) -> Tensor:
        """``act(gate) * up``; liger's SwiGLU keeps gate and up only and writes both gradients over them."""
        if not (self.liger_mlp and name in ("silu", "swish")):
            return self.mul(self.act(name, gate), up)
        new, size, shape, dt = self.t.new, gate.n * gate.dt.size, gate.shape, gate.dt
        rg, ru = gate.rg, up.rg

        def bw(g: Storage) -> Sequence[Storage | None]:
            # written over the saved tensors, which are released in the same moment
            return (
                new(size, "liger swiglu grad gate", shape, dt) if rg else None,
                new(size, "liger swiglu grad up", shape, dt) if ru else None,
            )

        return self.apply("liger swiglu", (gate, up), shape, dt, bw, save=(gate, up), overwrites=True)

    def silu(self, x: Tensor) -> Tensor:
        """SiLU: keeps its input."""
        return self.unary("silu", x)

    def gelu(self, x: Tensor) -> Tensor:
        """``F.gelu`` (erf or tanh kernel): keeps its input."""
        return self.unary("gelu", x)

    def relu(self, x: Tensor) -> Tensor:
        """ReLU: keeps its result."""
        return self.unary("relu", x, keeps="result")

    def tanh(self, x: Tensor) -> Tensor:
        """tanh: keeps its result."""
        return self.unary("tanh", x, keeps="result")

    def sigmoid(self, x: Tensor) -> Tensor:
        """Sigmoid: keeps its result."""
        return self.unary("sigmoid", x, keeps="result")

    def softplus(self, x: Tensor) -> Tensor:
        """softplus: keeps its input."""
        return self.unary("softplus", x)

    def exp(self, x: Tensor) -> Tensor:
        """exp: keeps its result."""
        return self.unary("exp", x, keeps="result")

    def gelu_new(self, x: Tensor) -> Tensor:
        """NewGELUActivation: 0.5 * x * (1 + tanh(c * (x + 0.044715 * x^3))), written in Python ops."""
        inner = self.scale(self.add(x, self.scale(self.pow(x))))
        return self.mul(self.scale(x), self.add_scalar(self.tanh(inner)))

    def gelu_bloom(self, x: Tensor) -> Tensor:
        """BLOOM's ``GeLUFunction``: keeps its input; both passes are chains of Python ops (modeling_bloom.py, 5.23)."""
        new, n, shape, dt = self.t.new, x.n * x.dt.size, x.shape, x.dt

        def step(*drop: list[Storage | None]) -> list[Storage | None]:
            out = [new(n, "bloom gelu", shape, dt)]
            for cell in drop:
                cell.clear()
            return out

        def tanh() -> list[Storage | None]:
            scaled, inner = step(), step()
            inner = step(inner)
            inner = step(inner)
            return step(step(scaled, inner))

        def bw(g: Storage) -> Sequence[Storage | None]:
            turned = tanh()
            half = step()
            left = step(step())
            right = step(step(step()))
            product = step(half, step(left, right))
            whole = step(product, step(step()))
            out = step(whole, turned)
            return (out[0],)

        half = step()
        rest = step(tanh())
        out = self.apply("bloom gelu", (x,), shape, dt, bw, save=(x,))
        half.clear()
        rest.clear()
        return out

    def xielu(self, x: Tensor, alpha_p: Tensor, alpha_n: Tensor) -> Tensor:
        """xIELU in Python ops, as without its CUDA wheel; both alphas are parameters (activations.py, 5.23)."""
        positive = self.softplus(alpha_p)
        negative = self.add_scalar(self.softplus(alpha_n))
        above = self.ones(x.shape, BOOL, "xielu x > 0")
        left = self.add(self.mul(self.mul(positive, x), x), self.scale(x, "xielu beta"))
        right = self.add(self.mul(self._bent(x), negative), self.scale(x, "xielu beta"))
        return self.where_either(above, left, right)

    def _bent(self, x: Tensor) -> Tensor:
        """``expm1(min(x, eps)) - x``; expm1 is on autocast's fp32 list."""
        return self.sub(self.unary("expm1", self.upper(self._minimum(x)), keeps="result", passing=1), x)

    def maximum(self, x: Tensor) -> Tensor:
        """``torch.max(x, constant)``: as the minimum."""
        return self._minimum(x)

    def _minimum(self, x: Tensor) -> Tensor:
        """``torch.min(x, constant)``: keeps x; backward makes two masks, half the gradient and the result."""
        new, n, dt, shape = self.t.new, x.n, x.dt, x.shape

        def bw(g: Storage) -> Sequence[Storage | None]:
            equal = new(n, "minimum backward mask", shape, BOOL)
            half = new(n * dt.size, "minimum backward", shape, dt)
            out = new(n * dt.size, "minimum backward", shape, dt)
            del equal, half
            return (out,)

        return self.apply("minimum", (x,), shape, dt, bw, save=(x,))

    def where_either(self, mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """``torch.where``: keeps the mask; backward makes a gradient for each side."""
        new, n, dt, shape, ra, rb = self.t.new, a.n, a.dt, a.shape, a.rg, b.rg

        def bw(g: Storage) -> Sequence[Storage | None]:
            ga = new(n * dt.size, "where backward", shape, dt) if ra else None
            return ga, new(n * dt.size, "where backward", shape, dt) if rb else None

        return self.apply("where", (a, b), shape, dt, bw, save=(mask,))

    def quick_gelu(self, x: Tensor) -> Tensor:
        """QuickGELUActivation: x * sigmoid(1.702 * x)."""
        return self.mul(x, self.sigmoid(self.scale(x)))

    def relu2(self, x: Tensor) -> Tensor:
        """ReLUSquaredActivation: relu(x) squared."""
        return self.pow(self.relu(x))

    def mish(self, x: Tensor) -> Tensor:
        """``F.mish``: keeps its input."""
        return self.unary("mish", x)


ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "mish": "mish",
}
"""Config word to method. gelu_fast and gelu_accurate are the same chain of Python ops as gelu_new."""
