"""More prompt methods: multitask prompt tuning, CPT, cartridges, adaption prompts (LLaMA-Adapter).

Source: peft 0.21 ``tuners/{multitask_prompt_tuning,cpt,cartridge,adaption_prompt}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.errors import SettingError
from hubvram.plan.methods.base import Adapter, Context, Method, MethodPlan, NewParam, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.prompt import PROMPT_KEYS, PrefixPlan, PromptPlan
from hubvram.plan.methods.tuner import Shared
from hubvram.timeline.dtypes import F32
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class MultitaskPlan(PromptPlan):
    """A shared prompt times a low-rank matrix per task."""

    def __init__(self, ctx: Context) -> None:
        """Columns and rows of every task."""
        super().__init__(ctx)
        tasks, ranks = int(ctx.peft["num_tasks"]), int(ctx.peft["num_ranks"])
        self.extra_params = [
            *self.extra_params,
            NewParam("prompt_encoder.prefix_task_cols", (tasks, self.total, ranks), F32),
            NewParam("prompt_encoder.prefix_task_rows", (tasks, ranks, self.dim), F32),
        ]

    def prompts(self, g: Ops, net: Any, batch: int) -> Tensor:
        """Embedding times columns times rows of each sample's task."""
        table, cols, rows = net.prompt_params
        x = g.embedding(g.ids(1, self.total), table, "prompt embedding")
        ranks = cols.shape[2]
        mine_c = g.any_op("index_select", (cols,), (batch, self.total, ranks), F32)
        mine_r = g.any_op("index_select", (rows,), (batch, ranks, self.dim), F32)
        product = g.matmul(mine_c, mine_r, (batch, self.total, self.dim), "task prompts")
        return g.repeat_batch(g.mul(x, product).narrow(1, self.total, self.dim), batch)


class CptPlan(PromptPlan):
    """Context tokens whose embeddings may move a little; PEFT adds a second loss over them."""

    def __init__(self, ctx: Context) -> None:
        """The tokens are given; PEFT's default is one."""
        if ctx.arch.task != "causal":
            raise Skip("CPT takes causal language models only.")
        ids = ctx.peft["cpt_token_ids"] or [0]
        super().__init__(Context(**{**_fields(ctx), "peft": {**ctx.peft, "num_virtual_tokens": len(ids)}}))
        self.extra_params = [
            NewParam("prompt_encoder.delta_embedding", (self.total, self.dim), F32),
            NewParam("prompt_encoder.embedding", (self.total, self.dim), F32, trainable=False),
        ]

    def encode(self, g: Ops, net: Any) -> Tensor:
        """``embedding(ids) + delta(ids)``."""
        ids = g.ids(1, self.total)
        delta = g.embedding(ids, net.prompt_params[0], "cpt delta")
        return g.add(g.embedding(ids, net.prompt_params[1], "cpt embedding"), delta)


def _fields(ctx: Context) -> dict[str, Any]:
    return {name: getattr(ctx, name) for name in Context.__slots__}


class CartridgePlan(PrefixPlan):
    """Keys and values of every layer, the first of them frozen."""

    no_checkpointing = "PEFT refuses cartridges together with gradient checkpointing"

    def __init__(self, ctx: Context) -> None:
        """Frozen and trained tokens apart."""
        super().__init__(ctx)
        frozen = int(ctx.peft["num_frozen_tokens"])
        if not 0 <= frozen <= self.prefix_tokens:
            raise SettingError(f"num_frozen_tokens is {frozen}: it must be between 0 and num_virtual_tokens.")
        wide = 2 * self.layers * self.dim
        self.extra_params = [NewParam("prompt_encoder.trainable_embedding", (self.prefix_tokens - frozen, wide), F32)]
        if frozen:
            self.extra_params.append(NewParam("prompt_encoder.frozen_embedding", (frozen, wide), F32, trainable=False))

    def encode(self, g: Ops, net: Any, batch: int) -> Tensor:
        """The join of both, expanded over the batch (a view until it is cast)."""
        w = net.prompt_params
        whole: Tensor = w[0]
        if len(w) > 1:
            whole = g.cat((w[1], w[0]), (self.prefix_tokens, w[0].shape[1]))
        return g.repeat_batch(whole.view(1, *whole.shape), batch) if batch > 1 or self.base is F32 else whole


MODELS = {
    "llama": ("self_attn", "q_proj", "k_proj", "v_proj"),
    "mistral": ("self_attn", "q_proj", "k_proj", "v_proj"),
    "gpt2": ("attn", "c_attn", "c_attn", "c_attn"),
}


