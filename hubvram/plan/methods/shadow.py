"""ShadowPEFT: a small copy of the model runs first, and its state travels beside the frozen decoder.

Source: peft 0.21 ``tuners/shadow/{model,layers}.py``. The copy ("mirror") has the model's
class and widths and one layer; it shares the frozen input embeddings, runs without gradient
checkpointing and is trained in the base's dtype. Every decoder block takes a low-rank correction
before it and moves the travelling state after it; the copy's own loss is added at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hubvram.architecture.modules import Embedding, Linear, Module, Stack, Weight
from hubvram.plan.layers import Layer, PlainLinear, Table
from hubvram.plan.methods.base import Adapter, Context, Method, MethodPlan, NewParam, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.network import Batch, Network
from hubvram.timeline.dtypes import BY_NAME, F32
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Storage, Tensor

NAMED = ("layers", "h")
"""Names under which PEFT looks for the decoder's layers."""
UNKNOWN = (
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "shadow_hidden_size",
    "shadow_num_attention_heads",
    "shadow_intermediate_size",
)
"""Keys that change which blocks are wrapped or the copy's widths."""


class ShadowPlan(MethodPlan):
    """The mirrored copy's weights, and five small products per block."""

    wraps_layers = True

    def __init__(self, ctx: Context) -> None:
        """Names every new weight.

        Raises:
            Skip: a model whose layers PEFT does not find, or a copy of other widths.
        """
        self.ctx, self.config, arch = ctx, ctx.peft, ctx.arch
        stack = arch.stacks.get(arch.decoder)
        if arch.task != "causal" or stack is None or stack.prefix.rsplit(".", 1)[-1] not in NAMED:
            raise Skip("PEFT's shadow models take causal decoders whose layers are called layers or h.")
        self.stack: Stack = stack
        given = [key for key in UNKNOWN if self.config[key] is not None]
        if given or self.config["shadow_model"] != "mirror":
            raise Skip(f"Only shadow copies of the model's own widths are known here, not {', '.join(given)}.")
        self.depth = int(self.config["shadow_num_hidden_layers"] or 1)
        self.r = int(self.config["r"])
        self.inner = int(self.config["update_hidden_size"] or self.r)
        self.dropout = float(self.config["shadow_dropout"])
        self.shares = bool(self.config["share_embeddings"])
        dt = F32 if ctx.packed else ctx.base_dtype
        self.extra_params = [
            NewParam(f"shadow_backbone.{name}", shape, BY_NAME[own] if own else dt, trainable)
            for name, shape, own, trainable in self._mirror()
        ]
        self.seed: list[Tensor] = []
        last = f"{self.stack.prefix}.{arch.num_layers - 1}."
        first = self._first(self.stack.blocks[self.stack.order[-1]].modules)
        idle = {p.name for p in self._params(f"{last}{first.path}") if "update" in p.name}
        if self.shares:  # an embedding of another name than embed_tokens stays in the copy, unused
            idle |= {f"shadow_backbone.{m.path}.weight" for m in [arch.modules["embed"]]}
        self.idle = frozenset(idle)

    def _mirror(self) -> Iterator[tuple[str, tuple[int, ...], str | None, bool]]:
        """(name, shape, dtype where it has its own, trained?) of everything in the copy."""
        arch, stack = self.ctx.arch, self.stack
        found = []
        for name, module in arch.modules.items():
            head = isinstance(module, Linear) and module.role == "head"
            removed = self.shares and module.path.endswith("embed_tokens")
            if not head and not removed and name not in arch.tied:
                found.append((module.path, module))
        for i in range(self.depth):
            kind = stack.order[min(i, len(stack.order) - 1)]
            for module in stack.blocks[kind].modules.values():
                found.append((f"{stack.prefix}.{i}.{module.path}", module))  # noqa: PERF401
        for path, module in found:
            own = module.dtype if isinstance(module, Weight) else None
            trained = not (isinstance(module, Weight) and module.buffer)
            yield from ((f"{path}.{part}" if part else path, shape, own, trained) for part, shape in module.parameters)

    @staticmethod
    def _first(modules: Any) -> Linear:
        found = next((m for m in modules.values() if isinstance(m, Linear)), None)
        if found is None:
            raise Skip("A layer without linear layers has no shadow here.")
        return found

    def _params(self, path: str) -> list[NewParam]:
        width, r, inner, dt = self.ctx.arch.hidden_size, self.r, self.inner, self.ctx.adapter_dtype
        out = [NewParam(f"{path}.shadow_down", (r, width), dt), NewParam(f"{path}.shadow_up", (width, r), dt)]
        for name in ("shadow_update_transform", "shadow_update_gate"):
            out += [
                NewParam(f"{path}.{name}.0.weight", (inner, width), dt),
                NewParam(f"{path}.{name}.0.bias", (inner,), dt),
                NewParam(f"{path}.{name}.2.weight", (width, inner), dt),
                NewParam(f"{path}.{name}.2.bias", (width,), dt),
            ]
        return out

    def adapter(self, path: str, module: Linear, layer: int | None) -> Adapter | None:
        """A block's own parameters are kept with its first linear layer, which runs as ever."""
        stack = self.stack
        if layer is None or not path.startswith(f"{stack.prefix}."):
            return None
        if module is not self._first(stack.blocks[stack.order[layer]].modules):
            return None
        return Adapter(tuple(self._params(path)), _plain)

    def layer_key(self, path: str, layer: int) -> Any:
        """Nothing comes of the last block's new state."""
        stack = self.stack
        return "last" if path == f"{stack.prefix}.{len(stack.order) - 1}" else None

    # ---- running --------------------------------------------------------

    def before_embeddings(self, g: Ops, net: Any) -> None:
        """The copy runs on the same tokens; the tuner holds its result until the next step."""
        shadow: Any = ShadowNet(net, self)
        state = self.ctx.arch.forward(g, shadow, net.plan.batch)
        net.inputs.append(state.detach())
        self.seed.append(state)
        net.travelling.append(state)

    def around(self, g: Ops, net: Any, layer: Any, x: Tensor, run: Callable[[Tensor], Tensor], *, last: bool) -> Tensor:
        """Correct the block's input, run it, move the state."""
        params = next(m.params for m in vars(layer).values() if getattr(m, "params", None))
        state = net.travelling[0]
        injected = self._inject(g, x, state, params)
        out = run(injected)
        net.travelling[0] = self._update(g, out, state, params)
        if last:
            net.travelling.clear()
        return out

    def _inject(self, g: Ops, x: Tensor, state: Tensor, params: Sequence[Param]) -> Tensor:
        down, up = params[0], params[1]
        delta = g.to(g.sub(x, state), down.dt)
        delta = g.dropout(delta, self.dropout)
        delta = g.linear(g.linear(delta, down, None, "shadow_down"), up, None, "shadow_up")
        return g.add(x, g.to(g.scale(delta, "shadow alpha"), x.dt))

    def _update(self, g: Ops, out: Tensor, state: Tensor, params: Sequence[Param]) -> Tensor:
        dt = params[2].dt
        hidden = g.to(out, dt)
        candidate = _mlp(g, hidden, params[2:6], "shadow transform")
        gate = g.sigmoid(_mlp(g, hidden, params[6:10], "shadow gate"))
        moved = g.add(g.mul(g.add_scalar(gate), g.to(state, dt)), g.mul(gate, candidate))
        return g.to(moved, state.dt)

    def after_loss(self, g: Ops, net: Any, loss: Tensor) -> Tensor:
        """The copy's own loss through the model's head, on shifted logits of the head's dtype."""
        state = self.seed.pop()
        logits = net.lm_head(g, state)
        del state
        part = g.shift_logits(logits)
        more = g.cross_entropy(part)
        del part, logits
        if float(self.config["auxiliary_loss_weight"]) <= 0:
            return loss
        return g.add(loss, g.scale(more, "auxiliary loss weight"))


