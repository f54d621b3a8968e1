"""The phases of a training step, in order: load, forward, backward, clip and optimizer step.

The traced step is one in the middle of training: optimizer states exist, cuBLAS
has its workspaces. The first step differs only by being lower before its
optimizer step; the highest of steps 1 to 3 is the same.
"""

from __future__ import annotations

from dataclasses import replace

from hubvram.architecture.modules import Embedding, Linear, Module, Weight, numel
from hubvram.plan import quantized
from hubvram.plan.methods.base import Adapter, ParameterAdapter
from hubvram.plan.network import Network
from hubvram.plan.optimizers import Scratch, state_bytes
from hubvram.plan.plan import Plan
from hubvram.timeline.dtypes import F32, U8
from hubvram.timeline.ops import Ops
from hubvram.timeline.ops.quantized import int8_bytes, nf4_bytes
from hubvram.timeline.tracer import ACTIVATIONS, GRADIENTS, OPTIMIZER, TEMPORARY, WEIGHTS, Param, Storage, Tracer

CUBLAS_WORKSPACE = 8320 * 1024
"""Bytes per (handle, stream) below compute capability 9.0: 2 x 4096 KiB + 8 x 16 KiB (torch 2.13
``CUDABlas.cpp`` getChosenWorkspaceSize, ``:4096:2:16:8``). Forward and backward run in different threads: two."""
CUBLAS_WORKSPACE_HOPPER = 32 * 1024 * 1024
"""The same from compute capability 9.0 on."""


LIGER_MODEL_TYPES = frozenset(
    {
        "llama",
        "mistral",
        "mixtral",
        "gemma",
        "gemma2",
        "gemma3_text",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "phi3",
        "granite",
        "olmo2",
        "olmo3",
        "glm4",
        "smollm3",
        "llama4_text",
        "llava",
        "qwen2_vl",
        "qwen2_5_vl",
    }
)
"""Model types whose norms, rotary embedding and MLP liger-kernel 0.8 replaces (``transformers/monkey_patch.py``)."""


def trace(plan: Plan, *, explain: bool = False, sm: int = 80) -> tuple[Tracer, Network]:
    """Run one step of ``plan`` under a tracer."""
    t = Tracer(explain=explain)
    liger = plan.settings.use_liger_kernel and plan.arch.model_type in LIGER_MODEL_TYPES
    g = Ops(
        t,
        training=plan.training,
        attn=plan.settings.attn_implementation,
        sm=sm,
        torch=plan.stack.torch,
        transformers=plan.stack.transformers,
        peft=plan.stack.peft,
        bitsandbytes=plan.stack.bitsandbytes,
        past=plan.method.prefix_tokens,
        liger=liger,
        liger_mlp=liger and "liger-kernel" in plan.settings.stack,
    )
    shard(plan, t)
    t.phase("load")
    held: list[Storage | None] = weights(plan, t) if plan.sharding.shards_on_gpu else rotary_buffers(plan, t)
    if plan.packed in ("4bit", "8bit"):
        # bitsandbytes quantises on the GPU: the largest weight is there whole for a moment (Params4bit.cuda)
        t.passing(largest_linear(plan) * plan.base_dtype.size, op="weight before it is quantised")
    net = Network(plan)
    t.phase("forward")
    workspace = CUBLAS_WORKSPACE if sm < 90 else CUBLAS_WORKSPACE_HOPPER
    threads = 2 if plan.training else 1
    held.append(t.hold(workspace, threads, TEMPORARY, "cuBLAS workspace", (workspace,), U8))
    if not plan.training:
        held.append(kv_cache(plan, t))
        with t.no_grad(), t.autocasting(plan.autocast):
            plan.arch.forward(g, net, plan.batch)
        t.phase("optimizer")
        t.phase("steady")
        del held
        return t, net
    states = optimizer_states(plan, t) if plan.sharding.states_on_gpu else []
    gradients = earlier_gradients(plan, t)
    gathered = [
        t.hold(size, 1, TEMPORARY, name, (size,), U8)
        for name, size in plan.sharding.buffers(*unit_bytes(plan), *_trainable_size(plan))
    ]
    with t.autocasting(plan.autocast):
        loss = plan.method.after_loss(g, net, plan.arch.forward(g, net, plan.batch))
    net.cache.clear()
    net.before_backward()
    t.phase("backward")
    if plan.sharding.keeps_inputs(plan.trainable_parameters() >= plan.arch.total_parameters()):
        t.lingering = []
    updates = Updates(plan, t) if plan.optimizer.in_backward else None
    if updates is not None:
        t.on_gradient = updates.arrived
    t.backward(loss)
    if updates is not None:
        updates.finish()
    t.lingering = None
    del loss, gathered
    t.phase("optimizer")
    if plan.sharding.states_on_gpu:
        step(plan, t, net)
    del gradients
    for param in net.params:
        param.grad = None
    net.inputs.clear()
    net.leaf.clear()
    t.phase("steady")
    del states, held
    return t, net