class AdaptionPromptPlan(MethodPlan):
    """Prompts that the attention of the last layers looks at, through a gate that begins at zero."""

    def __init__(self, ctx: Context) -> None:
        """Layers from the top."""
        arch = ctx.arch
        if arch.model_type not in MODELS:
            raise Skip(f"PEFT's adaption prompt takes llama, mistral and gpt2 models, not {arch.model_type}.")
        if ctx.packed:
            raise Skip("Adaption prompts on a quantised base are not known here.")
        self.ctx = ctx
        self.length = int(ctx.peft["adapter_len"])
        n = arch.num_layers
        asked = int(ctx.peft["adapter_layers"])
        given = "adapter_layers" in ctx.peft and asked != DEFAULT_LAYERS
        if asked > n and given:
            raise Skip(f"adapter_layers is {asked}; the model has {n} layers.")
        self.first = n - min(asked, n)
        self.dtype = ctx.base_dtype
        self.inside = arch.stacks[arch.decoder].prefix + "."
        self.layer_state: dict[int, Shared] = {}

    def _layer(self, path: str) -> int | None:
        if not path.startswith(self.inside):
            return None
        return int(path[len(self.inside) :].split(".", 1)[0])

    def adapter(self, path: str, module: Linear, layer: int | None) -> Adapter | None:
        """The query layer remembers its input, the output layer adds the prompt's attention."""
        i = self._layer(path)
        if i is None or i < self.first:
            return None
        attn, q, *_ = MODELS[self.ctx.arch.model_type]
        state = self.layer_state.setdefault(i, Shared())
        if path.endswith(f"{attn}.{q}"):
            return Adapter((), self._remember(state))
        if module.role == "attn_out":
            hidden = self.ctx.arch.hidden_size
            return Adapter(
                (
                    NewParam(f"{path}.adaption_prompt", (1, self.length, hidden), self.dtype),
                    NewParam(f"{path}.adaption_gate", (1,), self.dtype),
                ),
                self._attend(state),
            )
        return None

    def layer_key(self, path: str, layer: int) -> bool:
        """With a prompt or without."""
        return path.startswith(self.inside) and layer >= self.first

    def _remember(self, state: Shared) -> Any:
        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            state.tensor = x
            state.base = base
            out: Tensor = base(g, x)
            return out

        return forward

    def _attend(self, state: Shared) -> Any:
        arch = self.ctx.arch
        fused = arch.model_type == "gpt2"

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            prompt, gate = params
            output: Tensor = base(g, x)
            hidden, query = state.tensor, state.base
            state.tensor = state.base = None
            assert hidden is not None  # noqa: S101 - the query layer ran before
            b, s, _ = output.shape
            heads, d = arch.num_attention_heads, arch.head_dim
            kv = heads if fused else arch.num_key_value_heads
            n, src = self.length, output.dt
            width = kv * d
            key = g.any_op("adaption key", (prompt,), (1, n, width), src)
            value = g.any_op("adaption value", (prompt,), (1, n, width), src)
            k = g.repeat_batch(key.view(1, n, width), b).view(b, kv, n, d)
            v = g.repeat_batch(value.view(1, n, width), b).view(b, kv, n, d)
            if kv != heads:
                k = g.expand(k, (b, heads, n, d), "repeat_interleave")
                v = g.expand(v, (b, heads, n, d), "repeat_interleave")
            q = query(g, hidden)
            if fused:
                q = g.slice(q, (b, s, heads * d))
            q = q.view(b, heads, s, d)
            if not fused:
                cos = g.constant((1, s, d), src, "rotary cos")
                q = g.rotary_one(q, cos, cos)
            scores = g.scale(g.matmul(q, k, (b, heads, s, n), "adaption scores"), "adaption scale")
            soft = g.to(g.softmax(scores, F32), src)
            del scores
            weights = g.mul(gate, soft)
            mixed = g.clone(g.matmul(weights, v, (b, heads, s, d), "adaption output")).view(b, s, heads * d)
            if not fused:
                mixed = base(g, mixed)
            return g.add(output, mixed)

        return forward


DEFAULT_LAYERS = 30


def _plan(cls: type[MethodPlan]) -> Any:
    def apply(ctx: Context) -> MethodPlan:
        return cls(ctx)  # type: ignore[call-arg]  # every plan here takes the context

    return apply


METHODS = [
    Method(
        name="multitask_prompt_tuning",
        title="Multitask prompt tuning",
        group="prompt",
        trains="a shared prompt and a low-rank factor per task",
        formula="n * h + num_tasks * num_ranks * (n + h)",
        source="peft 0.21 tuners/multitask_prompt_tuning; arXiv:2303.02861",
        apply=_plan(MultitaskPlan),
        peft_type="MULTITASK_PROMPT_TUNING",
        keys={**KEYS["MULTITASK_PROMPT_TUNING"], **PROMPT_KEYS},
    ),
    Method(
        name="cpt",
        title="Context-aware prompt tuning",
        group="prompt",
        trains="small moves of the embeddings of given context tokens (PEFT's loss over them is not modelled apart)",
        formula="len(cpt_token_ids) * h",
        source="peft 0.21 tuners/cpt; arXiv:2410.17222",
        apply=_plan(CptPlan),
        peft_type="CPT",
        keys={**KEYS["CPT"], "num_virtual_tokens": 1},
    ),
    Method(
        name="cartridge",
        title="Cartridges",
        group="prompt",
        trains="keys and values in front of every layer's, the first frozen",
        formula="(n - num_frozen_tokens) * 2 * layers * kv width",
        source="peft 0.21 tuners/cartridge; arXiv:2506.06266",
        apply=_plan(CartridgePlan),
        peft_type="CARTRIDGE",
        keys={**KEYS["CARTRIDGE"], **PROMPT_KEYS},
    ),
    Method(
        name="adaption_prompt",
        title="Adaption prompt (LLaMA-Adapter)",
        group="prompt",
        trains="prompts and a gate in the attention of the last adapter_layers layers",
        formula="adapter_layers * (adapter_len * h + 1)",
        source="peft 0.21 tuners/adaption_prompt; arXiv:2303.16199 (10 tokens, 30 layers)",
        apply=_plan(AdaptionPromptPlan),
        peft_type="ADAPTION_PROMPT",
        keys={**KEYS["ADAPTION_PROMPT"], "adapter_len": 10, "adapter_layers": DEFAULT_LAYERS},
    ),
]
