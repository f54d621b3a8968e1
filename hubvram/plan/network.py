"""A planned model at run time: weights as parameters, layers wrapped by the method.

`Network` is what a family's ``forward`` sees: attributes for its modules,
``run`` for its stacks, and the few places where a method or a task reaches
into the model (embedding, prefixes, loss).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from sys import getrefcount
from typing import TYPE_CHECKING, Any

from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm
from hubvram.plan.layers import (
    Adapted,
    AdaptedWeight,
    Float8Linear,
    Layer,
    Linear4bit,
    Linear8bit,
    LinearGptq,
    LinearInteger,
    LinearPacked,
    PlainLinear,
    Table,
)
from hubvram.plan.quantized import FORMATS
from hubvram.timeline.dtypes import F32, I64, DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.ops.attention import Mask
from hubvram.timeline.tracer import Param, Storage, Tensor

if TYPE_CHECKING:
    from hubvram.plan.plan import Plan


_PROBE = [object()]
_IN_LIST = getrefcount(_PROBE[0])
"""What ``getrefcount`` says of something that only a list holds (differs between Python versions)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes in: sizes only."""

    size: int
    """Samples per device and micro step."""
    tokens: int
    """Tokens per sample (decoder tokens for encoder-decoders)."""
    source_tokens: int
    padding: bool


class Network:
    """A model under a plan, ready to run once."""

    def __init__(self, plan: Plan) -> None:
        """Makes the modules outside the layers; layers are made as they run."""
        self.plan = plan
        self.arch: Architecture = plan.arch
        self.params: list[Param] = []
        self.prompt_params: list[Param] = []
        self.prefix_state: Any = None
        self.inputs: list[Tensor] = []
        """Batch tensors, which the training loop holds to the end of the step."""
        self.outputs: Tensor | None = None
        """Logits, where the training loop keeps the model's outputs alive."""
        self.returned: list[Tensor] = []
        """What a model returned and something still holds during backward (families/_older.py)."""
        self.locals: list[Any] = []
        """What the model's own forward still holds while its layers run (image features)."""
        self.leaf: list[Storage | None] = []
        """Embeddings that were made a leaf, and their gradient: alive as long as the loss."""
        self.travelling: list[Tensor] = []
        """What goes from layer to layer beside the hidden states (`MethodPlan.around`)."""
        self.cache: list[Any] = []
        """What the model's cache object holds until the end of its forward pass (storages)."""
        self._made: dict[str, Any] = {}
        for param in plan.method.extra_params:
            self.prompt_params.append(self._param(param.name, param.shape, param.dtype, param.trainable, 1))
        for name, spec in self.arch.modules.items():
            if name not in self.arch.tied:
                self._made[name] = self._module(spec.path, spec, None, 1, "")
        for name, owner in self.arch.tied.items():
            spec = self.arch.modules[name]
            if plan.copied(spec.path, spec, None) is not None:
                self._made[name] = self._module(spec.path, spec, None, 1, "")
            else:
                self._made[name] = self._tied(spec, self._made[owner])

    def __getattr__(self, name: str) -> Any:
        """Modules by the names the family gave them."""
        try:
            return self.__dict__["_made"][name]
        except KeyError:
            raise AttributeError(name) from None

    # ---- making modules -------------------------------------------------

    def _param(self, name: str, shape: tuple[int, ...], dt: DType, trainable: bool, count: int) -> Param:
        param = Param(name, shape, dt, trainable, count)
        if trainable:
            self.params.append(param)
        return param

    def _module(self, path: str, spec: Module, layer: int | None, count: int, relative: str) -> Any:
        plan = self.plan
        name = relative or path
        held = plan.held(path, spec)
        made: dict[str, Param] = {}
        copied = plan.copied(path, spec, layer)
        for part, shape in spec.parameters:
            if held.packed and part == "weight" and not held.trained:
                continue
            full = f"{path}.{part}" if part else path
            trains = copied is not None or plan.method.trains(full, spec, part)
            made[part] = self._param(full, shape, copied or held.dtype, trains, count)
        if isinstance(spec, Linear):
            base: Any
            if held.packed == "4bit":
                base = Linear4bit(name, spec, made.get("bias"), plan.compute_dtype)
            elif held.packed == "8bit":
                base = Linear8bit(name, spec, made.get("bias"))
            elif held.packed == "gptq":
                base = LinearGptq(name, spec, made.get("bias"))
            elif held.packed and held.trained:
                base = LinearInteger(name, spec, made["weight"], made.get("bias"))
            elif held.packed:
                base = LinearPacked(name, spec, made.get("bias"), FORMATS[held.packed].kernel)
            else:
                made_of = Float8Linear if plan.runs_float8(spec) else PlainLinear
                base = made_of(name, spec, made["weight"], made.get("bias"))
            adapter = None if copied is not None else plan.method.adapter(path, spec, layer)
            return base if adapter is None else Adapted(base, adapter, self._adapter_params(adapter, count))
        if isinstance(spec, (Embedding, Norm)):
            table = Table(spec, made.get("weight"), made.get("bias"))
            if isinstance(spec, Embedding) and copied is None:
                table.adapter = plan.method.embedding_adapter(path, spec)
                if table.adapter is not None:
                    table.params = self._adapter_params(table.adapter, count)
            return table
        if spec.adaptable and copied is None:
            on_weight = plan.method.parameter_adapter(path, spec, layer)
            if on_weight is not None:
                params = [
                    self._param(p.name, p.shape, p.dtype, self.plan.trains_new(p), count) for p in on_weight.params
                ]
                return AdaptedWeight(made[""], on_weight, params)
        return made[""]

    def _adapter_params(self, adapter: Any, count: int) -> list[Param]:
        params = [self._param(p.name, p.shape, p.dtype, self.plan.trains_new(p), count) for p in adapter.params]
        if adapter.shared:
            by_name = {p.name: p for p in self.prompt_params}
            params += [by_name[name] for name in adapter.shared]
        return params

    def _tied(self, spec: Module, owner: Any) -> Any:
        weight = owner.weight
        if isinstance(spec, Linear):
            bias = None
            if spec.bias:
                full = f"{spec.path}.bias"
                trains = self.plan.method.trains(full, spec, "bias")
                bias = self._param(full, (spec.out_features,), weight.dt, trains, 1)
            base = PlainLinear(spec.path, spec, weight, bias)
            adapter = self.plan.method.tied_adapter(spec.path, spec)
            return base if adapter is None else Adapted(base, adapter, self._adapter_params(adapter, 1))
        return Table(spec, weight, None)

    def _layer(self, stack: str, block: Block, index: int, count: int) -> Layer:
        prefix = self.arch.stacks[stack].prefix
        made = Layer(block.facts)
        for name, spec in block.modules.items():
            setattr(made, name, self._module(f"{prefix}.{index}.{spec.path}", spec, index, count, spec.path))
        return made

    def layers(self, stack: str) -> list[Layer]:
        """Every layer of a stack, made apart: for families that apply layers more than once."""
        spec = self.arch.stacks[stack]
        return [self._layer(stack, spec.blocks[kind], i, 1) for i, kind in enumerate(spec.order)]

    # ---- running --------------------------------------------------------

    def run(
        self,
        g: Ops,
        stack: str,
        layer: Callable[[Any, Tensor], Tensor] | Sequence[Callable[[Any, Tensor], Tensor]],
        x: Tensor,
        *,
        last_apart: bool = False,
        first_apart: bool = False,
        only: tuple[int, int] | None = None,
    ) -> Tensor:
        """Run a stack: ``x = layer(m, x)`` for each layer, equal runs of layers traced once.

        ``layer`` may be one function for each kind of block: a checkpointed layer holds
        its function, and with it the masks and tables of its own kind only.

        The first layer is traced apart when its input needs no gradient and its
        output does: it keeps less than the others. ``last_apart``: so is the last
        one, where layers share an input with a gradient (encoder states, position
        bias): its backward makes the buffer into which the others add. ``first_apart``: the
        first layer's input has another dtype than its output. ``only``: run the layers from
        the one number to below the other.
        """
        plan = self.plan
        t = g.t
        spec = self.arch.stacks[stack]
        checkpointed = plan.checkpointing and spec.checkpointed
        around = plan.method.around if plan.method.wraps_layers and stack == self.arch.decoder else None
        beside = self.travelling
        cell = [x]
        del x
        end = len(spec.order)
        for start, period, times in _within(plan.runs(stack), only):
            done = 0
            while done < times:
                before = cell[0].rg
                alone = done == 0 and times > 1 and not before and plan.trains_anything
                alone = alone or (first_apart and done == 0 and start == 0 and times > 1)
                m = 1 if alone else times - done
                if last_apart and m > 1 and start + period * times == end:
                    m -= 1
                layers = [
                    # named like the first of their equals, as the plan names what it trains
                    self._layer(stack, spec.blocks[spec.order[start + i]], start + i, m)
                    for i in range(period)
                ]
                for made in layers:
                    if stack == self.arch.decoder:
                        made.prefix = self.plan.method.prefix(g, self, m)

                def body(layers: list[Layer] = layers, start: int = start) -> list[Tensor]:
                    for i, made in enumerate(layers):
                        fn = layer if callable(layer) else layer[spec.order[start + i]]
                        if around is not None:
                            run = partial(t.checkpoint, fn, made) if checkpointed else partial(fn, made)
                            cell[0] = around(g, self, made, cell[0], run, last=start + i == end - 1)
                        elif checkpointed:
                            cell[0] = t.checkpoint(fn, made, cell[0])
                        else:
                            cell[0] = fn(made, cell[0])
                    return [*cell, *beside] if beside else cell

                if m == 1:
                    body()
                else:
                    cell[0] = t.carry(cell[0], kept=done == 0 and start == 0)
                    if beside:
                        beside[0] = t.carry(beside[0], kept=done == 0 and start == 0)
                        if done == 0 and start == 0 and beside[0].rg:  # its gradient may exist already
                            beside[0] = g.passed(beside[0])
                    t.repeat(m, stack, body)
                del body, layers, made
                done += m
        return cell.pop()

    # ---- where methods and tasks reach in --------------------------------

    @property
    def input_dtype(self) -> DType:
        """dtype of pixels and sound as they enter the model: that of its weights, fp32 under autocast."""
        return F32 if self.plan.autocast is not None else self.plan.base_dtype

    def token_ids(self, g: Ops, batch: Batch, tokens: int | None = None) -> Tensor:
        """A batch of input ids."""
        return g.ids(batch.size, tokens or batch.tokens)

    def embed_tokens(self, g: Ops, batch: Batch, table: str = "embed", tokens: int | None = None) -> Tensor:
        """Token embeddings, with the method's virtual tokens in front where it has some.

        ``tokens``: how many a sample has, where it is not ``batch.tokens`` (the source of an encoder-decoder).
        """
        self.plan.method.before_embeddings(g, self)
        x = self._look_up(g, batch, table, tokens)
        x = self.plan.method.on_embeddings(g, self, x)
        x = self._entering(g, x)
        images = self.arch.facts.get("images")
        return x if images is None else images(g, self, batch, x)

    def embed_targets(self, g: Ops, batch: Batch, table: str = "embed") -> Tensor:
        """Embeddings of the decoder's tokens in an encoder-decoder: virtual tokens stand before the source only."""
        return self._entering(g, self._look_up(g, batch, table, None))

    def _look_up(self, g: Ops, batch: Batch, table: str, tokens: int | None) -> Tensor:
        module = self._made[table]
        ids = self.token_ids(g, batch, tokens)
        x: Tensor
        if module.adapter is not None:
            x = module.adapter.forward(g, module, ids, module.params)
        else:
            x = g.embedding(ids, module.weight, module.spec.path)
        # Gemma's embedding module multiplies its own output
        return g.scale(x, "embedding scale") if self.arch.facts.get("scaled_embeddings") else x

    def _entering(self, g: Ops, x: Tensor) -> Tensor:
        if self.plan.input_require_grads and not x.rg:
            # enable_input_require_grads: the embeddings become a leaf of their own, held with its gradient by the graph
            leaf, new, size, shape, dt = self.leaf, g.t.new, x.n * x.dt.size, x.shape, x.dt
            leaf.append(x.st)

            def arrive(grad: Storage) -> Sequence[Storage | None]:
                if not leaf:
                    leaf.append(new(size, "embeddings", shape, dt))
                leaf.append(grad)
                return ()

            x = Tensor(x.st, x.shape, x.n, x.dt, True, g.t.node(arrive, ()))
        return x

    def before_backward(self) -> None:
        """Let go of a leaf that the first layer holds as its input too.

        The traced copy of a repeated layer frees its input on behalf of all copies;
        what the graph still holds of the first one is put back when its gradient arrives.
        """
        if self.leaf and getrefcount(self.leaf[0]) > _IN_LIST:
            self.leaf.clear()

    def with_prefix(
        self, g: Ops, layer: Layer, k: Tensor, v: Tensor, mask: Mask | None
    ) -> tuple[Tensor, Tensor, Mask | None]:
        """Keys and values with the method's trained prefix in front (``past_key_values.update``)."""
        if layer.prefix is None:
            return k, v, mask
        before, layer.prefix = list(layer.prefix), None
        n = before[0].shape[2]
        v2 = before.pop()
        k = g.cat((before.pop(), k), (*k.shape[:2], k.shape[2] + n, k.shape[3]))
        self.cache.append(k.st)
        v = g.cat((v2, v), (*v.shape[:2], v.shape[2] + n, v.shape[3]))
        self.cache.append(v.st)
        return k, v, mask

    def causal_loss(
        self, g: Ops, x: Tensor, batch: Batch, head: str = "lm_head", softcap: bool = False, scaled: bool = False
    ) -> Tensor:
        """Head and loss of a causal model, or the fused loss under ``use_liger_kernel``.

        ``softcap`` and ``scaled``: what the model does to its logits (tanh cap, a factor).
        """
        self.locals.clear()
        module = self._made[head]
        plan = self.plan
        if plan.settings.use_liger_kernel and not softcap:
            return g.fused_linear_cross_entropy(x, module.weight)
        if not plan.training:  # generation asks for the last token's logits only
            last: Tensor = module(g, g.slice(x, (x.shape[0], 1, x.shape[2])))
            return last
        logits = [module(g, x)]
        del x
        if scaled:
            logits[0] = g.scale(logits[0], "logit scale")
        if softcap:
            logits[0] = g.scale(g.tanh(g.scale(logits[0], "softcap")), "softcap")
        return self.finish(g, logits, batch)

    def finish(self, g: Ops, logits: list[Tensor], batch: Batch) -> Tensor:
        """Loss over the logits of every token; a hand-written loop keeps the model's outputs until its next step."""
        labels = g.ones((batch.size, logits[0].shape[1]), I64, "labels")
        loss = g.causal_lm_loss(logits, labels)
        if self.plan.method.wraps_layers:  # a second loss follows while the model's output is held
            self.cache.append(logits[0].st)
        if self.plan.keeps_outputs:
            self.outputs = logits[0].detach()
        return loss


def _within(runs: list[tuple[int, int, int]], only: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """Runs of equal layers cut to the layers from ``only[0]`` to below ``only[1]``."""
    if only is None:
        return runs
    out = []
    for start, period, times in runs:
        if period > 1:
            out += _within([(start + i, 1, 1) for i in range(period * times)], only)
            continue
        first, last = max(start, only[0]), min(start + times, only[1])
        if first < last:
            out.append((first, 1, last - first))
    return out
