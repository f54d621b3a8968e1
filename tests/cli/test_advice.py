"""`hubvram fit` and `hubvram recommend`, whole, on the loopback Hub; and the same from Python."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

import hubvram
from hubvram import gpus
from hubvram.cli.commands.estimate import SHOWN
from hubvram.errors import NotFoundError, OfflineError, SettingError, UnsupportedError
from hubvram.plan.methods import names
from hubvram.report.advice import FIT_FIELDS, RECOMMEND_FIELDS
from hubvram.report.formats import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fakehub import FakeHub

    Run = Callable[..., Any]

pytestmark = pytest.mark.hub

MISTRAL = "mistralai/Mistral-7B-v0.1"
SMALL = "HuggingFaceTB/SmolLM2-135M"
GATED = "meta-llama/Llama-3.1-8B"
ADAPTER = "alignment-handbook/zephyr-7b-sft-qlora"


def test_fit_as_a_table(run: Run) -> None:
    result = run("fit", MISTRAL, "--gpu", "4090")
    assert result.code == 0
    assert "RTX 4090 24GB, 23.99 GiB" in result.out
    lines = {line.split()[0]: line.split() for line in result.out.splitlines() if line}
    assert lines["lora"][1] == "yes"
    assert set(SHOWN) <= set(lines)
    assert "What does not fit on RTX 4090 24GB" in result.out
    assert "lora instead of full" in result.out
    assert f"{len(names()) - len(SHOWN)} more methods" in result.out


def test_fit_and_estimate_agree(run: Run, fake_hub: FakeHub) -> None:
    arguments = ("-m", "lora", "-m", "bitfit", "--batch-size", "2", "--gpu", "3060", "--gpu", "A100 80GB", "--json")
    [lora, bitfit] = run(MISTRAL, *arguments).data["estimates"]
    asked = len(fake_hub.log)
    data = run("fit", MISTRAL, *arguments).data
    assert len(fake_hub.log) == asked, "the headers were in the cache"
    assert "estimates" not in data
    assert data["settings"]["batch_size"] == 2
    assert [card["name"] for card in data["cards"]] == ["RTX 3060 12GB", "A100 80GB"]
    for card, gpu in zip(data["cards"], lora["gpus"], strict=True):
        [ours, skipped] = card["methods"]
        assert ours["total_bytes"] == lora["total_bytes"]
        assert (ours["fits"], ours["headroom_bytes"]) == (gpu["fits"], gpu["headroom_bytes"])
        assert (skipped["status"], skipped["reason"]) == ("skipped", bitfit["reason"])
        assert (ours["fix"] is None) is ours["fits"]
        assert ours["limits"]["seq_len"]["bound"] in ("memory", "model", None)


def test_the_limit_of_the_command_holds_on_the_command_line(run: Run) -> None:
    data = run("fit", MISTRAL, "-m", "qlora", "--gpu", "4090", "--json").data
    limits = data["cards"][0]["methods"][0]["limits"]
    for flag, name in (("--batch-size", "batch_size"), ("--seq-len", "seq_len"), ("--r", "r")):
        for more, fits in ((0, True), (1, False)):
            value = str(limits[name]["value"] + more)
            [found] = run(MISTRAL, "-m", "qlora", "--gpu", "4090", flag, value, "--json").data["estimates"]
            assert found["gpus"][0]["fits"] is fits, (flag, value)


@pytest.mark.parametrize("name", NAMES)
def test_both_in_every_format(run: Run, name: str) -> None:
    for arguments in (("fit", SMALL, "--gpu", "4060", "-m", "lora", "-m", "bitfit"), ("recommend", SMALL)):
        result = run(*arguments, "--format", name)
        assert result.code == 0
        assert result.err == []
        assert SMALL in result.out.replace("\\", "")


def test_the_columns(run: Run) -> None:
    fit = list(csv.DictReader(io.StringIO(run("fit", MISTRAL, "--gpu", "4090", "--format", "csv").out)))
    assert tuple(fit[0]) == FIT_FIELDS
    assert [row["method"] for row in fit] == names(), "data have every method"
    advice = list(csv.DictReader(io.StringIO(run("recommend", MISTRAL, "--format", "csv").out)))
    assert tuple(advice[0]) == RECOMMEND_FIELDS
    assert [row["goal"] for row in advice] == ["best_quality", "balance", "smallest_card", "fastest_to_try"]


def test_recommend_as_a_table(run: Run) -> None:
    result = run("recommend", MISTRAL)
    assert result.code == 0
    for word in ("best quality", "2 x A100 80GB", "fsdp", "QLoRA", "RTX 3060 12GB", "1 x 512", "5% of each card"):
        assert word in result.out
    assert "hubvram mistralai/Mistral-7B-v0.1 -m qlora" in result.out


def test_recommend_for_the_cards_at_hand(run: Run) -> None:
    data = run("recommend", MISTRAL, "--gpu", "4090", "--num-gpus", "1", "--goal", "best_quality", "--json").data
    assert (data["gpus"], data["max_gpus"]) == (["RTX 4090 24GB"], 1)
    [item] = data["recommendations"]
    assert (item["goal"], item["method"], item["num_gpus"]) == ("best_quality", "lora", 1)
    assert len(item["passed_over"]) == 3
    nothing = run("recommend", "huggyllama/llama-30b", "--gpu", "4060", "--num-gpus", "1")
    assert nothing.code == 0, "that nothing fits is an answer"
    assert "Nearest: QLoRA" in nothing.out


def test_an_adapter_goes_on_on_its_base(run: Run) -> None:
    data = run("fit", ADAPTER, "--gpu", "4090", "-m", "qlora", "-m", "full", "--json").data
    qlora, full = data["cards"][0]["methods"]
    assert qlora["fits"] is True
    assert full["status"] == "skipped"
    assert "adapter" in full["reason"]
    advice = run("recommend", ADAPTER, "--goal", "best_quality", "--json")
    assert advice.data["recommendations"][0]["method"] == "lora"
    assert any("its base model" in line for line in advice.err)


def test_gguf_cannot_be_trained(run: Run) -> None:
    data = run("recommend", "TheBloke/Mistral-7B-v0.1-GGUF", "--json").data
    for item in data["recommendations"]:
        assert not item["reachable"]
        assert item["method"] is None
        assert "GGUF" in item["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("fit", MISTRAL), 2, "--gpu"),
        (("fit", MISTRAL, "--gpu", "no such card"), 2, "no such card"),
        (("fit", "--gpu", "4090"), 2, "REPO"),
        (("fit", MISTRAL, "--gpu", "4090", "-m", "lorra"), 2, "lorra"),
        (("fit", MISTRAL, "--gpu", "4090", "-m", "full", "--r", "8"), 2, "'r'"),
        (("fit", MISTRAL, "--gpu", "4090", "--batch-size", "0"), 2, "batch_size"),
        (("recommend", MISTRAL, "--goal", "cheapest"), 2, "cheapest"),
        (("recommend", MISTRAL, "--num-gpus", "0"), 2, "num_gpus"),
        (("recommend", "no-such/repo"), 3, "no-such/repo"),
        (("fit", "no-such/repo", "--gpu", "4090"), 3, "no-such/repo"),
        (("recommend", MISTRAL, "--offline"), 7, MISTRAL),
        (("fit", MISTRAL, "--gpu", "4090", "--offline"), 7, MISTRAL),
    ],
)
def test_exit_codes(run: Run, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = run(*arguments, "--json")
    assert result.code == code
    assert result.err[0].startswith("Error:")
    assert message in result.err[0]
    assert set(json.loads(result.out)["error"]) == {"code", "message", "hint"}


def test_a_gated_repo_is_refused_with_its_code(run: Run) -> None:
    for arguments in (("recommend", GATED), ("fit", GATED, "--gpu", "4090")):
        assert run(*arguments).code == 4


def test_from_python(fake_hub: FakeHub, db: Path) -> None:
    where: dict[str, Any] = {"endpoint": fake_hub.url, "db": db}
    found = hubvram.fit(MISTRAL, "4090", methods=["lora"], batch_size=2, **where)
    assert isinstance(found, hubvram.FitReport)
    [method] = found.cards[0].methods
    limit = method.limit("batch_size")
    assert limit is not None
    assert limit.value is not None
    assert limit.value >= 2
    report = hubvram.estimate(MISTRAL, methods=["lora"], batch_size=limit.value, gpus=["4090"], **where)
    assert report.estimates[0].total_bytes == limit.total_bytes
    advice = hubvram.recommend(MISTRAL, goals=["balance"], gpus=["4090", "3060"], max_gpus=2, **where)
    assert isinstance(advice, hubvram.Advice)
    assert advice.cards == ("RTX 3060 12GB", "RTX 4090 24GB")
    assert advice.recommendations[0].method == "lora"
    assert json.dumps(advice.to_dict())
    assert json.dumps(found.to_dict())


def test_from_python_errors(fake_hub: FakeHub, db: Path, tmp_path: Path) -> None:
    where: dict[str, Any] = {"endpoint": fake_hub.url, "db": db}
    with pytest.raises(SettingError, match="card"):
        hubvram.fit(MISTRAL, [], **where)
    with pytest.raises(SettingError, match="max_gpus"):
        hubvram.recommend(MISTRAL, max_gpus=0, **where)
    with pytest.raises(NotFoundError):
        hubvram.recommend("no-such/repo", **where)
    with pytest.raises(OfflineError):
        hubvram.fit(MISTRAL, gpus.CARDS[0].name, offline=True, **where)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}', encoding="utf-8")
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(4)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(UnsupportedError, match="base"):
        hubvram.recommend(str(folder), **where)