def largest_linear(plan: Plan) -> int:
    """Elements of the largest weight that is quantised."""
    return max(
        (
            module.in_features * module.out_features
            for stack in plan.arch.stacks.values()
            for block in stack.blocks
            for module in block.modules.values()
            if isinstance(module, Linear) and module.role not in ("head", "router")
        ),
        default=0,
    )


def kv_cache(plan: Plan, t: Tracer) -> Storage | None:
    """Keys and values of every layer for the whole sequence, in the base dtype (transformers DynamicCache)."""
    arch = plan.arch
    if arch.task not in ("causal", "seq2seq", "speech"):
        return None
    per_token = arch.facts.get("cache_bytes_per_token")
    if per_token is None:
        per_token = 2 * arch.num_layers * arch.num_key_value_heads * arch.head_dim * plan.base_dtype.size
    size = per_token * plan.batch.tokens * plan.batch.size
    return t.hold(size, 1, ACTIVATIONS, "KV cache", (plan.batch.size, plan.batch.tokens), plan.base_dtype)


def weights(plan: Plan, t: Tracer) -> list[Storage | None]:
    """Allocate every weight as it is held after loading, equal layers together."""
    held: list[Storage | None] = []
    arch = plan.arch
    for name, spec in arch.modules.items():
        held += _module(plan, t, spec.path, spec, None, 1, tied=name in arch.tied)
    for stack, s in arch.stacks.items():
        for start, period, times in plan.runs(stack):
            for i in range(period):
                block = s.blocks[s.order[start + i]]
                for module in block.modules.values():
                    path = f"{s.prefix}.{start + i}.{module.path}"
                    held += _module(plan, t, path, module, start + i, times, tied=False)
    held += rotary_buffers(plan, t)
    if plan.sharding.upcast:
        grown = sum(_size(shape) * (F32.size - dt.size) * count for _, shape, dt, count in plan.trainable())
        held.append(t.hold(grown, 1, WEIGHTS, "trainable weights in fp32 (the rest of them)", (grown,), F32))
    for p in plan.method.extra_params:
        held.append(t.hold(_size(p.shape) * p.dtype.size, 1, WEIGHTS, p.name, p.shape, p.dtype))
    return held


