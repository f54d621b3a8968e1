"""What a model is made of, as data: linear layers, embeddings, norms, blocks.

A family module (``families/``) turns a config and a header into an
`Architecture` of these records; the plan decides how each is held and trained;
the family's ``forward`` says in which order they run. Paths are those of
transformers' ``named_modules()``, so PEFT's ``target_modules`` match as they
would on the real model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Linear:
    """``nn.Linear`` (weight (out, in)) or transformers' ``Conv1D`` (weight (in, out))."""

    path: str
    in_features: int
    out_features: int
    bias: bool = False
    kind: Literal["Linear", "Conv1D", "Conv1d", "Conv2d"] = "Linear"
    role: Literal["", "attn_out", "mlp_out", "head", "router"] = ""
    """Where methods that act on a block's output find it; heads are not quantised."""
    weight_shape: tuple[int, ...] | None = None
    """For convolutions: the real shape; else (out, in)."""
    separate_bias: bool = False
    """``x @ weight.T`` and then ``+ bias``, outside autocast's casts (Falcon)."""

    @property
    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of each parameter."""
        shape: tuple[int, ...] = (self.out_features, self.in_features)
        if self.weight_shape is not None:
            shape = self.weight_shape
        elif self.kind == "Conv1D":
            shape = (self.in_features, self.out_features)
        out: list[tuple[str, tuple[int, ...]]] = [("weight", shape)]
        if self.bias:
            out.append(("bias", (self.out_features,)))
        return out


@dataclass(frozen=True, slots=True)
class Embedding:
    """``nn.Embedding``."""

    path: str
    num_embeddings: int
    embedding_dim: int
    frozen: bool = False
    """A parameter that the model itself never trains (sinusoidal positions)."""

    @property
    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of each parameter."""
        return [("weight", (self.num_embeddings, self.embedding_dim))]


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation layer; ``kind`` names the op that the family runs."""

    path: str
    dim: int
    bias: bool = False
    weight: bool = True
    kind: str = "rms"

    @property
    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of each parameter."""
        out: list[tuple[str, tuple[int, ...]]] = []
        if self.weight:
            out.append(("weight", (self.dim,)))
        if self.bias:
            out.append(("bias", (self.dim,)))
        return out


@dataclass(frozen=True, slots=True)
class Weight:
    """A bare parameter: stacked experts, class tokens, SSM matrices, biases of attention sinks."""

    path: str
    shape: tuple[int, ...]
    buffer: bool = False
    """A buffer has memory but no gradient ever."""
    dtype: str | None = None
    """Fixed dtype name where it does not follow the model's (fp32 inv_freq)."""
    adaptable: bool = False
    """Whether PEFT's ``target_parameters`` may wrap it (stacked experts, routers); run through ``g.opened``."""

    @property
    def parameters(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape); the name is empty: the path is the parameter's."""
        return [("", self.shape)]


Module: TypeAlias = "Linear | Embedding | Norm | Weight"


def numel(module: Module) -> int:
    """Number of parameters of one module."""
    return sum(prod(shape) for _, shape in module.parameters)


@dataclass(frozen=True, slots=True)
class Block:
    """One kind of layer: its modules by the attribute names the family's code uses.

    Paths of its modules are relative (``self_attn.q_proj``).
    """

    modules: Mapping[str, Module]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the block's code needs beside shapes: window, expert numbers, cross attention..."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A list of layers: which kind each one is."""

    prefix: str
    """Path of the ModuleList, e.g. ``model.layers``."""
    blocks: tuple[Block, ...]
    order: tuple[int, ...]
    """Index into ``blocks`` for each layer."""
    checkpointed: bool = True
    """Whether its layer class is a GradientCheckpointingLayer."""


Task = Literal["causal", "masked", "seqcls", "seq2seq", "image", "contrastive", "speech", "ctc", "features"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model, ready to be planned and traced."""

    family: str
    model_type: str
    class_name: str | None
    task: Task
    modules: Mapping[str, Module]
    """Modules outside the layers, by attribute name; absolute paths."""
    stacks: Mapping[str, Stack]
    forward: Callable[[Any, Any, Any], Any]
    """``forward(g, net, batch) -> loss``; written in ops (`timeline.ops.Ops`)."""
    hidden_size: int
    vocab_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_seq_len: int | None
    tied: Mapping[str, str] = field(default_factory=dict)
    """Attribute name of a module that shares its weight -> attribute name of the owner."""
    token_dim: int | None = None
    """Width of the token embeddings where it differs from hidden_size."""
    decoder: str = "layers"
    """The stack whose attention takes prefixes (prefix tuning) and whose cache inference fills."""
    assumptions: tuple[str, ...] = ()
    """What was assumed where the config is silent."""
    not_counted: tuple[str, ...] = ()
    """Parts that are in the header but not in the trace; makes every estimate partial."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the family's forward needs."""
    legacy: Callable[[], Architecture] | None = None
    """The same model as transformers < 5 builds it, where modules differ (experts one by one)."""

    def layer_parameters(self) -> int:
        """Parameters inside the stacks."""
        total = 0
        for stack in self.stacks.values():
            per = [sum(numel(m) for m in b.modules.values() if not _is_buffer(m)) for b in stack.blocks]
            total += sum(per[k] for k in stack.order)
        return total

    def total_parameters(self) -> int:
        """Parameters as PyTorch's ``model.parameters()`` has them: tied weights once, no buffers."""
        outside = sum(numel(m) for name, m in self.modules.items() if name not in self.tied and not _is_buffer(m))
        for name in self.tied:  # a tied head may still have a bias of its own
            module = self.modules[name]
            outside += numel(module) - prod(module.parameters[0][1])
        return outside + self.layer_parameters()


def _is_buffer(module: Module) -> bool:
    return isinstance(module, Weight) and module.buffer
