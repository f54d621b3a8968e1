"""LoRA and its quantised-base forms.

Source: peft 0.21 ``tuners/lora/layer.py`` (Linear), ``tuners/lora/bnb.py``
(Linear4bit, Linear8bitLt).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hubvram.architecture.modules import Embedding, Linear, Weight
from hubvram.plan.layers import Linear4bit, Linear8bit
from hubvram.plan.methods import experts, lora_variants, target_modules
from hubvram.plan.methods.base import (
    Adapter,
    Context,
    Method,
    MethodPlan,
    NewParam,
    ParameterAdapter,
    Skip,
    layer_choice,
    targets,
)
from hubvram.plan.methods.peft_keys import KEYS as PEFT_KEYS
from hubvram.plan.optimizers import find
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor

KEYS: Mapping[str, Any] = {
    "r": 16,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": None,
    "target_parameters": None,
    "exclude_modules": None,
    "layers_to_transform": None,
    "layers_pattern": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    **{
        k: v
        for k, v in PEFT_KEYS["LORA"].items()
        if k not in ("r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout")
    },
    "autocast_adapter_dtype": True,
}
"""LoraConfig keys (peft 0.21) with PEFT's defaults, but r = 16 as this project's interface says."""

SAME_TIMELINE = frozenset({"init_lora_weights", "use_rslora", "lora_alpha", "alpha_pattern"})
"""Keys that decide how A and B begin or how much they count, but no size (``mica`` is a variant)."""


class LoraPlan(MethodPlan):
    """Two small matrices beside each target."""

    def __init__(self, ctx: Context, config: Mapping[str, Any]) -> None:
        """Resolves targets once."""
        self.ctx = ctx
        self.config = config
        self.targets = experts.resolve(ctx, config, target_modules.LORA.get(ctx.arch.model_type))
        self.chosen = targets(ctx, target_modules.LORA, self.targets.modules, config["exclude_modules"])
        self.layers = layer_choice(config)
        self.dropout = float(config["lora_dropout"])
        self.dtype = ctx.adapter_dtype
        self.variant = lora_variants.chosen(ctx, config)
        tokens = config["trainable_token_indices"]
        self.tokens = tuple(tokens) if isinstance(tokens, (list, tuple)) else ()
        if tokens and not self.tokens:
            raise Skip("trainable_token_indices as a mapping of module names is not known here: give a list.")
        if self.tokens:
            self.extra_params = lora_variants.token_params(ctx, len(self.tokens), self.dtype)
        told = sorted((key, repr(value)) for key, value in config.items() if key not in SAME_TIMELINE)
        self.alike = f"{type(self).__name__} {self.variant} {told} {self.dtype} {ctx.packed} {dict(ctx.quantization)}"

    def trains(self, path: str, module: Any, part: str) -> bool:
        """Base biases under ``bias="all"`` / ``"lora_only"``."""
        if part != "bias" or self.config["bias"] == "none":
            return False
        return self.config["bias"] == "all" or (isinstance(module, Linear) and self.chosen(path[:-5], module))

    def adapter(self, path: str, module: Linear, layer: int | None) -> Adapter | None:
        """A (r x in) and B (out x r)."""
        if not self.chosen(path, module) or not self.layers(path, layer):
            return None
        leaf = path.rsplit(".", 1)[-1]
        if leaf in self.ctx.arch.facts.get("peft_refuses", ()):
            raise Skip(f"PEFT's LoRA refuses {leaf} on {self.ctx.arch.model_type}: leave it out of target_modules.")
        r = rank_of(self.config, path)
        return lora_variants.adapter(self.variant, self, path, module, r)

    def embedding_adapter(self, path: str, module: Embedding) -> Adapter | None:
        """Trained tokens, or A (r x tokens) and B (width x r) where the embedding is a target."""
        if self.tokens and module is self.ctx.arch.modules.get("embed"):
            return lora_variants.token_adapter(self.extra_params)
        if not self.names_embedding(path):
            return None
        r = rank_of(self.config, path)
        return Adapter(
            (
                NewParam(f"{path}.lora_embedding_A", (r, module.num_embeddings), self.dtype),
                NewParam(f"{path}.lora_embedding_B", (module.embedding_dim, r), self.dtype),
            ),
            lora_variants.embedding_forward,
        )

    def names_embedding(self, path: str) -> bool:
        """Whether target_modules names the embedding (``all-linear`` never does)."""
        value = self.targets.modules
        if value is None or isinstance(value, str):
            return value is not None and value != "all-linear" and re.fullmatch(value, path) is not None
        return path in value or path.endswith(tuple(f".{n}" for n in value))

    def tied_adapter(self, path: str, module: Linear) -> Adapter | None:
        """Trained tokens of a tied head."""
        return lora_variants.token_head_adapter(self.extra_params) if self.tokens else None

    def parameter_adapter(self, path: str, module: Weight, layer: int | None) -> ParameterAdapter | None:
        """The same on a bare parameter (stacked experts, routers)."""
        if not self.targets.parameters or not self.layers(path, layer):
            return None
        return experts.adapter(self.targets, path, module, self.config, rank_of(self.config, path), self.dtype)

    def layer_key(self, path: str, layer: int) -> Any:
        """Layers differ by choice and by rank."""
        config = self.config
        names = self.targets.modules
        numbered = isinstance(names, str) and names != "all-linear"
        digits = any(re.search(r"\d", n) for n in names or ()) and names != "all-linear"
        special = ("layers_to_transform", "rank_pattern", "exclude_modules")
        if not numbered and not digits and not any(config[k] not in (None, {}) for k in special):
            return None
        prefix = path.rsplit(".", 1)[0]
        for stack in self.ctx.arch.stacks.values():
            if stack.prefix == prefix:
                block = stack.blocks[stack.order[layer]]
                return tuple(
                    (m.path, rank_of(config, f"{path}.{m.path}"))
                    for m in block.modules.values()
                    if (isinstance(m, Linear) and self.chosen(f"{path}.{m.path}", m) and self.layers(path, layer))
                    or (isinstance(m, Weight) and m.adaptable and self.layers(path, layer))
                )
        return None

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``result = base(x); result = result + B(A(dropout(x.to(A.dtype)))) * scaling; result.to(dtype)``."""
        result = base(g, x)
        src = result.dt
        packed = isinstance(base, (Linear4bit, Linear8bit))
        # on bitsandbytes layers the input is not cast under autocast (lora/bnb.py, requires_conversion)
        low = x if packed and g.t.autocast is not None else g.to(x, params[0].dt)
        down = g.linear(g.dropout(low, self.dropout), params[0], None, f"{base.name}.lora_A")
        delta = g.scale(g.linear(down, params[1], None, f"{base.name}.lora_B"), "lora scaling")
        del down
        if packed:
            return g.add(result, delta if g.t.autocast is not None else g.to(delta, src))
        result = g.add(result, delta)
        return g.to(result, src)


