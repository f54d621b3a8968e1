"""Activation functions, under the names of transformers' ACT2FN (activations.py, 5.23)."""

from __future__ import annotations

from hubvram.timeline.ops.norm import NormOps
from hubvram.timeline.tracer import Tensor


class ActivationOps(NormOps):
    """``hidden_act`` and friends."""

    def act(self, name: str, x: Tensor) -> Tensor:
        """The activation called ``name`` in a config.

        Raises:
            KeyError: an activation this version does not know; the caller makes it a partial result.
        """
        return getattr(self, ACTIVATIONS[name])(x)  # type: ignore[no-any-return]  # methods below

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
