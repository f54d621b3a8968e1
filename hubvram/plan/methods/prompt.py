"""Methods that put trained vectors in front of the input or of every layer's keys and values.

Source: peft 0.21 ``peft_model.py`` (forward, get_prompt, _setup_prompt_encoder),
``tuners/{prompt_tuning,p_tuning,prefix_tuning}/model.py``,
``utils/other.py`` (_prepare_prompt_learning_config). The encoders are made in
torch's default dtype: fp32 on every base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubvram.errors import SettingError
from hubvram.plan.methods.base import Context, Method, MethodPlan, NewParam, Skip
from hubvram.timeline.dtypes import F32, I64
from hubvram.timeline.ops import Ops
from hubvram.timeline.ops.peft_prompt import Prefix
from hubvram.timeline.tracer import Storage, Tensor

PROMPT_KEYS: Mapping[str, Any] = {
    "num_virtual_tokens": 20,
    "token_dim": None,
    "num_transformer_submodules": None,
    "num_attention_heads": None,
    "num_layers": None,
    "modules_to_save": None,
}
"""Keys of every prompt learning config. PEFT asks for num_virtual_tokens; 20 is what its examples give."""

NO_PREFIX: Mapping[str, str] = {
    "falcon": "its cache holds fewer heads than PEFT's prefix has (the config says n_head, not num_key_value_heads)",
    "gpt_bigcode": "its cache holds one head, PEFT's prefix all of them",
}


def submodules(ctx: Context) -> int:
    """``num_transformer_submodules``: 2 for SEQ_2_SEQ_LM."""
    given = ctx.peft["num_transformer_submodules"]
    return int(given) if given is not None else (2 if ctx.arch.task == "seq2seq" else 1)


def token_dim(ctx: Context) -> int:
    """``token_dim``: the config's hidden size unless given."""
    return int(ctx.peft["token_dim"] or ctx.arch.hidden_size)


def takes_embeddings(ctx: Context, name: str) -> None:
    """Raise Skip where there are no tokens to stand in front of."""
    if ctx.arch.task not in ("causal", "seq2seq", "seqcls", "masked", "features"):
        raise Skip(f"{name} needs token embeddings as input; {ctx.arch.model_type} has none.")


class PromptPlan(MethodPlan):
    """Prompt tuning: an embedding of virtual tokens, joined in front of the input's."""

    def __init__(self, ctx: Context) -> None:
        """Resolves sizes."""
        takes_embeddings(ctx, "Prompt tuning")
        self.virtual_tokens = int(ctx.peft["num_virtual_tokens"])
        self.total = self.virtual_tokens * submodules(ctx)
        self.dim = token_dim(ctx)
        self.extra_params = [NewParam("prompt_encoder.embedding", (self.total, self.dim), F32)]

    def encode(self, g: Ops, net: Any) -> Tensor:
        """The prompt of one sample, (1, tokens, width)."""
        return g.embedding(g.ids(1, self.total), net.prompt_params[0], "prompt embedding")

    def prompts(self, g: Ops, net: Any, batch: int) -> Tensor:
        """The prompt of every sample."""
        return g.repeat_batch(self.encode(g, net), batch)

    def on_embeddings(self, g: Ops, net: Any, x: Tensor) -> Tensor:
        """``cat((prompts.to(dtype), inputs_embeds))``; PEFT's frame holds prompt and result until the model returns."""
        batch, tokens, hidden = x.shape
        prompts = g.to(self.prompts(g, net, batch), x.dt)
        if self.total != self.virtual_tokens:
            prompts = g.slice(prompts, (batch, self.virtual_tokens, hidden))
        if net.plan.input_require_grads and not x.rg:
            x = self._leaf(g, net, x)
        out = g.cat((prompts, x), (batch, self.virtual_tokens + tokens, hidden))
        net.cache += [prompts.st, out.st]
        labels = g.t.tensor((batch, self.virtual_tokens + tokens), I64, "labels with prompt")
        net.cache.append(labels.st)
        return out

    def _leaf(self, g: Ops, net: Any, x: Tensor) -> Tensor:
        """enable_input_require_grads: the token embeddings and their gradient stay to the end of the step."""
        held: list[Tensor] = net.inputs
        held.append(x.detach())
        new, n, dt, shape = g.t.new, x.n, x.dt, x.shape

        def bw(grad: Storage) -> Sequence[Storage | None]:
            held.append(Tensor(new(n * dt.size, "grad of the token embeddings", shape, dt), shape, n, dt))
            return ()

        return Tensor(x.st, shape, n, dt, True, g.t.node(bw, ()))


