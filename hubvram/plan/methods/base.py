"""What a fine-tuning method is to the planner.

A method turns PEFT config keys and an architecture into a `MethodPlan`: which
weights are trained, what stands on which linear layer, which tokens or
prefixes are added.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hubvram.architecture.modules import Architecture, Embedding, Linear, Module, Weight
from hubvram.errors import SettingError
from hubvram.plan.optimizers import Optimizer
from hubvram.timeline.dtypes import DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.ops.moe import Fold
from hubvram.timeline.tracer import Param, Tensor

Forward = Callable[[Ops, Any, Tensor, Sequence[Param]], Tensor]


class Skip(Exception):  # noqa: N818 - an outcome, not an error
    """This model cannot take this method (or this combination); the text says why."""


@dataclass(frozen=True, slots=True)
class NewParam:
    """A parameter that a method adds."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    trainable: bool = True


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a method puts on one linear layer."""

    params: tuple[NewParam, ...]
    forward: Forward
    """``forward(g, base, x, params)``: runs the base layer and the adapter."""
    shared: tuple[str, ...] = ()
    """Names among the plan's ``extra_params`` that this layer uses; they follow its own in ``params``."""


@dataclass(frozen=True, slots=True)
class ParameterAdapter:
    """What a method puts on one bare parameter: the model sees the adapted weight."""

    params: tuple[NewParam, ...]
    fold: Callable[[Ops, Param, Sequence[Param]], Fold]
    """``fold(g, base, params)``: what is made once per call; its value is the adapted weight."""


class MethodPlan:
    """A method applied to one architecture. Base class: trains nothing, adds nothing."""

    extra_params: Sequence[NewParam] = ()
    """Parameters outside the linear layers (prompt embeddings, shared projections)."""
    virtual_tokens: int = 0
    """Tokens added in front of the sequence."""
    prefix_tokens: int = 0
    """Key-value pairs added in front of every layer's cache."""
    not_counted: tuple[str, ...] = ()
    optimizer: Optimizer | None = None
    """The optimizer that belongs to the method, in the place of the one asked for."""
    arch: Architecture | None = None
    """The architecture where the method changes it (added layers)."""
    no_checkpointing: str | None = None
    """Why the method runs without gradient checkpointing even where it is asked for."""
    wraps_layers = False
    """Whether `around` runs in the place of the decoder's layers."""
    idle: frozenset[str] = frozenset()
    """Names of trained parameters that no gradient ever reaches: they have no state."""
    alike: str | None = None
    """Plans of one architecture and settings with equal texts run alike: one timeline serves them all."""

    def trains(self, path: str, module: Module, part: str) -> bool:
        """Whether the base model's parameter at ``path`` (ending in ``part``) is trained."""
        return False

    def stores(self, path: str, module: Module) -> str | None:
        """Format (`quantized.FORMATS`) in which the method holds a weight that it trains; None: the base's dtype."""
        return None

    def copies(self, path: str, module: Module, layer: int | None) -> bool:
        """Whether a trained copy of the module runs in its place; the original stays in memory, frozen."""
        return False

    def adapter(self, path: str, module: Linear, layer: int | None) -> Adapter | None:
        """The adapter on one linear layer; None where there is none."""
        return None

    def tied_adapter(self, path: str, module: Linear) -> Adapter | None:
        """The adapter on a head that shares its weight with the embedding; None where there is none."""
        return None

    def embedding_adapter(self, path: str, module: Embedding) -> Adapter | None:
        """The adapter on the token embedding: ``forward(g, table, ids, params)``; None where there is none."""
        return None

    def parameter_adapter(self, path: str, module: Weight, layer: int | None) -> ParameterAdapter | None:
        """The adapter on one bare parameter (``Weight.adaptable``); None where there is none."""
        return None

    def layer_key(self, path: str, layer: int) -> Any:
        """What makes layer ``layer`` different from its equals under this method (None: nothing)."""
        return None

    def before_embeddings(self, g: Ops, net: Any) -> None:
        """What runs before the model's forward pass begins (prefixes of every layer)."""

    def on_embeddings(self, g: Ops, net: Any, x: Tensor) -> Tensor:
        """The token embeddings as the method hands them on."""
        return x

    def after_loss(self, g: Ops, net: Any, loss: Tensor) -> Tensor:
        """The loss with the method's own terms added."""
        return loss

    def around(self, g: Ops, net: Any, layer: Any, x: Tensor, run: Callable[[Tensor], Tensor], *, last: bool) -> Tensor:
        """One layer of the decoder where ``wraps_layers``; ``run`` is the layer itself, checkpointed or not."""
        return run(x)

    def prefix(self, g: Ops, net: Any, copies: int) -> tuple[Tensor, Tensor] | None:
        """Trained keys and values in front of one layer's, standing for ``copies`` equal layers."""
        return None