def rank_of(config: Mapping[str, Any], path: str) -> int:
    """``r`` of one target, with ``rank_pattern`` (keys match the end of the path, or as a regex)."""
    for pattern, r in (config["rank_pattern"] or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return int(r)
    return int(config["r"])


def _apply(ctx: Context) -> MethodPlan:
    return LoraPlan(ctx, ctx.peft)


def _lora_fa(ctx: Context) -> MethodPlan:
    plan = _apply(ctx)
    plan.optimizer = find("lora_fa")
    plan.alike = None
    return plan


BLOCKS: Mapping[str, Any] = {
    "target_modules_bd_a": ["o_proj", "out_proj", "down_proj"],
    "target_modules_bd_b": ["q_proj", "k_proj", "v_proj", "up_proj", "gate_proj"],
    "nblocks": 2,
    "match_strict": False,
}
"""``BdLoraConfig`` as its documentation advises for decoders; PEFT has no default that does anything."""

SUM = "sum over targets of r * (in + out)"


def _variant(name: str, title: str, trains: str, formula: str, source: str, given: Mapping[str, Any]) -> Method:
    return Method(
        name=name,
        title=title,
        group="lora",
        trains=trains,
        formula=formula,
        source=f"peft 0.21 {source}",
        apply=_apply,
        peft_type="LORA",
        keys={**KEYS, **given},
    )


METHODS = [
    Method(
        name="lora",
        title="LoRA",
        group="lora",
        trains="A (r x in) and B (out x r) beside each target linear layer",
        formula="sum over targets of r * (in + out)",
        source="peft 0.21 tuners/lora; arXiv:2106.09685",
        apply=_apply,
        peft_type="LORA",
        keys=KEYS,
    ),
    Method(
        name="rslora",
        title="rank-stabilised LoRA",
        group="lora",
        trains="as lora; scaled by alpha / sqrt(r)",
        formula="sum over targets of r * (in + out)",
        source="peft 0.21 tuners/lora (use_rslora); arXiv:2312.03732",
        apply=_apply,
        peft_type="LORA",
        keys={**KEYS, "use_rslora": True},
    ),
    Method(
        name="lora_int8",
        title="LoRA on an LLM.int8 base",
        group="lora",
        trains="as lora; the base's linear layers are int8",
        formula="sum over targets of r * (in + out)",
        source="peft 0.21 tuners/lora/bnb.py; bitsandbytes 0.50; arXiv:2208.07339",
        apply=_apply,
        peft_type="LORA",
        keys=KEYS,
        quantization="8bit",
    ),
    Method(
        name="qlora",
        title="QLoRA (4-bit base)",
        group="lora",
        trains="as lora; the base's linear layers are nf4 or fp4",
        formula="sum over targets of r * (in + out)",
        source="peft 0.21 tuners/lora/bnb.py; bitsandbytes 0.50; arXiv:2305.14314",
        apply=_apply,
        peft_type="LORA",
        keys=KEYS,
        quantization="4bit",
    ),
    *(
        _variant(name, title, trains, formula, source, given)
        for name, title, trains, formula, source, given in (
            (
                "dora",
                "DoRA",
                "as lora, and a magnitude per output feature",
                "sum over targets of r * (in + out) + out",
                "tuners/lora/dora.py; arXiv:2402.09353",
                {"use_dora": True},
            ),
            (
                "lora_plus",
                "LoRA+",
                "as lora; B learns faster than A",
                SUM,
                "optimizers/loraplus.py; arXiv:2402.12354",
                {},
            ),
            (
                "pissa",
                "PiSSA",
                "as lora, begun with the weight's largest singular vectors",
                SUM,
                "init_lora_weights='pissa'; arXiv:2404.02948",
                {"init_lora_weights": "pissa"},
            ),
            (
                "olora",
                "OLoRA",
                "as lora, begun with a QR decomposition",
                SUM,
                "init_lora_weights='olora'; arXiv:2406.01775",
                {"init_lora_weights": "olora"},
            ),
            (
                "eva",
                "EVA",
                "as lora, begun with singular vectors of the activations",
                SUM,
                "init_lora_weights='eva'; arXiv:2410.07170",
                {"init_lora_weights": "eva"},
            ),
            (
                "corda",
                "CorDA",
                "as lora, begun with a context-oriented decomposition",
                SUM,
                "init_lora_weights='corda'; arXiv:2406.05223",
                {"init_lora_weights": "corda"},
            ),
            (
                "loftq",
                "LoftQ",
                "as lora, begun so that a quantised weight plus B A is near the original",
                SUM,
                "init_lora_weights='loftq'; arXiv:2310.08659",
                {"init_lora_weights": "loftq"},
            ),
            (
                "mica",
                "MiCA",
                "A alone; B is fixed to the weight's smallest singular vectors",
                "sum over targets of r * in",
                "init_lora_weights='mica'; arXiv:2604.01694",
                {"init_lora_weights": "mica"},
            ),
            (
                "kasa",
                "KaSA",
                "as lora, with a diagonal between A and B",
                "sum over targets of r * (in + out) + r",
                "kasa_config; arXiv:2412.06071",
                {"kasa_config": True},
            ),
            (
                "qalora",
                "QA-LoRA",
                "as lora on a GPTQ base; A sees the means of groups of inputs",
                "sum over targets of r * (in / qalora_group_size + out)",
                "use_qalora; arXiv:2309.14717",
                {"use_qalora": True},
            ),
            (
                "bdlora",
                "BD-LoRA",
                "as lora; A of row-sharded and B of column-sharded targets are block-diagonal (here in 2 blocks)",
                "sum over targets of r * (in + out), one of in and out divided by nblocks",
                "use_bdlora (the roles are those its config's documentation names); arXiv:2510.23346",
                {"use_bdlora": BLOCKS},
            ),
            (
                "velora",
                "VeLoRA",
                "as lora; the input is kept compressed for backward",
                SUM,
                "velora_config; arXiv:2405.17991",
                {"velora_config": {"num_groups": 64}},
            ),
            (
                "monteclora",
                "MonteCLoRA",
                "as lora, with a sampled spread of A",
                "sum over targets of r * (in + out) + r + num_samples",
                "monteclora_config",
                {"monteclora_config": {"num_samples": 8}},
            ),
        )
    ),
    Method(
        name="lora_fa",
        title="LoRA-FA",
        group="lora",
        trains="as lora, with A frozen by the method's own optimizer",
        formula="sum over targets of r * out",
        source="peft 0.21 optimizers/lorafa.py; arXiv:2308.03303",
        apply=_lora_fa,
        peft_type="LORA",
        keys=KEYS,
    ),
    Method(
        name="qdora",
        title="QDoRA (4-bit base)",
        group="lora",
        trains="as dora; the base's linear layers are nf4 or fp4",
        formula="sum over targets of r * (in + out) + out",
        source="peft 0.21 tuners/lora/{dora,bnb}.py; arXiv:2402.09353",
        apply=_apply,
        peft_type="LORA",
        keys={**KEYS, "use_dora": True},
        quantization="4bit",
    ),
]