class EncodedPromptPlan(PromptPlan):
    """P-tuning: the prompt embedding goes through an MLP or an LSTM."""

    def __init__(self, ctx: Context) -> None:
        """Sizes of the encoder."""
        super().__init__(ctx)
        self.kind = str(ctx.peft["encoder_reparameterization_type"]).rsplit(".", 1)[-1].upper()
        self.width = int(ctx.peft["encoder_hidden_size"] or self.dim)
        self.lstm_layers = int(ctx.peft["encoder_num_layers"])
        d, w = self.dim, self.width
        if self.kind == "MLP":
            shapes = [(w, d), (w,), (w, w), (w,), (d, w), (d,)]
        elif self.kind == "LSTM":
            shapes = []
            for i in range(self.lstm_layers):
                for _ in range(2):
                    shapes += [(4 * w, d if i == 0 else 2 * w), (4 * w, w), (4 * w,), (4 * w,)]
            shapes += [(2 * w, 2 * w), (2 * w,), (d, 2 * w), (d,)]
        else:
            raise SettingError(f"encoder_reparameterization_type is {self.kind!r}: it must be MLP or LSTM.")
        self.extra_params = [
            *self.extra_params,
            *(NewParam(f"prompt_encoder.{self.kind.lower()}.{i}", s, F32) for i, s in enumerate(shapes)),
        ]

    def encode(self, g: Ops, net: Any) -> Tensor:
        """Embedding, encoder."""
        x = super().encode(g, net)
        w = net.prompt_params[1:]
        if self.kind == "LSTM":
            x = g.lstm(x, w[:-4], self.width, self.lstm_layers)
            x = g.relu(g.linear(x, w[-4], w[-3], "prompt encoder"))
            return g.linear(x, w[-2], w[-1], "prompt encoder")
        x = g.relu(g.linear(x, w[0], w[1], "prompt encoder"))
        x = g.relu(g.linear(x, w[2], w[3], "prompt encoder"))
        return g.linear(x, w[4], w[5], "prompt encoder")


