"""The estimates behind the pages: recipes, the nearest of them to a figure, cards, and batches that fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hubvram import gpus
from hubvram.accuracy import library
from hubvram.errors import NoSafetensorsError
from hubvram.estimator import describe, estimate
from hubvram.guide.figures import Figure, Model
from hubvram.plan.settings import Settings
from hubvram.report.record import AliveGroup, Breakdown, Estimate
from hubvram.snapshot.layout import ListedFile, choose
from hubvram.snapshot.records import Snapshot

GB = 10**9
BASE: Mapping[str, Any] = {"batch_size": 1, "seq_len": 2048, "gradient_checkpointing": True}
"""What every estimate on the pages starts from; the rest are hubvram's defaults."""
SHORT = 512
"""Tokens per sample where the pages ask how large a batch may be."""
MAX_BATCH = 4096
"""Where the search for the largest batch ends."""
COUNTS = (2, 4, 8, 16, 32, 64)
"""Numbers of cards that are tried."""


@dataclass(frozen=True, eq=False)  # told apart by identity: the settings are a dict
class Recipe:
    """A way to fine-tune: a method and the settings that decide what a parameter costs."""

    name: str
    method: str
    settings: Mapping[str, Any]
    sharded: Mapping[str, Any] = field(default_factory=dict)
    """What changes on several cards, strategy included."""

    def flags(self) -> str:
        """The command line that asks for it, without the repo."""
        words = ["-m", self.method]
        for key, value in self.settings.items():
            words += [f"--{key.replace('_', '-')}", str(value)]
        return " ".join(words)


FSDP: Mapping[str, Any] = {"strategy": "fsdp"}
FULL: tuple[Recipe, ...] = (
    Recipe("all FP16, SGD", "full", {"dtype": "float16", "optim": "sgd"}, FSDP),
    Recipe("all FP16, 8-bit AdamW", "full", {"dtype": "float16", "optim": "adamw_bnb_8bit"}, FSDP),
    Recipe("all FP16, fused AdamW", "full", {"dtype": "float16", "optim": "adamw_torch_fused"}, FSDP),
    Recipe("all FP16, foreach AdamW", "full", {"dtype": "float16", "optim": "adamw_torch"}, FSDP),
    Recipe(
        "AMP: FP32 weights, FP16 compute, fused AdamW",
        "full",
        {"dtype": "float32", "mixed_precision": "fp16", "optim": "adamw_torch_fused"},
        # DeepSpeed keeps the FP32 weights beside FP16 ones, and shards both
        {"dtype": "float16", "mixed_precision": "no", "strategy": "zero3"},
    ),
)
"""Full fine-tuning, the cheapest first."""
PLAIN, AMP = FULL[2], FULL[4]
LORA = Recipe("LoRA on an FP16 base", "lora", {"dtype": "float16"}, FSDP)
LORA_INT8 = Recipe("LoRA on an INT8 base", "lora_int8", {"dtype": "float16"}, FSDP)
QLORA = Recipe("QLoRA on an NF4 base", "qlora", {"dtype": "float16"}, FSDP)
ADAPTERS: Mapping[str, tuple[Recipe, ...]] = {"lora": (LORA, LORA_INT8, QLORA), "qlora": (QLORA,)}
"""Which recipes may be meant by the guide's LoRA and QLoRA figures, the nearest to its words first."""
HEADLINES: Mapping[str, tuple[Recipe, ...]] = {"full": (PLAIN, AMP), "lora": (LORA,), "qlora": (QLORA,)}
"""Recipes shown beside each of the guide's columns."""


@dataclass(frozen=True, slots=True)
class Seats:
    """Where a run fits."""

    card: str
    count: int
    strategy: str = ""
    per_card_bytes: int = 0

    def __str__(self) -> str:
        """``A100 80GB`` or ``8 × A100 80GB (fsdp)``."""
        return self.card if self.count == 1 else f"{self.count} × {self.card} ({self.strategy})"


@dataclass(frozen=True, slots=True)
class Reached:
    """How a figure of the guide comes about."""

    recipe: Recipe | None
    """The one that fits under the figure; None where none does."""
    total_bytes: int
    """Of that recipe (of the cheapest, where none fits) at batch 1 of `SHORT` tokens."""
    batch: int
    """Largest batch of `SHORT` tokens that stays within the figure; 0 where none does."""
    batch_unchecked: int
    """The same without gradient checkpointing."""
    above: Recipe | None = None
    """The next dearer recipe, which does not fit under the figure."""
    above_bytes: int = 0