def _plain(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
    out: Tensor = base(g, x)
    return out


def _mlp(g: Ops, x: Tensor, params: Sequence[Param], name: str) -> Tensor:
    h = g.linear(x, params[0], params[1], f"{name} 0")
    h = g.gelu(h)
    return g.linear(h, params[2], params[3], f"{name} 2")


class ShadowNet:
    """What the family's forward sees while the copy runs: the copy's weights, no head."""

    def __init__(self, net: Network, plan: ShadowPlan) -> None:
        """Weights are the plan's extra parameters, by name."""
        self.net = net
        self.arch = net.arch
        self.plan = net.plan
        self.shadow = plan
        self.inputs = net.inputs
        self.locals = net.locals
        self.cache = net.cache
        self._weights = {p.name.removeprefix("shadow_backbone."): p for p in net.prompt_params}

    def __getattr__(self, name: str) -> Any:
        """Modules outside the layers, by the names the family gave them.

        Raises:
            Skip: for the head, which the copy is made without.
        """
        spec = self.__dict__["arch"].modules.get(name)
        if spec is None:
            raise AttributeError(name)
        return self._made(spec.path, spec)

    def _made(self, path: str, spec: Module) -> Any:
        if isinstance(spec, Weight):
            return self._weights[path]
        weight, bias = self._weights.get(f"{path}.weight"), self._weights.get(f"{path}.bias")
        if isinstance(spec, Linear):
            if spec.role == "head":
                raise Skip("The shadow copy has no head, and this model's loss is not worked out apart from its head.")
            return PlainLinear(spec.path, spec, weight, bias)  # type: ignore[arg-type]
        return Table(spec, weight, bias)

    def embed_tokens(self, g: Ops, batch: Batch, table: str = "embed", tokens: int | None = None) -> Tensor:
        """The base's frozen embeddings, or the copy's own."""
        if self.shadow.shares or not isinstance(self.arch.modules[table], Embedding):
            x = self.net._look_up(g, batch, table, tokens)  # noqa: SLF001 - the copy stands inside the network
            return self._entering(g, x)
        own = self.__getattr__(table)
        return g.embedding(self.net.token_ids(g, batch, tokens), own.weight, own.spec.path)

    def _entering(self, g: Ops, x: Tensor) -> Tensor:
        """``enable_input_require_grads`` hooks the embedding, which runs for the copy too: a leaf with its gradient.

        The tuner holds the copy's result, and so its graph and this leaf, until the next step.
        """
        if not self.plan.input_require_grads or x.rg:
            return x
        held, shape, n, dt = self.inputs, x.shape, x.n, x.dt
        held.append(x)

        def arrive(grad: Storage) -> Sequence[Storage | None]:
            held.append(Tensor(grad, shape, n, dt))
            return ()

        return Tensor(x.st, shape, n, dt, True, g.t.node(arrive, ()))

    def run(self, g: Ops, stack: str, layer: Any, x: Tensor, **_: Any) -> Tensor:
        """The copy's layers, never checkpointed."""
        spec = self.arch.stacks[stack]
        for i in range(self.shadow.depth):
            kind = spec.order[min(i, len(spec.order) - 1)]
            block = spec.blocks[kind]
            made = Layer(block.facts)
            for name, module in block.modules.items():
                setattr(made, name, self._made(f"{spec.prefix}.{i}.{module.path}", module))
            fn = layer if callable(layer) else layer[kind]
            x = fn(made, x)
        return x

    def with_prefix(self, g: Ops, layer: Layer, k: Tensor, v: Tensor, mask: Any) -> tuple[Tensor, Tensor, Any]:
        """Nothing stands in front."""
        return k, v, mask

    def causal_loss(self, g: Ops, x: Tensor, batch: Batch, *_: Any, **__: Any) -> Tensor:
        """The last hidden states."""
        return x


METHODS = [
    Method(
        name="shadow",
        title="ShadowPEFT",
        group="reparametrised",
        trains="a one-layer copy of the model, and per block a low-rank correction and two small MLPs",
        formula="the copy without embeddings and head + layers * ((2 * r + 4 * u + 2) * d + 2 * u); u is r or given",
        source="peft 0.21 tuners/shadow",
        apply=ShadowPlan,
        peft_type="SHADOW",
        keys=KEYS["SHADOW"],
    ),
]
