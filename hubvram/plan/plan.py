"""A plan: one architecture, one method, one set of settings, decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from hubvram.architecture.modules import Architecture, Embedding, Linear, Module, Norm, Weight
from hubvram.architecture.modules import Stack as Layers
from hubvram.errors import SettingError
from hubvram.plan import quantized
from hubvram.plan.methods.base import Adapter, Context, Method, MethodPlan, NewParam, ParameterAdapter, Skip
from hubvram.plan.network import Batch
from hubvram.plan.optimizers import Optimizer, Trained
from hubvram.plan.settings import QUANTIZATION_DEFAULTS, Settings
from hubvram.plan.sharding import Sharding
from hubvram.plan.stacks import Stack
from hubvram.timeline.dtypes import BF16, BY_NAME, F16, F32, DType, is_half

SEQ_CLS_HEADS = ("classifier", "score")
"""peft 0.21 ``PeftModelForSequenceClassification``: these are added to ``modules_to_save``."""

FLOAT8 = (
    "fp8: torchao's Float8Linear (per-tensor dynamic scaling, not compiled), the first that accelerate looks for, "
    "with bf16 autocast; head and adapters stay in bf16"
)

EXPERTS_DEQUANTISED = "buffers in which backward dequantises FP8 experts (1 GiB at most)"

UNFUSED = frozenset({"gptq", "awq", "hqq", "aqlm", "eetq"})
"""Formats that know linear layers only: experts are quantised one by one."""

LORA_FA_UNFROZEN = (0, 19, 2)
"""peft from which on lora_A gets gradients again under LoRA-FA (its published runs need LoRA's memory since then)."""

AUTOCAST: Mapping[str, DType | None] = {"no": None, "bf16": BF16, "fp16": F16, "fp8": BF16}


@dataclass(frozen=True, slots=True)
class Held:
    """How one module's weights are held in memory."""

    dtype: DType
    packed: str | None = None
    """None, ``4bit``, ``8bit`` (bitsandbytes) or a name in `quantized.FORMATS`."""

    @property
    def trained(self) -> bool:
        """Whether the packed weight itself can be trained."""
        form = quantized.FORMATS.get(self.packed or "")
        return form is not None and form.trained


class Plan:
    """Everything the timeline needs, decided once."""

    def __init__(
        self,
        arch: Architecture,
        method: Method,
        settings: Settings,
        *,
        base_dtype: DType,
        optimizer: Optimizer,
        stack: Stack,
        tokens: int,
        source_tokens: int,
        stored: quantized.Stored | None = None,
    ) -> None:
        """Applies the method.

        ``stored``: how the repository's weights are quantised.

        Raises:
            Skip: the model cannot take the method.
            SettingError: a config key the method does not have.
        """
        self.stored = stored
        quant = dict(settings.quantization)
        remarks: list[str] = []
        self.packed = self._packed(method, quant, remarks)
        if arch.legacy is not None and (stack.transformers < (5,) or self.packed in UNFUSED):
            arch = arch.legacy()
        self.arch = arch
        self.definition = method
        self.settings = settings
        self.base_dtype = base_dtype
        self.optimizer = optimizer
        self.stack = stack
        self.autocast = AUTOCAST[settings.mixed_precision]
        self.sharding = Sharding.of(settings)
        if self.sharding.computes_in_half and self.autocast is not None and base_dtype is F32:
            self.base_dtype = base_dtype = self.autocast
        self.training = method.training
        self.checkpointing = settings.gradient_checkpointing and method.training
        if self.packed in ("4bit", "8bit"):
            quant = {**QUANTIZATION_DEFAULTS, **quant}
        self.quantization = quant
        self.double_quant = bool(quant.get("bnb_4bit_use_double_quant", True))
        self.compute_dtype = BY_NAME.get(str(quant.get("bnb_4bit_compute_dtype", "bfloat16")), BF16)
        # prepare_model_for_kbit_training casts to fp32 on bitsandbytes bases only (peft 0.21 utils/other.py)
        # and TRL leaves it out where the quantised base is sharded (is_sharded_qlora)
        self.prepared = (
            self.packed in ("4bit", "8bit")
            and method.training
            and bool(quant["prepare_model_for_kbit_training"])
            and not (settings.num_gpus > 1 and settings.strategy == "fsdp")
        )
        # TRL's SFTTrainer undoes part of it (peft_module_casting_to_bf16): only norms stay fp32
        self.trl_bf16 = (
            self.prepared and self.packed == "4bit" and stack.trl is not None and settings.mixed_precision == "bf16"
        )
        self.input_require_grads = self.checkpointing
        peft = method.config(settings.peft)
        autocast_adapters = bool(peft.get("autocast_adapter_dtype", True))
        adapter = F32 if autocast_adapters and is_half(base_dtype) else base_dtype
        alone = settings.gradient_accumulation_steps == 1 and settings.num_gpus == 1
        context = Context(
            arch,
            base_dtype,
            peft,
            quant,
            self.checkpointing,
            adapter,
            stack.transformers,
            self.packed,
            optimizer=optimizer,
            layerwise=alone,
        )
        self.method: MethodPlan = method.apply(context)
        if self.method.arch is not None:
            self.arch = self.method.arch
        self.float8 = settings.mixed_precision == "fp8" and method.training
        if self.float8:
            remarks.append(FLOAT8)
        self.notes = [*remarks, *context.notes]
        """What was assumed or done otherwise than asked, one sentence each."""
        self._refuse_packed()
        if self.packed == "fp8" and self.training and self._packed_experts():
            self.method.not_counted = (*self.method.not_counted, EXPERTS_DEQUANTISED)
        if self.method.no_checkpointing and self.checkpointing:
            self.checkpointing = False
            self.notes.append(f"without gradient checkpointing: {self.method.no_checkpointing}")
        if self.method.optimizer is not None:
            self.optimizer = self.method.optimizer
            self.notes.append(f"optimizer {self.optimizer.name}, which belongs to the method")
        if self.optimizer.in_backward and not alone:
            raise Skip(f"{self.optimizer.name} updates weights during backward: one GPU and no gradient accumulation.")
        # transformers' Trainer or a plain loop: a stack that names packages, but neither of these, is a plain loop
        self.trainer = not settings.stack or any(name in settings.stack for name in ("trl", "accelerate"))
        self.batch = Batch(settings.batch_size, tokens, source_tokens, settings.padding)
        self._saved = self._saved_names(method, peft)
        self.trains_anything = method.training
        self.keeps_outputs = settings.keep_outputs if settings.keep_outputs is not None else not settings.max_grad_norm
        self._trainable: list[tuple[str, tuple[int, ...], DType, int]] | None = None
        self._owners: dict[str, Module] = {}
        self._runs: dict[str, list[tuple[int, int, int]]] = {}

    def _saved_names(self, method: Method, peft: Mapping[str, Any]) -> tuple[str, ...]:
        """Endings of the modules PEFT trains as whole copies: ``modules_to_save``, and the heads it adds (SEQ_CLS)."""
        if method.peft_type is None or "modules_to_save" not in method.keys:
            return ()
        given = peft.get("modules_to_save") or ()
        return (*given, *(SEQ_CLS_HEADS if self.arch.task == "seqcls" else ()))

    def _packed(self, method: Method, quant: dict[str, Any], remarks: list[str]) -> str | None:
        """How the base is held: as stored, as asked, as the method implies.

        Raises:
            Skip: the three do not go together.
        """
        if self.stored is not None and self.stored.unknown:
            raise Skip(f"Weights quantised by {self.stored.unknown} are not modelled: take the unquantised base.")
        name = quant.get("quant_method")
        given = "4bit" if quant.get("load_in_4bit") else "8bit" if quant.get("load_in_8bit") else None
        form = quantized.FORMATS.get(str(name)) if name else None
        if name and (form is None or form.trained):
            known = ", ".join(n for n, f in quantized.FORMATS.items() if not f.trained)
            raise SettingError(f"quant_method is {name!r}: it must be one of {known}.")
        implied = method.quantization
        if form is None:
            on_disk = self.stored.settings if self.stored is not None else {}
            if on_disk and implied and not on_disk.get(f"load_in_{implied}"):
                held = quantized.title(given or "4bit")
                raise Skip(f"The weights are {held}-quantised: {method.name} quantises a plain base.")
            return implied or given
        if form.untrainable and method.training:
            raise Skip(f"{form.untrainable}: take the unquantised base.")
        if implied == "8bit" and quant.get("bits") != 8:
            raise Skip(f"The weights are {form.title}-quantised: LLM.int8 needs a plain base.")
        if method.training and (form.dequantised or quant.get("dequantize")):
            remarks.append(form.dequantised or f"{form.title} weights are dequantised at load")
            return implied
        if implied == "4bit" and method.training:
            remarks.append(f"the base stays {form.title}-quantised as stored; nothing is quantised to 4 bits again")
        return str(name)

    def _packed_experts(self) -> bool:
        blocks = [block for stack in self.arch.stacks.values() for block in stack.blocks]
        return any(
            isinstance(m, Weight) and quantized.packs(str(self.packed), m) for b in blocks for m in b.modules.values()
        )

    def _refuse_packed(self) -> None:
        """Raises Skip where the method would train a weight that is packed."""
        if not self.packed or not self.training:
            return
        for stack in self.arch.stacks.values():
            for layer, kind in enumerate(stack.order):
                for module in stack.blocks[kind].modules.values():
                    path = f"{stack.prefix}.{layer}.{module.path}"
                    part = module.parameters[0][0] if module.parameters else ""
                    full = f"{path}.{part}" if part else path
                    if self.held(path, module).packed and (
                        self.method.trains(full, module, part) or self.method.copies(path, module, layer)
                    ):
                        raise Skip(
                            f"The base's weights are {quantized.title(self.packed)}-quantised: "
                            "train LoRA on them, or take the unquantised base."
                        )

    # ---- how weights are held -------------------------------------------

    def held(self, path: str, module: Module) -> Held:
        """dtype and packing of one module's weights."""
        if isinstance(module, Weight) and module.dtype is not None:
            return Held(BY_NAME[module.dtype])
        own = self.method.stores(path, module)
        if own is not None:
            return Held(self.base_dtype, own)
        if self.packed and quantized.packs(self.packed, module) and not self._kept(path):
            return Held(F32 if self.prepared else self.base_dtype, self.packed)
        if self.prepared and is_half(self.base_dtype):
            if self.trl_bf16 and not isinstance(module, Norm):
                return Held(BF16)
            return Held(F32)
        return Held(self.base_dtype)

    def _kept(self, path: str) -> bool:
        return self.stored is not None and self.stored.keeps(path)

    def _unpacked(self, stack: Layers, layer: int) -> tuple[str, ...]:
        """Linear modules of a layer that are stored unpacked although others are packed."""
        if not self.packed or self.stored is None or not self.stored.floating:
            return ()
        modules = stack.blocks[stack.order[layer]].modules.values()
        return tuple(m.path for m in modules if self._kept(f"{stack.prefix}.{layer}.{m.path}"))

    def runs_float8(self, module: Linear) -> bool:
        """Whether accelerate makes a Float8Linear of a plain linear layer (``utils/ao.py`` filter_linear_layers)."""
        sides = module.in_features % 16 == 0 and module.out_features % 16 == 0
        return self.float8 and sides and module.kind == "Linear" and module.role != "head"

    def saves(self, path: str) -> bool:
        """Whether PEFT keeps the module at ``path`` and trains a copy of it (peft ``utils/other.py`` _set_trainable).

        The module itself or one above it must end in one of the names.
        """
        if not self._saved:
            return False
        parts = path.split(".")
        return any(".".join(parts[: i + 1]).endswith(self._saved) for i in range(len(parts)))

    def copied(self, path: str, module: Module, layer: int | None) -> DType | None:
        """dtype of the trained copy that runs in the place of the (frozen) module; None where there is none."""
        if self.saves(path) or self.method.copies(path, module, layer):
            return self.held(path, module).dtype
        return None

    def trainable(self) -> list[tuple[str, tuple[int, ...], DType, int]]:
        """Every trained parameter as (name, shape, dtype, how many equal ones)."""
        if self._trainable is None:
            out: list[tuple[str, tuple[int, ...], DType, int]] = []
            for name, spec in self.arch.modules.items():
                self._collect(out, spec.path, spec, None, 1, tied=name in self.arch.tied)
            for stack, s in self.arch.stacks.items():
                for start, period, times in self.runs(stack):
                    for i in range(period):
                        for module in s.blocks[s.order[start + i]].modules.values():
                            path = f"{s.prefix}.{start + i}.{module.path}"
                            self._collect(out, path, module, start + i, times, tied=False)
            out += [(p.name, p.shape, p.dtype, 1) for p in self.method.extra_params if p.trainable]
            self._trainable = out
        return self._trainable

    def _collect(
        self,
        out: list[tuple[str, tuple[int, ...], DType, int]],
        path: str,
        spec: Module,
        layer: int | None,
        count: int,
        *,
        tied: bool,
    ) -> None:
        how = self.held(path, spec)
        copied = self.copied(path, spec, layer)
        if copied is not None:
            out += [(f"{path}.{part}", shape, copied, count) for part, shape in spec.parameters]
            return
        for part, shape in spec.parameters:
            if (tied and part == "weight") or (how.packed and part == "weight" and not how.trained):
                continue
            full = f"{path}.{part}" if part else path
            if self.method.trains(full, spec, part):
                out.append((full, shape, how.dtype, count))
                self._owners[full] = spec
        adapter: Adapter | ParameterAdapter | None = None
        if isinstance(spec, Linear):
            adapter = self.method.adapter(path, spec, layer)
        elif isinstance(spec, Embedding):
            adapter = self.method.embedding_adapter(path, spec)
        elif isinstance(spec, Weight) and spec.adaptable:
            adapter = self.method.parameter_adapter(path, spec, layer)
        if adapter is not None:
            freezes = self.optimizer.freezes
            out += [
                (p.name, p.shape, p.dtype, count)
                for p in adapter.params
                if p.trainable and not (freezes is not None and freezes(p.name))
            ]

    def trains_new(self, p: NewParam) -> bool:
        """Whether a parameter that the method adds gets a gradient: some optimizers keep part of them fixed."""
        freezes = self.optimizer.freezes
        if freezes is None or self.stack.peft >= LORA_FA_UNFROZEN:
            return p.trainable
        return p.trainable and not freezes(p.name)

    def trained(self) -> list[Trained]:
        """Trained parameters as the optimizer meets them: embeddings, layers, the rest.

        Without those that no gradient ever reaches (an unused vision tower): they have no state.
        """
        idle = self.arch.facts.get("idle")
        inside = tuple(f"{s.prefix}." for s in self.arch.stacks.values())
        before: list[Trained] = []
        layers: list[Trained] = []
        after: list[Trained] = []
        never = self.method.idle
        for name, shape, dt, count in self.trainable():
            if name in never:
                continue
            if idle is not None:
                count -= min(count, idle(self, name))
                if not count:
                    continue
            spec = self._owners.get(name)
            in_layers = name.startswith(inside)
            kind = ""
            if isinstance(spec, Embedding):
                kind = "embedding"
            elif isinstance(spec, Linear) and name.endswith(".weight"):
                kind = "linear" if in_layers and spec.kind == "Linear" else "head" if spec.role == "head" else ""
            p = Trained(name, shape, dt, count, kind)
            (layers if in_layers else before if kind == "embedding" else after).append(p)
        return [*before, *layers, *after]

    def trainable_parameters(self) -> int:
        """Their number."""
        total = 0
        for _, shape, _, count in self.trainable():
            total += prod(shape) * count
        return total

    def runs(self, stack: str) -> list[tuple[int, int, int]]:
        """Equal layers of a stack as (first layer, layers per period, number of periods)."""
        if stack not in self._runs:
            spec = self.arch.stacks[stack]
            keys = [
                (kind, self.method.layer_key(f"{spec.prefix}.{i}", i), self._unpacked(spec, i))
                for i, kind in enumerate(spec.order)
            ]
            self._runs[stack] = periods(keys)
        return self._runs[stack]


def periods(keys: list[Any], longest: int = 12) -> list[tuple[int, int, int]]:
    """Cut a list of layer kinds into (start, period, times), greedily by the stretch each covers."""
    out: list[tuple[int, int, int]] = []
    start, n = 0, len(keys)
    if n and keys.count(keys[0]) == n:
        return [(0, 1, n)]
    while start < n:
        best = (1, 1)
        for period in range(1, min(longest, n - start) + 1):
            times = 1
            while (
                start + (times + 1) * period <= n
                and keys[start + times * period : start + (times + 1) * period] == keys[start : start + period]
            ):
                times += 1
            if period * times > best[0] * best[1] and (times > 1 or period == 1):
                best = (period, times)
        out.append((start, *best))
        start += best[0] * best[1]
    return out


__all__ = ["Held", "Plan", "Skip", "periods"]
