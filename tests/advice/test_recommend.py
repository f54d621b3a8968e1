"""Goal -> method -> cards: every figure is the estimator's, and no better set-up was passed over without a reason."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from hubvram import estimator, gpus
from hubvram.accuracy.library import load
from hubvram.advice import goals
from hubvram.advice.bench import Bench
from hubvram.advice.flags import flags
from hubvram.advice.recommend import KEPT_FREE, Adviser, Recommendation
from hubvram.cli.commands.recommend import GOALS
from hubvram.cli.options import setting_options, take_settings
from hubvram.errors import SettingError
from hubvram.plan import methods as catalogue
from hubvram.plan import optimizers
from hubvram.plan.settings import Settings
from hubvram.snapshot.records import Snapshot

MISTRAL = "mistralai/Mistral-7B-v0.1"
SMALL = "HuggingFaceTB/SmolLM2-135M"
LLAMA_70B = "meta-llama/Llama-2-70b-hf"


@pytest.fixture
def models(fixtures_dir: Path) -> Path:
    return fixtures_dir / "models" if (fixtures_dir / "models").is_dir() else fixtures_dir


def advise(snapshot: Snapshot, cards: Sequence[str] = (), most: int = 64, **settings: Any) -> dict[str, Recommendation]:
    bench = Bench(snapshot, Settings.from_kwargs(**settings))
    adviser = Adviser(bench, settings, gpus.resolve(cards), max_gpus=most)
    return {goal.name: adviser.recommend(goal) for goal in goals.GOALS}


def parsed(arguments: Sequence[str]) -> tuple[Settings, tuple[str, ...] | None]:
    """Settings as the command line reads them."""
    seen: list[Any] = []

    @click.command()
    @setting_options
    def command(**options: Any) -> None:
        seen.append(take_settings(options))

    command.main(list(arguments), standalone_mode=False)
    [(settings, methods)] = seen
    return Settings.from_kwargs(**settings), methods


@pytest.mark.parametrize(
    "repo_id", [MISTRAL, SMALL, LLAMA_70B, "openai-community/gpt2", "TheBloke/Mistral-7B-v0.1-GPTQ"]
)
@pytest.mark.parametrize(
    "cards", [(), ("T4",), ("4060", "4090"), ("H100",)], ids=lambda names: "+".join(names) or "guide"
)
def test_the_command_gives_the_figures(models: Path, repo_id: str, cards: tuple[str, ...]) -> None:
    snapshot = load(models, repo_id)
    for item in advise(snapshot, cards).values():
        assert item.reason.endswith(".")
        assert item.command is not None
        words = shlex.split(item.command)
        assert words[:2] == ["hubvram", repo_id]
        assert words[-2:] == ["--gpu", item.gpu]
        settings, methods = parsed(words[2:-2])
        assert methods == (item.method,)
        assert (settings.num_gpus, settings.batch_size) == (item.num_gpus, item.batch_size)
        _, [found] = estimator.estimate(snapshot, settings, methods)
        assert found.total_bytes == item.total_bytes is not None
        card = gpus.find(item.gpu or "")
        assert item.headroom_bytes == card.usable_bytes - found.total_bytes
        assert item.reachable is (item.headroom_bytes >= KEPT_FREE * card.usable_bytes)
        if cards:
            assert card in gpus.resolve(cards)


def test_a_7b_model_on_the_guides_cards(models: Path) -> None:
    found = advise(load(models, MISTRAL))
    best = found["best_quality"]
    assert (best.method, best.gpu, best.num_gpus) == ("full", "A100 80GB", 2)
    assert best.strategy in ("fsdp", "zero3")
    assert best.trainable_parameters == 7_241_732_096
    assert not best.passed_over
    balance = found["balance"]
    assert (balance.method, balance.gpu, balance.num_gpus, balance.strategy) == ("lora", "RTX 3090 24GB", 1, None)
    assert balance.settings == {"dtype": "bfloat16", "peft": {"target_modules": "all-linear"}}
    small = found["smallest_card"]
    assert (small.method, small.gpu) == ("qlora", "RTX 3060 12GB")
    assert [rung.method for rung in small.passed_over] == ["full", "full", "lora"]
    quick = found["fastest_to_try"]
    assert (quick.method, quick.num_gpus, quick.seq_len) == ("lora", 1, 512)
    assert quick.settings is not None
    assert quick.settings["gradient_checkpointing"] is False


def test_no_smaller_card_and_no_fewer_cards_would_do(models: Path) -> None:
    snapshot = load(models, MISTRAL)
    found = advise(snapshot)
    for name in ("best_quality", "balance"):
        item = found[name]
        settings, _ = parsed(shlex.split(item.command or "")[2:-2])
        single = settings.with_(num_gpus=1, strategy="ddp")
        _, [alone] = estimator.estimate(snapshot, single, [item.method or ""])
        assert alone.total_bytes is not None
        for card in gpus.guide_cards():
            if item.num_gpus == 1 and card.name == item.gpu:
                break
            assert alone.total_bytes > card.usable_bytes * (1 - KEPT_FREE), (name, card.name)


def test_a_small_model_is_trained_whole_on_the_smallest_card(models: Path) -> None:
    small = advise(load(models, SMALL))["smallest_card"]
    assert (small.method, small.gpu, small.num_gpus) == ("full", "RTX 4060 8GB", 1)
    assert small.settings is not None
    assert small.settings["dtype"] == "float32"


def test_cards_before_ampere_compute_in_float16(models: Path) -> None:
    found = advise(load(models, "huggyllama/llama-7b"), ["T4"])
    for item in found.values():
        assert item.settings is not None
        assert "bfloat16" not in str(item.settings)
        assert item.settings.get("mixed_precision") != "bf16"
    small = found["smallest_card"]
    assert small.settings is not None
    assert small.settings["quantization"] == {"bnb_4bit_compute_dtype": "float16"}
    one = advise(load(models, SMALL), ["T4"], most=1)["best_quality"]
    assert one.settings is not None
    assert one.settings["mixed_precision"] == "fp16"


def test_cards_at_hand_decide_the_rung(models: Path) -> None:
    snapshot = load(models, MISTRAL)
    one = advise(snapshot, ["4090"], most=1)["best_quality"]
    assert (one.method, one.num_gpus) == ("lora", 1)
    assert one.settings is not None
    assert one.settings["peft"] == {"r": 64, "target_modules": "all-linear"}
    assert [rung.reason for rung in one.passed_over] == ["no single card holds it"] * 3
    tight = advise(snapshot, ["3060"], most=1)["best_quality"]
    assert tight.method == "qlora"
    three = advise(snapshot, ["A100 80GB"], most=3)["best_quality"]
    assert (three.method, three.num_gpus) == ("full", 2)
    many = advise(load(models, LLAMA_70B), ["3090"], most=4)["balance"]
    assert (many.method, many.num_gpus, many.strategy) == ("qlora", 4, "fsdp")
    assert many.passed_over[0].reason == "not even 4 cards of one kind hold it"


def test_out_of_reach_names_what_comes_nearest(models: Path) -> None:
    item = advise(load(models, LLAMA_70B), ["4060"], most=1)["fastest_to_try"]
    assert not item.reachable
    assert (item.method, item.gpu, item.num_gpus) == ("qlora", "RTX 4060 8GB", 1)
    assert item.headroom_bytes is not None
    assert item.headroom_bytes < 0
    assert "nearest" in item.reason


def test_what_the_user_sets_stays(models: Path) -> None:
    snapshot = load(models, MISTRAL)
    given: dict[str, Any] = {"seq_len": 4096, "dtype": "bfloat16", "optim": "adafactor", "peft": {"r": 8}}
    for item in advise(snapshot, **given).values():
        settings, _ = parsed(shlex.split(item.command or "")[2:-2])
        assert (settings.seq_len, settings.dtype, settings.optim) == (4096, "bfloat16", "adafactor")
        assert item.seq_len == 4096
        if item.method != "full":
            assert settings.peft["r"] == 8
    best = advise(snapshot, **given)["best_quality"]
    assert best.setup == "full", "with BF16 weights it is not the set-up of its name"
    assert "FP32" not in best.reason
    adapter = advise(snapshot, peft={"target_modules": ["q_proj"]})["balance"]
    assert adapter.setup == "LoRA"


def test_a_quantised_base_is_not_trained_whole(models: Path) -> None:
    best = advise(load(models, "TheBloke/Mistral-7B-v0.1-GPTQ"))["best_quality"]
    assert best.method == "lora"
    assert all("GPTQ" in rung.reason for rung in best.passed_over)


def test_only_the_methods_asked_for(models: Path) -> None:
    bench = Bench(load(models, MISTRAL), Settings())
    adviser = Adviser(bench, (), gpus.guide_cards(), methods={"qlora"})
    assert {adviser.recommend(goal).method for goal in goals.GOALS} == {"qlora"}
    none = Adviser(bench, (), gpus.guide_cards(), methods={"ia3"}).recommend(goals.GOALS[0])
    assert (none.reachable, none.method) == (False, None)
    assert "full, lora, qlora" in none.reason


def test_goals_by_name() -> None:
    assert goals.names() == GOALS
    assert goals.find(None) == goals.GOALS
    assert [goal.name for goal in goals.find(["Balance", "best-quality"])] == ["best_quality", "balance"]
    with pytest.raises(SettingError, match="cheapst") as error:
        goals.find(["cheapst"])
    assert error.value.hint
    with pytest.raises(SettingError, match="list"):
        goals.find("balance")


def test_every_rung_is_made_of_real_settings() -> None:
    for goal in goals.GOALS:
        for rung in goal.rungs:
            Settings.from_kwargs(**rung.settings)
            catalogue.find(rung.method).config(rung.settings.get("peft", {}))
            optimizers.find(rung.settings.get("optim", "adamw_torch"))
            for strategy, changes in rung.sharded.items():
                Settings.from_kwargs(**{**rung.settings, **changes, "strategy": strategy, "num_gpus": 2})


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(batch_size=4, seq_len=512, gradient_checkpointing=False, padding=True, keep_outputs=False),
        Settings(peft={"r": 8, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}, max_grad_norm=0.0),
        Settings(quantization={"bnb_4bit_use_double_quant": False, "bnb_4bit_quant_type": "fp4"}),
        Settings(stack={"transformers": "4.48", "peft": "0.13"}, num_gpus=4, strategy="zero3", offload="params"),
    ],
)
def test_flags_say_the_settings(settings: Settings) -> None:
    words = flags(settings)
    assert words is not None
    assert parsed(words)[0] == settings


def test_no_flags_for_what_has_none() -> None:
    assert flags(Settings(peft={"use_dora": True})) is None
    assert flags(Settings(quantization={"quant_method": "gptq"})) is None