class Subject:
    """A model of the guide, with every estimate made once."""

    def __init__(self, model: Model, models_dir: Path) -> None:
        """Nothing is read before it is asked for."""
        self.model = model
        self.models_dir = models_dir

    @cached_property
    def snapshot(self) -> Snapshot:
        """Config and headers."""
        return library.load(self.models_dir, self.model.repo_id, self.model.revision)

    @cached_property
    def parameters(self) -> int:
        """Counted in the headers."""
        return describe(self.snapshot).parameters.total

    @lru_cache  # noqa: B019 - six subjects live as long as the process
    def _estimate(self, method: str, settings: str) -> Estimate:
        _, [found] = estimate(self.snapshot, Settings.from_kwargs(**json.loads(settings)), [method])
        if found.total_bytes is None:
            raise ValueError(f"{self.model.repo_id}: {method} has no figure: {found.reason}")
        return found

    def estimate(self, recipe: Recipe, **changes: Any) -> Estimate:
        """The estimate of a recipe; never a skipped one."""
        return self._estimate(recipe.method, json.dumps({**BASE, **recipe.settings, **changes}, sort_keys=True))

    def total(self, recipe: Recipe, **changes: Any) -> int:
        """What nvidia-smi would show, bytes."""
        total = self.estimate(recipe, **changes).total_bytes
        assert total is not None  # noqa: S101 - _estimate has refused skipped ones
        return total

    def breakdown(self, recipe: Recipe, **changes: Any) -> Breakdown:
        """What is alive at the peak."""
        breakdown = self.estimate(recipe, **changes).breakdown
        assert breakdown is not None  # noqa: S101 - _estimate has refused skipped ones
        return breakdown

    def loaded(self, recipe: Recipe) -> int:
        """Bytes after loading, adapters included."""
        loaded = self.estimate(recipe).loaded_bytes
        assert loaded is not None  # noqa: S101 - _estimate has refused skipped ones
        return loaded

    def largest_beside_weights(self, recipe: Recipe) -> AliveGroup:
        """The largest group of tensors at the peak that are no weights."""
        settings = Settings.from_kwargs(**{**BASE, **recipe.settings})
        _, [found] = estimate(self.snapshot, settings, [recipe.method], explain=True)
        return max((group for group in found.alive if group.category != "weights"), key=lambda group: group.bytes)

    def seats(self, recipe: Recipe, **changes: Any) -> Seats | None:
        """The smallest of the guide's cards that takes it, else the fewest of the largest; None above `COUNTS`."""
        cards = gpus.guide_cards()
        one = gpus.smallest(gpus.fits(self.total(recipe, **changes), cards))
        if one is not None:
            return Seats(one.name, 1)
        for count in COUNTS:
            need = self.total(recipe, **{**changes, **recipe.sharded, "num_gpus": count})
            several = gpus.smallest(gpus.fits(need, cards, count=count))
            if several is not None:
                return Seats(several.name, count, recipe.sharded["strategy"], need)
        return None

    def largest_batch(self, recipe: Recipe, limit_bytes: int, **changes: Any) -> int:
        """The largest batch whose total stays within a limit; 0 if not even one sample's does."""

        def within(batch: int) -> bool:
            return self.total(recipe, batch_size=batch, **changes) <= limit_bytes

        if not within(1):
            return 0
        low, high = 1, 2
        while high <= MAX_BATCH and within(high):
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if within(middle) else (low, middle)
        return low

    def reached(self, method: str) -> Reached:
        """How the guide's figure for a method comes about."""
        limit = int(self.model.figure(method).high * GB)
        recipes = FULL if method == "full" else ADAPTERS[method]
        costs = [self.total(recipe, seq_len=SHORT) for recipe in recipes]
        fitting = [i for i, cost in enumerate(costs) if cost <= limit]
        if not fitting:
            return Reached(None, min(costs), 0, 0)
        # full: the dearest that fits; adapters: the first, which is the one the guide names
        chosen = max(fitting, key=lambda i: costs[i]) if method == "full" else fitting[0]
        dearer = [i for i, cost in enumerate(costs) if cost > limit]
        above = min(dearer, key=lambda i: costs[i]) if dearer else None
        return Reached(
            recipe=recipes[chosen],
            total_bytes=costs[chosen],
            batch=self.largest_batch(recipes[chosen], limit, seq_len=SHORT),
            batch_unchecked=self.largest_batch(recipes[chosen], limit, seq_len=SHORT, gradient_checkpointing=False),
            above=None if above is None else recipes[above],
            above_bytes=0 if above is None else costs[above],
        )


def main_branch(models_dir: Path, repo_id: str) -> str | NoSafetensorsError:
    """What hubvram reads on the main branch of a repo without safetensors: a pickle's path, or the error it raises.

    Raises:
        ValueError: the repo has safetensors.
    """
    meta = json.loads((models_dir / repo_id / "meta.json").read_text(encoding="utf-8"))
    try:
        component = choose([ListedFile(s["rfilename"], s["size"]) for s in meta["siblings"]], repo_id).components[0]
    except NoSafetensorsError as error:
        return error
    path = component.single or component.index or ""
    if ".safetensors" in path:
        raise ValueError(f"{repo_id} has safetensors on its main branch")
    return path


def deviation(total_bytes: int, figure: Figure) -> str:
    """Where a total lies against a figure: ``+12 %``, ``equal``, or ``within`` for a range that holds it."""
    gb = total_bytes / GB
    if figure.low <= gb and (figure.open_ended or gb <= figure.high):
        return "within"
    percent = round(100 * (gb / (figure.low if gb < figure.low else figure.high) - 1))
    return f"{percent:+d} %" if percent else "equal"