@dataclass(frozen=True, slots=True)
class Context:
    """What a method may look at when it is applied."""

    arch: Architecture
    base_dtype: DType
    """dtype the base weights are held in (before quantisation)."""
    peft: Mapping[str, Any]
    quantization: Mapping[str, Any]
    checkpointing: bool
    adapter_dtype: DType
    transformers: tuple[int, ...] = (5, 23)
    """Version of transformers in the stack: it decides what PEFT finds in a mixture of experts."""
    packed: str | None = None
    """How the base's linear layers are quantised: None, ``4bit``, ``8bit``, ``gptq``."""
    notes: list[str] = field(default_factory=list)
    """What the method had to assume; said beside its figures."""
    optimizer: Optimizer | None = None
    """The optimizer asked for."""
    layerwise: bool = True
    """Whether weights may be updated during backward: one GPU, no gradient accumulation."""


@dataclass(frozen=True, slots=True)
class Method:
    """A catalogue entry."""

    name: str
    title: str
    group: str
    """full, selective, lora, reparametrised, prompt, bottleneck, reference."""
    trains: str
    """One sentence: what is trained."""
    formula: str
    """Trainable parameters, in words and symbols."""
    source: str
    """Package and version, or paper."""
    apply: Callable[[Context], MethodPlan]
    peft_type: str | None = None
    """Name in PEFT's ``PeftType``, or None for methods outside PEFT."""
    keys: Mapping[str, Any] = field(default_factory=dict)
    """Config keys it takes, with their defaults."""
    quantization: str | None = None
    """``4bit`` or ``8bit`` where the method implies how the base is held."""
    training: bool = True

    def config(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults overlaid with what was given.

        Raises:
            SettingError: an unknown key, naming the nearest.
        """
        merged = dict(self.keys)
        for key, value in given.items():
            if key in COMMON_KEYS and key not in merged:
                continue
            if key not in merged:
                near = difflib.get_close_matches(key, list(merged), n=1, cutoff=0.4)
                hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(merged)) or 'none'}."
                raise SettingError(f"{self.name} has no setting {key!r}.", hint=hint)
            merged[key] = value
        return merged


COMMON_KEYS = frozenset(
    {
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "inference_mode",
        "revision",
        "auto_mapping",
        "peft_version",
        "exp_name",
    }
)
"""Keys of every adapter_config.json that change no number, and the run's label in ms-swift's exports."""


def targets(
    ctx: Context, defaults: Mapping[str, Sequence[str]], value: Any, exclude: Any = None
) -> Callable[[str, Linear], bool]:
    """PEFT's ``target_modules`` rule as a predicate on (path, module).

    A list matches whole paths or their ends, a string is a full-match regex,
    ``all-linear`` takes every linear layer but the head. Where nothing is given
    and PEFT has no default for the model type (it asks for one), all linear
    layers are taken, as its documentation advises, and a note says so.
    """
    if value is None:
        value = defaults.get(ctx.arch.model_type)
        if value is None:
            value = "all-linear"
            ctx.notes.append(
                f"PEFT has no default target_modules for model type {ctx.arch.model_type}: all-linear is assumed"
            )
    if isinstance(value, str) and value != "all-linear":
        pattern = re.compile(value)
        chosen: Callable[[str, Linear], bool] = lambda path, module: bool(pattern.fullmatch(path))  # noqa: E731
    elif value == "all-linear":
        chosen = lambda path, module: module.role != "head" and module.kind in ("Linear", "Conv1D")  # noqa: E731
    else:
        names = tuple(value)
        ends = tuple(f".{n}" for n in names)
        chosen = lambda path, module: path in names or path.endswith(ends)  # noqa: E731
    if exclude is None:
        return chosen
    if isinstance(exclude, str):
        banned = re.compile(exclude)
        return lambda path, module: chosen(path, module) and not banned.fullmatch(path)
    out = tuple(exclude)
    out_ends = tuple(f".{n}" for n in out)
    return lambda path, module: chosen(path, module) and not (path in out or path.endswith(out_ends))


def layer_choice(config: Mapping[str, Any]) -> Callable[[str, int | None], bool]:
    """PEFT's ``layers_to_transform`` as a predicate on (path, layer index)."""
    chosen = config.get("layers_to_transform")
    if chosen is None:
        return lambda path, layer: True
    wanted = {chosen} if isinstance(chosen, int) else set(chosen)
    return lambda path, layer: layer in wanted
