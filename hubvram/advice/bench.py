"""One model on the bench: estimates under changed settings, each made once."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from hubvram import estimator
from hubvram.errors import SettingError
from hubvram.plan import methods as catalogue
from hubvram.plan.methods.base import COMMON_KEYS
from hubvram.plan.settings import Settings
from hubvram.report.record import Estimate
from hubvram.snapshot.records import Snapshot

PARTS = ("weights", "gradients", "optimizer", "activations", "temporary")
"""Parts of a breakdown, in the order of the tables."""


class Bench:
    """Estimates of one snapshot, by method and by what is changed of the settings.

    Args:
        snapshot: the model.
        settings: what holds unless it is changed.
        only: methods that the repo can take (an adapter goes on with its own); None = every one.
        why_only: said of the others.
        strict: a PEFT key that a method does not have is an error; else it
            is left out for that method, and an error only where no method has it.

    Raises:
        SettingError: a PEFT key that no method has.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        settings: Settings,
        *,
        only: Collection[str] | None = None,
        why_only: str | None = None,
        strict: bool = False,
    ) -> None:
        self.snapshot = snapshot
        self.settings = settings
        self.strict = strict
        self._only = only
        self._why_only = why_only
        self._known: dict[tuple[str, str], Estimate] = {}
        self._applied: Mapping[str, Any] | None = None
        if not strict:
            every = {key for method in catalogue.methods().values() for key in method.keys} | COMMON_KEYS
            for key in settings.peft:
                if key not in every:
                    raise SettingError(f"No method has a setting {key!r}.", hint="`hubvram methods` lists the methods.")

    def estimate(self, method: str, changes: Mapping[str, Any] | None = None) -> Estimate:
        """The estimate of a method with some settings changed.

        Args:
            method: name in the catalogue.
            changes: fields of `Settings`; the keys in ``peft`` and ``quantization`` are laid over those that hold.
        """
        changes = changes or {}
        key = (method, json.dumps(changes, sort_keys=True))
        if key not in self._known:
            self._known[key] = self._estimate(method, changes)
        return self._known[key]

    def _estimate(self, method: str, changes: Mapping[str, Any]) -> Estimate:
        if self._only is not None and method not in self._only:
            return Estimate(method, "skipped", reason=self._why_only)
        _, [found] = estimator.estimate(self.snapshot, self.changed(method, changes), [method])
        return found

    def total(self, method: str, changes: Mapping[str, Any] | None = None) -> int | None:
        """What nvidia-smi would show, bytes; None where the method is skipped."""
        return self.estimate(method, changes).total_bytes

    def changed(self, method: str, changes: Mapping[str, Any]) -> Settings:
        """The settings as changed, for one method."""
        merged = {
            key: {**getattr(self.settings, key), **value} if key in ("peft", "quantization") else value
            for key, value in changes.items()
        }
        settings = self.settings.with_(**merged)
        if self.strict:
            return settings
        keys = catalogue.find(method).keys
        return settings.with_(peft={k: v for k, v in settings.peft.items() if k in keys or k in COMMON_KEYS})

    @property
    def applied(self) -> Mapping[str, Any]:
        """The settings as they hold, dtype, tokens and library versions resolved."""
        if self._applied is None:
            self._applied, _ = estimator.estimate(self.snapshot, self.settings, [])
        return self._applied

    def rank(self, method: str, changes: Mapping[str, Any] | None = None) -> int | None:
        """The LoRA rank that a method runs with; None where it has none."""
        record = catalogue.find(method)
        if record.peft_type != "LORA" or "r" not in record.keys:
            return None
        value = self.changed(method, changes or {}).peft.get("r", record.keys["r"])
        return value if isinstance(value, int) and value > 0 else None


def largest_part(estimate: Estimate) -> str | None:
    """The part of the peak that takes the most; None for a skipped method."""
    if estimate.breakdown is None:
        return None
    parts = estimate.breakdown.to_dict()
    return max(PARTS, key=lambda part: parts[f"{part}_bytes"])


def growing_part(before: Estimate, after: Estimate) -> str | None:
    """The part that grows most from one estimate to a larger one; the largest part where none grows."""
    if before.breakdown is None or after.breakdown is None:
        return largest_part(before)
    old, new = before.breakdown.to_dict(), after.breakdown.to_dict()
    growth = {part: new[f"{part}_bytes"] - old[f"{part}_bytes"] for part in PARTS}
    part = max(PARTS, key=lambda part: growth[part])
    return part if growth[part] > 0 else largest_part(before)
