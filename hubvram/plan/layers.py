"""Modules at run time: a linear layer by how its weight is held, what a method wraps round it, tables, one layer."""

from __future__ import annotations

from typing import Any

from hubvram.architecture.modules import Linear, Module
from hubvram.timeline.dtypes import DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.ops.packed import Kernel
from hubvram.timeline.tracer import Param, Tensor


class PlainLinear:
    """``nn.Linear`` in the base model's dtype."""

    __slots__ = ("bias", "name", "spec", "weight")

    def __init__(self, name: str, spec: Linear, weight: Param, bias: Param | None) -> None:
        """``name`` is its path inside the layer."""
        self.name = name
        self.spec = spec
        self.weight = weight
        self.bias = bias

    def __call__(self, g: Ops, x: Tensor) -> Tensor:
        """``F.linear``."""
        if self.spec.separate_bias and self.bias is not None:
            return g.add(g.linear(x, self.weight, None, self.name), self.bias)
        return g.linear(x, self.weight, self.bias, self.name)


class Linear4bit:
    """bitsandbytes ``Linear4bit``."""

    __slots__ = ("bias", "compute", "name", "spec")

    def __init__(self, name: str, spec: Linear, bias: Param | None, compute: DType) -> None:
        """``compute`` is ``bnb_4bit_compute_dtype``."""
        self.name = name
        self.spec = spec
        self.bias = bias
        self.compute = compute

    def __call__(self, g: Ops, x: Tensor) -> Tensor:
        """Dequantise and multiply."""
        return g.linear_4bit(x, self.spec.out_features, self.bias, self.compute, self.name)


class Linear8bit:
    """bitsandbytes ``Linear8bitLt``."""

    __slots__ = ("bias", "name", "spec")

    def __init__(self, name: str, spec: Linear, bias: Param | None) -> None:
        """LLM.int8, threshold 6."""
        self.name = name
        self.spec = spec
        self.bias = bias

    def __call__(self, g: Ops, x: Tensor) -> Tensor:
        """Quantise the input, int8 product."""
        return g.linear_8bit(x, self.spec.out_features, self.bias, self.name)


class LinearGptq:
    """A GPTQ linear layer (gptqmodel / auto-gptq with a dequantising kernel)."""

    __slots__ = ("bias", "name", "spec")

    def __init__(self, name: str, spec: Linear, bias: Param | None) -> None:
        """Packed integers, scales and zero points."""
        self.name = name
        self.spec = spec
        self.bias = bias

    def __call__(self, g: Ops, x: Tensor) -> Tensor:
        """Dequantise and multiply."""
        return g.linear_gptq(x, self.spec.out_features, self.bias, self.name)


class LinearPacked:
    """A linear layer over a packed weight (``plan/quantized.py`` FORMATS)."""

    __slots__ = ("bias", "kernel", "name", "spec")

    def __init__(self, name: str, spec: Linear, bias: Param | None, kernel: Kernel) -> None:
        """``kernel`` says what a product makes in passing."""
        self.name = name
        self.spec = spec
        self.bias = bias
        self.kernel = kernel

    def __call__(self, g: Ops, x: Tensor) -> Tensor:
        """A product over the packed weight."""
        return g.linear_packed(x, self.spec.out_features, self.bias, self.kernel, self.name)


class LinearInteger(PlainLinear):
    """A trained weight that is held as integers."""

    __slots__ = ()

    def __call__(self, g: Ops, x: Tensor) -> Tensor:
        """Dequantise and multiply; the weight has a gradient."""
        return g.linear_integer(x, self.weight, self.bias, self.name)


class Float8Linear(PlainLinear):
    """torchao's ``Float8Linear`` under ``mixed_precision="fp8"``."""

    __slots__ = ()

    def __call__(self, g: Ops, x: Tensor) -> Tensor:
        """Casts to fp8 around the product."""
        return g.linear_float8(x, self.weight, self.bias, self.name)


class Adapted:
    """A linear layer with a method's adapter on it."""

    __slots__ = ("adapter", "base", "params")

    def __init__(self, base: Any, adapter: Any, params: list[Param]) -> None:
        """``params`` are those of ``adapter.params``, in order."""
        self.base = base
        self.adapter = adapter
        self.params = params

    @property
    def weight(self) -> Any:
        """The base layer's weight."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        """The base layer's bias."""
        return self.base.bias

    @property
    def spec(self) -> Linear:
        """The base layer's record."""
        spec: Linear = self.base.spec
        return spec

    @property
    def name(self) -> str:
        """The base layer's name."""
        name: str = self.base.name
        return name

    def __call__(self, g: Ops, x: Tensor) -> Tensor:
        """The adapter decides when and how the base layer runs."""
        out: Tensor = self.adapter.forward(g, self.base, x, self.params)
        return out


class AdaptedWeight:
    """A bare parameter with a method's adapter folded in at every call."""

    __slots__ = ("adapter", "params", "weight")

    def __init__(self, weight: Param, adapter: Any, params: list[Param]) -> None:
        """``params`` are those of ``adapter.params``, in order."""
        self.weight = weight
        self.adapter = adapter
        self.params = params

    def fold(self, g: Ops) -> Any:
        """What the adapter makes once per call; its ``value`` is the adapted weight."""
        return self.adapter.fold(g, self.weight, self.params)


class Table:
    """An embedding or norm: its parameters by name."""

    __slots__ = ("adapter", "bias", "params", "spec", "weight")

    def __init__(self, spec: Module, weight: Param | None, bias: Param | None) -> None:
        """``weight`` and ``bias`` are None where the layer has none."""
        self.spec = spec
        self.weight = weight
        self.bias = bias
        self.adapter: Any = None
        self.params: list[Param] = []


class Layer:
    """One run-time copy of a block: its modules as attributes, its facts."""

    def __init__(self, facts: Any) -> None:
        """Modules are set by the network."""
        self.facts = facts
        self.prefix: tuple[Tensor, Tensor] | None = None
        self.shared: Any = None
        """What an earlier layer made and every layer gets (position biases); held as long as the layer's call is."""
