"""Single changes that save memory, the cheapest first: what a user would try, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hubvram.advice.bench import Bench
from hubvram.report.record import Estimate

COUNTS = (2, 4, 8, 16, 32, 64)
"""Numbers of cards that are tried."""
NO_SHARDING = frozenset({"lora_int8"})
"""Methods whose base FSDP cannot shard: LLM.int8 keeps its statistics in Python attributes of the weight."""
LIGHTER_BASE: Mapping[str, tuple[str, ...]] = {
    "lora": ("lora_int8", "qlora"),
    "lora_int8": ("qlora",),
    "dora": ("qdora",),
}
"""The same adapter on a quantised base, under its own name in the catalogue."""
LIGHTER_METHOD: Mapping[str, tuple[str, ...]] = {"full": ("lora", "qlora"), "freeze": ("lora", "qlora")}
_HALF = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Change:
    """One change to one setting (or to the method), and what comes of it."""

    setting: str
    """Field of `Settings`, or ``method``."""
    value: Any
    label: str
    """In a few words: ``gradient checkpointing on``."""
    cost: str
    """What is lost by it, in one sentence without its full stop."""
    method: str
    """The method that runs then."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Settings`."""
    total_bytes: int | None = None
    headroom_bytes: int | None = None

    @property
    def fits(self) -> bool:
        """Whether the card holds it then."""
        return self.headroom_bytes is not None and self.headroom_bytes >= 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "setting": self.setting,
            "value": self.value,
            "label": self.label,
            "cost": self.cost,
            "method": self.method,
            "settings": dict(self.changes),
            "total_bytes": self.total_bytes,
            "headroom_bytes": self.headroom_bytes,
            "fits": self.fits,
        }


def tried(bench: Bench, estimate: Estimate, usable: int, limits: Mapping[str, int | None]) -> tuple[Change, ...]:
    """The changes that lower the total, the cheapest first, each with its total on a card of ``usable`` bytes.

    Args:
        bench: the model.
        estimate: of the method under the settings as they hold; not a skipped one.
        usable: bytes of one card.
        limits: largest batch_size, seq_len and r that fit with all else as it is (from `fit`).
    """
    found = []
    for change in (*_candidates(bench, estimate.method, limits), *_more_cards(bench, estimate.method, usable)):
        total = bench.total(change.method, change.changes)
        if total is None or estimate.total_bytes is None or total >= estimate.total_bytes:
            continue
        found.append(
            Change(
                change.setting,
                change.value,
                change.label,
                change.cost,
                change.method,
                change.changes,
                total,
                usable - total,
            )
        )
    return tuple(found)


def _candidates(bench: Bench, method: str, limits: Mapping[str, int | None]) -> Iterator[Change]:
    """In the order of what they cost: first what changes no result, then what costs time, then quality, then data."""
    now = bench.settings
    dtype = bench.applied["dtype"]

    def one(setting: str, value: Any, label: str, cost: str) -> Change:
        return Change(setting, value, label, cost, method, {setting: value})

    if now.attn_implementation == "eager":
        yield one("attn_implementation", "sdpa", "sdpa attention", "the same result")
    if not now.use_liger_kernel:
        yield one("use_liger_kernel", True, "Liger kernels", "the same result; needs the package liger-kernel")
    if not now.gradient_checkpointing:
        yield one(
            "gradient_checkpointing",
            True,
            "gradient checkpointing on",
            "the same result; each step computes the forward pass twice",
        )
    batch = limits.get("batch_size")
    if batch and batch < now.batch_size:
        cost = "the same result if gradient accumulation makes up for it; more steps"
        yield one("batch_size", batch, f"batch {batch} instead of {now.batch_size}", cost)
    if "8bit" not in now.optim and "8bit" not in method:
        yield one(
            "optim",
            "adamw_bnb_8bit",
            "8-bit optimizer states (adamw_bnb_8bit)",
            "nearly the same result; needs bitsandbytes",
        )
    if dtype == "float32" and now.mixed_precision == "no":
        yield one("mixed_precision", "bf16", "mixed precision bf16", "products are computed in 16 bits")
    if dtype == "float32":
        lost = "" if method == "inference" else ", and small updates with them"
        yield one("dtype", "bfloat16", "bfloat16 weights", f"the weights are rounded{lost}")
    rank, fitting = bench.rank(method), limits.get("r")
    if rank and fitting and fitting < rank:
        yield Change(
            "r", fitting, f"r {fitting} instead of {rank}", "fewer trained parameters", method, {"peft": {"r": fitting}}
        )
    yield from _lighter_base(bench, method)
    tokens = limits.get("seq_len")
    if tokens and tokens < bench.applied["seq_len"]:
        yield one(
            "seq_len",
            tokens,
            f"{tokens:,} tokens instead of {bench.applied['seq_len']:,}",
            "longer samples are cut or packed shorter",
        )
    for other in LIGHTER_METHOD.get(method, ()):
        yield Change("method", other, f"{other} instead of {method}", "only adapters are trained", other)


def _lighter_base(bench: Bench, method: str) -> Iterator[Change]:
    """The base held in 8 or 4 bits."""
    costs = {
        "lora_int8": "the base is held in 8 bits; slower steps",
        "qlora": "the base is held in 4 bits; slower steps, a little quality",
        "qdora": "the base is held in 4 bits; slower steps, a little quality",
    }
    for other in LIGHTER_BASE.get(method, ()):
        yield Change("method", other, f"{other} instead of {method}", costs[other], other)
    held = bench.applied["quantization"]
    if (
        method not in LIGHTER_BASE
        and method not in costs
        and not any(held.get(k) for k in ("load_in_4bit", "load_in_8bit", "quant_method"))
    ):
        changes = {"quantization": {"load_in_4bit": True}}
        yield Change("quantization", {"load_in_4bit": True}, "a 4-bit base", costs["qlora"], method, changes)


def _more_cards(bench: Bench, method: str, usable: int) -> Iterator[Change]:
    """The fewest cards that hold it, the model sharded over them; the most that are tried where none do."""
    now = bench.settings
    if method in NO_SHARDING or method == "inference":
        return
    strategy = now.strategy if now.strategy in ("zero3", "fsdp") else "fsdp"
    more = [count for count in COUNTS if count > now.num_gpus]
    for count in more:
        changes = {"num_gpus": count, "strategy": strategy}
        total = bench.total(method, changes)
        if total is not None and (total <= usable or count == more[-1]):
            yield Change(
                "num_gpus",
                count,
                f"{count} cards, {strategy}",
                f"{count} cards in the place of {now.num_gpus}",
                method,
                changes,
            )
            return