class PrefixPlan(MethodPlan):
    """Prefix tuning: trained keys and values in the cache of every decoder layer."""

    no_checkpointing = "PEFT refuses prefix tuning together with gradient checkpointing"

    def __init__(self, ctx: Context) -> None:
        """Sizes as ``_prepare_prompt_learning_config`` works them out."""
        arch, peft = ctx.arch, ctx.peft
        takes_embeddings(ctx, "Prefix tuning")
        if arch.model_type in NO_PREFIX and arch.num_key_value_heads != arch.num_attention_heads:
            raise Skip(f"Prefix tuning fails on {arch.model_type}: {NO_PREFIX[arch.model_type]}.")
        self.prefix_tokens = int(peft["num_virtual_tokens"])
        self.layers = int(peft["num_layers"] or arch.num_layers)
        self.heads = arch.num_key_value_heads
        self.dim = int(peft["token_dim"] or arch.num_key_value_heads * arch.head_dim)
        if peft["token_dim"] and peft["num_attention_heads"]:
            self.heads = int(peft["num_attention_heads"])
        self.submodules = submodules(ctx)
        self.base = ctx.base_dtype
        self.projected = bool(peft.get("prefix_projection"))
        n, d, wide = self.prefix_tokens, self.dim, 2 * self.layers * self.dim
        if self.projected:
            w = int(peft["encoder_hidden_size"] or d)
            shapes = [(n, d), (w, d), (w,), (wide, w), (wide,)]
        else:
            shapes = [(n, wide)]
        self.extra_params = [NewParam(f"prompt_encoder.{i}", s, F32) for i, s in enumerate(shapes)]

    def before_embeddings(self, g: Ops, net: Any) -> None:
        """``get_prompt``: encode for every sample of the batch, cast, split by layer, copy into a cache."""
        batch = net.plan.batch.size
        x = g.to(self.encode(g, net, batch), self.base)
        shape = (batch, self.heads, self.prefix_tokens, self.dim // self.heads)
        net.prefix_state = Prefix(g.t, x, shape, self.layers)

    def after_loss(self, g: Ops, net: Any, loss: Tensor) -> Tensor:
        """Raises Skip where no layer took its part: such a model's forward has no cache."""
        if not net.cache:
            raise Skip(f"{net.arch.model_type} takes no past_key_values, which prefix tuning fills.")
        return loss

    def encode(self, g: Ops, net: Any, batch: int) -> Tensor:
        """Keys and values of all layers in one tensor."""
        w = net.prompt_params
        x = g.embedding(g.ids(batch, self.prefix_tokens), w[0], "prefix embedding")
        if self.projected:
            x = g.tanh(g.linear(x, w[1], w[2], "prefix encoder"))
            x = g.linear(x, w[3], w[4], "prefix encoder")
        return x

    def prefix(self, g: Ops, net: Any, copies: int) -> tuple[Tensor, Tensor] | None:
        """The next layers' part of the cache."""
        pair: tuple[Tensor, Tensor] = net.prefix_state.take(copies)
        return pair


def _prompt(ctx: Context) -> MethodPlan:
    return PromptPlan(ctx)


def _encoded(ctx: Context) -> MethodPlan:
    return EncodedPromptPlan(ctx)


def _prefix(ctx: Context) -> MethodPlan:
    return PrefixPlan(ctx)


METHODS = [
    Method(
        name="prompt_tuning",
        title="Prompt tuning",
        group="prompt",
        trains="vectors of virtual tokens in front of the input",
        formula="num_virtual_tokens * hidden (twice for encoder-decoders)",
        source="peft 0.21 tuners/prompt_tuning; arXiv:2104.08691",
        apply=_prompt,
        peft_type="PROMPT_TUNING",
        keys={
            **PROMPT_KEYS,
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "tokenizer_name_or_path": None,
            "tokenizer_kwargs": None,
        },
    ),
    Method(
        name="p_tuning",
        title="P-tuning",
        group="prompt",
        trains="virtual tokens and the MLP or LSTM that encodes them",
        formula="n * h + h*w + w + w*w + w + w*h + h (MLP, w = encoder_hidden_size)",
        source="peft 0.21 tuners/p_tuning; arXiv:2103.10385",
        apply=_encoded,
        peft_type="P_TUNING",
        keys={
            **PROMPT_KEYS,
            "encoder_reparameterization_type": "MLP",
            "encoder_hidden_size": 128,  # as in PEFT's guide; None, PEFT's own default, is the hidden size
            "encoder_num_layers": 2,
            "encoder_dropout": 0.0,
        },
    ),
    Method(
        name="prefix_tuning",
        title="Prefix tuning",
        group="prompt",
        trains="keys and values in front of every layer's, through an MLP if prefix_projection",
        formula="n * 2 * layers * kv width; with projection n*d + d*w + w + (w + 1) * 2 * layers * d",
        source="peft 0.21 tuners/prefix_tuning; arXiv:2101.00190",
        apply=_prefix,
        peft_type="PREFIX_TUNING",
        keys={
            **PROMPT_KEYS,
            "encoder_hidden_size": None,
            "prefix_projection": False,
            "init_weights": None,
            "init_kv_cache_prefix": None,
        },
    ),
    Method(
        name="p_tuning_v2",
        title="P-tuning v2",
        group="prompt",
        trains="keys and values in front of every layer's, without a projection",
        formula="n * 2 * layers * kv width",
        source="arXiv:2110.07602; PEFT's prefix encoder is the paper's, prefix_projection off",
        apply=_prefix,
        keys=PROMPT_KEYS,
    ),
]