def rotary_buffers(plan: Plan, t: Tracer) -> list[Storage | None]:
    """Buffers of rotary embeddings, which no checkpoint holds.

    transformers >= 4.40 has ``inv_freq`` and its copy, fp32, once a model; before,
    every layer had cos and sin tables of max_position_embeddings rows.
    """
    dim = plan.arch.facts.get("rotary_dim")
    if not dim:
        return []
    if plan.stack.transformers < (4, 40) and plan.arch.max_seq_len:
        shape = (plan.arch.max_seq_len, dim)
        size = _size(shape) * plan.base_dtype.size
        return [t.hold(size, 2 * plan.arch.num_layers, WEIGHTS, "rotary cos and sin tables", shape, plan.base_dtype)]
    return [t.hold(dim // 2 * F32.size, 2, WEIGHTS, "rotary inv_freq", (dim // 2,), F32)]


def _size(shape: tuple[int, ...]) -> int:
    n = 1
    for side in shape:
        n *= side
    return n


def _module(
    plan: Plan, t: Tracer, path: str, spec: object, layer: int | None, count: int, *, tied: bool
) -> list[Storage | None]:
    held: list[Storage | None] = []
    how = plan.held(path, spec)  # type: ignore[arg-type]  # Module union
    for part, shape in spec.parameters:  # type: ignore[attr-defined]  # every Module has it
        if tied and part == "weight":
            continue
        name = f"{path}.{part}" if part else path
        if how.packed and part in ("weight", "") and isinstance(spec, (Linear, Weight)):
            sizes = packed_sizes(plan, how.packed, spec)
            held += [t.hold(size, count, WEIGHTS, f"{name} ({how.packed})", (size,), U8) for size in sizes]
            continue
        held.append(t.hold(_size(shape) * how.dtype.size, count, WEIGHTS, name, shape, how.dtype))
    copied = plan.copied(path, spec, layer)  # type: ignore[arg-type]  # Module union
    if copied is not None:
        held += [
            t.hold(_size(shape) * copied.size, count, WEIGHTS, f"{path}.{part} (trained copy)", shape, copied)
            for part, shape in spec.parameters  # type: ignore[attr-defined]  # every Module has it
        ]
        return held
    adapter: Adapter | ParameterAdapter | None = None
    if isinstance(spec, Linear):
        adapter = plan.method.adapter(path, spec, layer)
    elif isinstance(spec, Embedding):
        adapter = plan.method.embedding_adapter(path, spec)
    elif isinstance(spec, Weight) and spec.adaptable:
        adapter = plan.method.parameter_adapter(path, spec, layer)
    if adapter is not None:
        held += [
            t.hold(_size(p.shape) * p.dtype.size, count, WEIGHTS, p.name, p.shape, p.dtype) for p in adapter.params
        ]
    return held


def packed_sizes(plan: Plan, packed: str, spec: Linear | Weight) -> list[int]:
    """Bytes of each tensor that holds one quantised weight."""
    if packed in quantized.FORMATS:
        return quantized.sizes(packed, spec, plan.quantization, plan.base_dtype)
    n = numel(spec) if isinstance(spec, Weight) else spec.in_features * spec.out_features
    if packed == "4bit" or isinstance(spec, Weight):
        return nf4_bytes(n, plan.double_quant)
    return int8_bytes(spec.out_features, spec.in_features)


def optimizer_states(plan: Plan, t: Tracer) -> list[Storage | None]:
    """States of every trainable parameter, equal layers together, and the optimizer's shared tables."""
    held: list[Storage | None] = []
    sharding, optimizer = plan.sharding, plan.optimizer
    for p in plan.trained():
        held_in = F32 if sharding.upcast or sharding.master else p.dtype
        size = state_bytes(optimizer, replace(p, dtype=held_in), trainer=plan.trainer)
        held.append(t.hold(size, p.count, OPTIMIZER, f"{optimizer.name} states of {p.name}", p.shape, held_in))
        if sharding.master and p.dtype is not F32:
            held.append(t.hold(p.n * F32.size, p.count, OPTIMIZER, f"fp32 master of {p.name}", p.shape, F32))
    held += [t.hold(size, 1, OPTIMIZER, f"{optimizer.name} code table", (size,), U8) for size in optimizer.shared]
    return held


def earlier_gradients(plan: Plan, t: Tracer) -> list[Storage | None]:
    """Gradients of the micro steps before, under gradient accumulation: alive all through the last one.

    Before torch 2.0 ``zero_grad`` filled gradients with zeros: those of the step before are alive as well.
    """
    if plan.settings.gradient_accumulation_steps == 1 and plan.stack.torch >= (2,):
        return []
    t.accumulates = True
    more, over = t.grad_share
    return [
        t.hold(-(-_size(shape) * dt.size * more // over), count, GRADIENTS, f"gradient of {name}", shape, dt)
        for name, shape, dt, count in plan.trainable()
    ]


def shard(plan: Plan, t: Tracer) -> None:
    """Tell the tracer over how many GPUs each kind of memory is spread."""
    sharding = plan.sharding
    t.shares[WEIGHTS] = sharding.params
    t.shares[OPTIMIZER] = sharding.states
    t.grad_share = (2 if sharding.upcast and plan.base_dtype.size == 2 else 1, sharding.grads)


def unit_bytes(plan: Plan) -> tuple[int, int]:
    """Bytes of the largest layer and of everything outside the layers, whole, as they are computed with."""
    arch, size = plan.arch, plan.base_dtype.size
    layers = [
        sum(_held_size(plan, f"{s.prefix}.0.{m.path}", m) for m in block.modules.values())
        for s in arch.stacks.values()
        for block in s.blocks
    ]
    root = sum(numel(m) for name, m in arch.modules.items() if name not in arch.tied) * size
    return max(layers, default=0), root


def _held_size(plan: Plan, path: str, module: Module) -> int:
    how = plan.held(path, module)
    if how.packed and isinstance(module, (Linear, Weight)):
        return sum(packed_sizes(plan, how.packed, module))
    return numel(module) * how.dtype.size


def _trainable_size(plan: Plan) -> tuple[int, int]:
    return plan.trainable_parameters(), plan.base_dtype.size


def step(plan: Plan, t: Tracer, net: Network) -> None:
    """Gradient clipping and the optimizer's own temporaries."""
    params = list(plan.trainable())
    count = sum(c for *_, c in params)
    if plan.settings.max_grad_norm > 0 and count:
        norms = t.hold(F32.size, count, TEMPORARY, "clip_grad_norm_ norms", (), F32)
        stacked = t.hold(F32.size * count, 1, TEMPORARY, "clip_grad_norm_ stacked norms", (count,), F32)
        del norms, stacked
    if plan.optimizer.in_backward:
        return
    upcast = plan.sharding.upcast

    def release() -> None:
        for param in net.params:
            param.grad = None

    scratch = Scratch(t, plan.sharding.states, release)
    plan.optimizer.step(scratch, [replace(p, dtype=F32) if upcast else p for p in plan.trained()])


class Updates:
    """Weights updated while backward runs: the hook on arriving gradients."""

    def __init__(self, plan: Plan, t: Tracer) -> None:
        """Looks the trained parameters up once."""
        self.by_name = {p.name: p for p in plan.trained()}
        self.scratch = Scratch(t, plan.sharding.states)
        self.optimizer = plan.optimizer
        self.waiting: Param | None = None

    def arrived(self, param: Param) -> None:
        """A gradient is whole: use it, or (a hook before accumulation) the one that waits."""
        if not self.optimizer.lag:
            self._use(param)
            return
        self.finish()
        self.waiting = param
        if param.grad is not None:
            self.scratch.tracer.single.add(param.grad.sid)  # of equal layers, the last one's waits

    def finish(self) -> None:
        """Use the gradient that waits."""
        if self.waiting is not None:
            self._use(self.waiting)
            self.waiting = None

    def _use(self, param: Param) -> None:
        if self.optimizer.lag:
            param.grad = None  # cast to fp32 first, but nothing else is made while both are there
        self.optimizer.step(self.scratch, [replace(self.by_name[param.name], count=1)])
        param.grad = None


__all__ = ["kv_cache", "optimizer_states", "step", "trace", "weights"]
