"""Forms of LoRA that share one timeline: the same figures as when each is worked out alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hubvram import estimator
from hubvram.plan import methods
from hubvram.plan.settings import Settings
from hubvram.snapshot.records import Snapshot

FORMS = methods.MODULES["lora"]
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
}


@pytest.mark.parametrize("settings", [Settings(), Settings(peft={"lora_dropout": 0.1}, gradient_checkpointing=True)])
def test_shared_timelines_change_no_figure(settings: Settings) -> None:
    snapshot = Snapshot("m", "main", "x", "e", "hub", CONFIG, ())
    _, together = estimator.estimate(snapshot, settings, FORMS)
    alone = [estimator.estimate(snapshot, settings, [name])[1][0] for name in FORMS]
    assert together == alone
    assert [e.method for e in together] == list(FORMS)


def test_who_shares_a_timeline() -> None:
    snapshot = Snapshot("m", "main", "x", "e", "hub", CONFIG, ())
    _, found = estimator.estimate(snapshot, Settings(), FORMS)
    by_name = {e.method: replace(e, method="lora", reason=None) for e in found}
    for name in ("rslora", "pissa", "olora", "eva", "corda", "loftq", "lora_plus"):
        assert by_name[name] == by_name["lora"], name
    for name in ("qlora", "lora_int8", "dora", "mica", "kasa", "velora"):
        assert by_name[name] != by_name["lora"], name
