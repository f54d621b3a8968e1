"""The forms of LoRA that change its layer: DoRA, MiCA, QA-LoRA, BD-LoRA, KaSA, VeLoRA, MonteCLoRA, trained tokens.

Source: peft 0.21 ``tuners/lora/{variants,dora,layer,velora,monteclora}.py``,
``tuners/trainable_tokens/layer.py``. PEFT takes one of them at a time. Forms that differ
only in how A and B begin (PiSSA, OLoRA, EVA, LoftQ, CorDA, LoRA-GA, orthogonal) train and keep
what plain LoRA does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods.base import Adapter, Context, Forward, NewParam, Skip
from hubvram.timeline.dtypes import DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import GRAD, Param, Tensor

FLAGS = ("use_dora", "use_qalora", "use_bdlora", "velora_config", "monteclora_config", "kasa_config")
PACKED: Mapping[str, tuple[str, ...]] = {
    "use_dora": ("4bit", "8bit", "gptq"),
    "use_qalora": ("gptq",),
}
"""Quantised bases on which a form works; the others work on none."""


def chosen(ctx: Context, config: Mapping[str, Any]) -> str | None:
    """The one form that the config asks for.

    Raises:
        Skip: two at once, or a base it does not work on.
    """
    found = [name for name in FLAGS if config.get(name)]
    if config.get("init_lora_weights") == "mica":
        found.append("mica")
    if len(found) > 1:
        raise Skip(f"PEFT has no LoRA layer with {' and '.join(found)} together.")
    if not found:
        return None
    name = found[0]
    if ctx.packed and ctx.packed not in PACKED.get(name, ()):
        raise Skip(f"PEFT's LoRA layer for a quantised base does not take {name}.")
    if name == "use_qalora" and not ctx.packed:
        raise Skip("use_qalora works on GPTQ bases only.")
    return name


def option(config: Any, name: str, default: Any) -> Any:
    """A value of a nested config given as a mapping (or just ``True``)."""
    return config.get(name, default) if isinstance(config, Mapping) else default


def adapter(variant: str | None, plan: Any, path: str, module: Linear, r: int) -> Adapter:
    """Parameters and forward of one target."""
    dt: DType = plan.dtype
    a: tuple[int, ...] = (r, module.in_features)
    b: tuple[int, ...] = (module.out_features, r)
    more: list[NewParam] = []
    train_b = True
    run: Forward = plan.forward
    config = plan.config
    if config["lora_bias"]:
        more.append(NewParam(f"{path}.lora_B.bias", (module.out_features,), dt))
    if variant == "use_dora":
        if module.kind not in ("Linear", "Conv1D"):
            raise Skip(f"DoRA on convolutions such as {path} is not known here.")
        more.append(NewParam(f"{path}.lora_magnitude_vector", (module.out_features,), dt))
        run = dora(plan.dropout)
    elif variant == "mica":
        train_b = False
    elif variant == "use_qalora":
        group = int(config["qalora_group_size"])
        if module.in_features % group:
            raise Skip(f"QA-LoRA needs in_features divisible by qalora_group_size {group}: {path}.")
        a = (r, module.in_features // group)
        run = qalora(group, plan.dropout)
    elif variant == "use_bdlora":
        a, b = block_diagonal_shapes(config["use_bdlora"], path, module, r)
    elif variant == "kasa_config":
        if module.kind == "Conv1D":
            raise Skip("KaSA takes no Conv1D layers.")
        more.append(NewParam(f"{path}.lora_diag", (r,), dt))
        run = kasa(plan.dropout)
    elif variant == "velora_config":
        groups = int(option(config["velora_config"], "num_groups", 64))
        more.append(NewParam(f"{path}.lora_velora_embed", (module.in_features // groups,), dt, trainable=False))
        run = velora(groups, plan.dropout)
    elif variant == "monteclora_config":
        samples = int(option(config["monteclora_config"], "num_samples", 8))
        more += [
            NewParam(f"{path}.monteclora.std_prior", (r,), dt),
            NewParam(f"{path}.monteclora.expert_weights_prior", (samples,), dt),
            NewParam(f"{path}.monteclora.gaussian_var_prior", (r, r), dt, trainable=False),
            NewParam(f"{path}.monteclora.expert_weights", (samples,), dt, trainable=False),
        ]
        run = monteclora(samples, plan.dropout)
    return Adapter(
        (
            NewParam(f"{path}.lora_A", a, dt),
            NewParam(f"{path}.lora_B", b, dt, trainable=train_b),
            *more,
        ),
        run,
    )


def block_diagonal_shapes(given: Any, path: str, module: Linear, r: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """BD-LoRA: A or B of the named targets is block diagonal."""
    blocks = int(option(given, "nblocks", 1))
    name = path.rsplit(".", 1)[-1]
    in_a = any(p in name for p in option(given, "target_modules_bd_a", None) or ())
    in_b = any(p in name for p in option(given, "target_modules_bd_b", None) or ())
    if in_a and in_b:
        raise Skip(f"BD-LoRA: {path} matches both target_modules_bd_a and target_modules_bd_b.")
    if option(given, "match_strict", True) and not (in_a or in_b):
        raise Skip(f"BD-LoRA: {path} matches neither target_modules_bd_a nor target_modules_bd_b.")
    a = (r, module.in_features // blocks if in_a else module.in_features)
    b = (module.out_features, r // blocks if in_b else r)
    return a, b


def dora(dropout: float) -> Forward:
    """``DoraLinearLayer``: the norm of W + B A is taken at every pass."""

    def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        a, b, magnitude = params[0], params[1], params[-1]
        result = base(g, x)
        src = result.dt
        x = g.to(x, a.dt)
        base_result: Tensor | None = result
        if dropout > 0 and g.training:
            x = g.dropout(x, dropout)
            base_result = None
        # the product has a graph, whose saved tensors live as long as it does, but no gradient ever comes
        dead = [g.eye(a.shape[1], a.dt)]
        dead.append(g.linear(dead[0], a.detach(), None, "dora A of eye"))
        product = g.linear(dead[1], b.detach(), None, "dora B A")
        if g.t.mode != GRAD:
            dead.clear()
        weight = g.to(g.base_weight(base), x.dt)
        scaled = g.scale(product, "dora scaling")
        changed = g.add(weight, scaled)
        del scaled
        norm = g.constant((b.shape[0],), x.dt, "dora weight norm")
        del changed
        scale = g.div(magnitude, norm)
        delta = g.linear(g.linear(x, a, None, "lora_A"), b, None, "lora_B")
        if base_result is None:
            base_result = g.linear(x, weight, None, "dora base")
        elif base.bias is not None:
            base_result = g.sub(base_result, base.bias)
        first = g.mul(g.add_scalar(scale), base_result)
        second = g.scale(g.mul(scale, delta), "dora scaling")
        change = g.add(first, second)
        del first, second, delta
        result = g.add(result, change)
        del change, product, weight, base_result
        dead.clear()
        return g.to(result, src)

    return forward


def qalora(group: int, dropout: float) -> Forward:
    """The input is averaged over groups before A."""

    def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        a, b = params[0], params[1]
        result = base(g, x)
        src = result.dt
        x = g.to(x, a.dt)
        pooled = g.any_op("qalora pool", (g.dropout(x, dropout),), (*x.shape[:-1], a.shape[1]), x.dt)
        pooled = g.scale(pooled, "qalora pool")
        low = g.linear(pooled, a, None, "lora_A")
        delta = g.scale(g.linear(low, b, None, "lora_B"), "lora scaling")
        result = g.add(result, delta)
        return g.to(result, src)

    return forward


def kasa(dropout: float) -> Forward:
    """A diagonal between A and B."""

    def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        a, b, diagonal = params[0], params[1], params[-1]
        result = base(g, x)
        src = result.dt
        low = g.linear(g.dropout(g.to(x, a.dt), dropout), a, None, "lora_A")
        delta = g.scale(g.linear(g.mul(low, diagonal), b, None, "lora_B"), "lora scaling")
        del low
        result = g.add(result, delta)
        return g.to(result, src)

    return forward


def velora(groups: int, dropout: float) -> Forward:
    """``VeloraFunction``: keeps one number per group of the input instead of the input."""

    def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        a, b = params[0], params[1]
        result = base(g, x)
        src = result.dt
        x = g.dropout(g.to(x, a.dt), dropout)
        shape = (*x.shape[:-1], groups)
        with g.t.no_grad():
            kept = g.constant(shape, x.dt, "velora compressed input")
        low = g.any_op(
            "velora A", (x, a), (*x.shape[:-1], a.shape[0]), x.dt, save=(kept, a), passing=(x.n * x.dt.size,)
        )
        del kept
        delta = g.scale(g.linear(low, b, None, "lora_B"), "lora scaling")
        del low
        result = g.add(result, delta)
        return g.to(result, src)

    return forward


def monteclora(samples: int, dropout: float) -> Forward:
    """A is perturbed by ``samples`` noise matrices and averaged."""

    def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        a, b, std, weights = params[0], params[1], params[-4], params[-3]
        result = base(g, x)
        src = result.dt
        x = g.to(x, a.dt)
        shape = (samples, a.shape[1], a.shape[0])
        noise = g.constant(shape, a.dt, "monteclora noise")
        noise = g.any_op("monteclora noise", (noise, std), shape, a.dt, save=(noise,))
        noise = g.any_op("nan_to_num", (noise,), shape, a.dt, save=(noise,))
        moved = g.add(noise, a.view(a.shape[1], a.shape[0]))
        del noise
        mean = g.any_op("monteclora mean", (weights, moved), a.shape, a.dt, save=(weights, moved))
        del moved
        low = g.linear(g.dropout(x, dropout), mean, None, "lora_A")
        delta = g.scale(g.linear(low, b, None, "lora_B"), "lora scaling")
        result = g.add(result, delta)
        return g.to(result, src)

    return forward


def embedding_forward(g: Ops, table: Any, ids: Tensor, params: Sequence[Param]) -> Tensor:
    """LoRA on an embedding: look up in A^T, times B^T."""
    a, b = params
    result = g.embedding(ids, table.weight, table.spec.path)
    src = result.dt
    low = g.embedding(ids, a.view(a.shape[1], a.shape[0]), "lora_embedding_A")
    delta = g.scale(g.mm(low, b.view(b.shape[1], b.shape[0]), "lora_embedding_B"), "lora scaling")
    del low
    result = g.add(result, delta)
    return g.to(result, src)


# ---- trained tokens ---------------------------------------------------------


def token_params(ctx: Context, tokens: int, dt: DType) -> list[NewParam]:
    """The trained rows and the frozen originals beside them."""
    width = ctx.arch.token_dim or ctx.arch.hidden_size
    return [
        NewParam("trainable_tokens_delta", (tokens, width), dt),
        NewParam("trainable_tokens_original", (tokens, width), dt, trainable=False),
    ]


def token_adapter(params: Sequence[NewParam]) -> Adapter:
    """On the embedding: the whole table is copied with the trained rows put in, at every pass."""
    return Adapter((), token_forward, (params[0].name,))


def token_head_adapter(params: Sequence[NewParam]) -> Adapter:
    """On a tied head: the same copy again."""
    return Adapter((), token_head_forward, (params[0].name,))


def merged_table(g: Ops, weight: Tensor, delta: Tensor) -> Tensor:
    """``W.index_copy(0, indices, delta.to(W))``; the gradient is gathered for the rows."""
    rows = g.to(delta, weight.dt)
    return g.any_op("index_copy", (rows,), weight.shape, weight.dt)


def token_forward(g: Ops, table: Any, ids: Tensor, params: Sequence[Param]) -> Tensor:
    """``F.embedding`` on the copied table."""
    merged = merged_table(g, table.weight, params[0])
    return g.embedding(ids, merged, table.spec.path)


def token_head_forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
    """``F.linear`` on the copied table."""
    merged = merged_table(g, base.weight, params[0])
    return g.linear(x, merged, None, base.name)


__all__ = ["adapter", "chosen", "embedding_forward", "token_adapter", "token_head_adapter", "token_params"]
