"""Whole commands against a Hub on loopback and a real SQLite file."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hubvram
from hubvram.cli.commands.estimate import SHOWN
from hubvram.errors import OfflineError, SettingError
from hubvram.plan.methods import names
from hubvram.sources.loopback import Content

if TYPE_CHECKING:
    from collections.abc import Callable

    from fakehub import FakeHub

    Run = Callable[..., Any]

pytestmark = pytest.mark.hub

MISTRAL = "mistralai/Mistral-7B-v0.1"
SMALL = "HuggingFaceTB/SmolLM2-135M"
GATED = "meta-llama/Llama-3.1-8B"
REPORT_KEYS = [
    "schema_version",
    "repo_id",
    "requested_revision",
    "commit_sha",
    "endpoint",
    "source",
    "model_type",
    "architecture",
    "parameters",
    "settings",
    "estimates",
    "warnings",
]


def age_the_cache(db: Path) -> None:
    """As if everything had been asked for long ago."""
    connection = sqlite3.connect(db)
    with connection:
        connection.execute("update _refs set checked_at = '2020-01-01T00:00:00Z'")
    connection.close()


def test_json_is_the_object_of_the_interface(run: Run, fake_hub: FakeHub) -> None:
    result = run(MISTRAL, "--json")
    assert result.code == 0
    data = result.data
    assert list(data) == REPORT_KEYS
    assert data["schema_version"] == 1
    assert data["repo_id"] == MISTRAL
    assert data["requested_revision"] == "main"
    assert len(data["commit_sha"]) == 40
    assert data["endpoint"] == fake_hub.url
    assert data["source"] == "hub"
    assert (data["model_type"], data["architecture"]) == ("mistral", "MistralForCausalLM")
    assert data["parameters"] == {
        "total": 7_241_732_096,
        "by_dtype": {"BF16": 7_241_732_096},
        "stored_bytes": 2 * 7_241_732_096,
        "logical_total": 7_241_732_096,
        "logical_note": None,
    }
    assert [item["method"] for item in data["estimates"]] == list(names())
    for item in data["estimates"]:
        if item["status"] == "skipped":
            assert item["reason"]
            continue
        assert sum(item["breakdown"].values()) == item["peak_allocated_bytes"]
        assert item["peak_allocated_bytes"] <= item["peak_reserved_bytes"] < item["total_bytes"]
        assert [gpu["name"] for gpu in item["gpus"]][:2] == ["RTX 4060 8GB", "RTX 3060 12GB"]
        for gpu in item["gpus"]:
            assert gpu["headroom_bytes"] == gpu["usable_bytes"] - item["total_bytes"]
            assert gpu["fits"] is (gpu["headroom_bytes"] >= 0)


def test_the_table_names_everything_in_ten_seconds(run: Run) -> None:
    result = run(MISTRAL)
    assert result.code == 0
    assert "7,241,732,096 parameters, all BF16, 13.49 GiB stored" in result.out
    assert "batch 1 x 2048 tokens" in result.out
    assert "Smallest card" in result.out
    for method in ("full", "lora"):
        assert any(line.startswith(method) for line in result.out.splitlines())


def test_a_table_shows_the_usual_methods_and_says_what_more_there_is(run: Run) -> None:
    assert set(SHOWN) <= set(names())
    usual = run(SMALL)
    listed = [name for name in names() if f"\n{name} " in usual.out or f"\n{name}* " in usual.out]
    skipped = [name for name in names() if f"Skipped {name}: " in usual.out]
    assert set(listed) | set(skipped) == set(SHOWN)
    more = len(names()) - len(SHOWN)
    assert f"{more} more methods: --all shows them" in usual.out
    everything = run(SMALL, "--all")
    assert "more methods" not in everything.out
    for name in names():
        assert (
            f"\n{name} " in everything.out or f"\n{name}* " in everything.out or f"Skipped {name}: " in everything.out
        )


def test_the_second_run_asks_nobody(run: Run, fake_hub: FakeHub) -> None:
    first = run(MISTRAL, "--json").data
    asked = len(fake_hub.log)
    assert asked <= 4
    second = run(MISTRAL, "--json").data
    assert len(fake_hub.log) == asked
    assert (first.pop("source"), second.pop("source")) == ("hub", "cache")
    assert first == second


def test_other_settings_ask_nobody_either(run: Run, fake_hub: FakeHub) -> None:
    small = run(SMALL, "-m", "full", "--json").data
    asked = len(fake_hub.log)
    large = run(SMALL, "-m", "full", "--json", "--batch-size", "8").data
    assert len(fake_hub.log) == asked
    assert large["settings"]["batch_size"] == 8
    assert large["estimates"][0]["peak_allocated_bytes"] > small["estimates"][0]["peak_allocated_bytes"]


def test_explain_is_kept_apart_and_then_cached(run: Run, fake_hub: FakeHub) -> None:
    plain = run(SMALL, "-m", "full", "--json").data
    assert "alive" not in plain["estimates"][0]
    explained = run(SMALL, "-m", "full", "--json", "--explain").data["estimates"][0]
    assert sum(group["bytes"] for group in explained["alive"]) == explained["peak_allocated_bytes"]
    assert run(SMALL, "-m", "full", "--json", "--explain").data["estimates"][0] == explained


def test_an_old_answer_costs_one_request_where_nothing_changed(run: Run, fake_hub: FakeHub, db: Path) -> None:
    run(SMALL, "--json")
    age_the_cache(db)
    asked = len(fake_hub.log)
    assert run(SMALL, "--json").data["source"] == "cache"
    assert len(fake_hub.log) == asked + 1
    run(SMALL, "--json")
    assert len(fake_hub.log) == asked + 1


def test_refresh_asks_though_the_answer_is_fresh(run: Run, fake_hub: FakeHub) -> None:
    run(SMALL, "--json")
    asked = len(fake_hub.log)
    assert run(SMALL, "--json", "--refresh").data["source"] == "cache"
    assert len(fake_hub.log) == asked + 1


def test_a_new_commit_is_read(run: Run, fake_hub: FakeHub, db: Path) -> None:
    first = run(SMALL, "--json").data
    repo = fake_hub.inner.repo(SMALL)
    assert repo is not None
    main = repo.revisions["main"]
    repo.revisions["main"] = type(main)("f" * 40, main.files, main.lfs)
    assert run(SMALL, "--json").data["commit_sha"] == first["commit_sha"]
    age_the_cache(db)
    second = run(SMALL, "--json").data
    assert (second["commit_sha"], second["source"]) == ("f" * 40, "hub")


def test_a_commit_id_is_never_asked_about_twice(run: Run, fake_hub: FakeHub, db: Path) -> None:
    sha = run(SMALL, "--json").data["commit_sha"]
    age_the_cache(db)
    asked = len(fake_hub.log)
    assert run(f"{SMALL}@{sha}", "--json").data["source"] == "cache"
    assert len(fake_hub.log) == asked


def test_an_old_answer_when_the_hub_is_down_is_offered(run: Run, fake_hub: FakeHub, db: Path) -> None:
    run(SMALL, "--json")
    age_the_cache(db)
    fake_hub.fault("/api/models/", 500)
    result = run(SMALL, "--json")
    assert result.code == 5
    assert "--offline" in result.data["error"]["hint"]
    assert run(SMALL, "--json", "--offline").data["source"] == "cache"


@pytest.mark.parametrize(
    ("repo", "arguments", "code", "error"),
    [
        ("nobody/nothing", (), 3, "repo_not_found"),
        (f"{SMALL}@no-such-branch", (), 3, "revision_not_found"),
        (GATED, (), 4, "gated"),
        (GATED, ("--token", "hf_of_somebody_else"), 4, "gated"),
        ("stabilityai/stable-diffusion-xl-base-1.0", ("--file", "vae_1_0/nothing.safetensors"), 3, "entry_not_found"),
        (SMALL, ("--offline",), 7, "offline"),
    ],
)
def test_errors(run: Run, repo: str, arguments: tuple[str, ...], code: int, error: str) -> None:
    as_table = run(repo, *arguments)
    assert (as_table.code, as_table.out) == (code, "")
    messages = [line for line in as_table.err if not line.startswith("Warning: --token")]
    assert messages[0].startswith("Error: ")
    assert repo.split("@", maxsplit=1)[0] in messages[0]
    assert messages[1].startswith("Hint: ")
    assert len(messages) == 2
    as_json = run(repo, *arguments, "--json")
    assert as_json.code == code
    assert as_json.data["error"]["code"] == error
    assert as_json.data["error"]["message"] in messages[0]


def test_a_gated_repo_with_a_token_that_may(run: Run) -> None:
    result = run(GATED, "--token", "hf_granted_token", "--json", "-m", "lora")
    assert result.code == 0
    assert result.data["parameters"]["total"] == 8_030_261_248
    assert "hf_granted_token" not in "\n".join(result.err)


def test_a_corrupt_header(run: Run, fake_hub: FakeHub) -> None:
    fake_hub.file(SMALL, "model.safetensors", Content((2**60).to_bytes(8, "little"), 1000))
    result = run(SMALL, "--json")
    assert (result.code, result.data["error"]["code"]) == (6, "corrupt_header")


def test_a_hub_that_is_not_there(run: Run) -> None:
    result = run(SMALL, "--json", "--endpoint", "http://127.0.0.1:9", "--timeout", "5")
    assert (result.code, result.data["error"]["code"]) == (5, "network")


def test_a_mistyped_command_is_recognised(run: Run) -> None:
    assert run("inspct").err[-1] == "Hint: Did you mean the command `hubvram inspect`?"


def test_several_repos_are_an_array_and_one_failure_is_exit_1(run: Run) -> None:
    result = run(SMALL, "nobody/nothing", MISTRAL, "-m", "lora", "--json")
    assert result.code == 1
    assert [item["repo_id"] for item in result.data] == [SMALL, "nobody/nothing", MISTRAL]
    assert result.data[1]["error"]["code"] == "repo_not_found"
    lines = run(SMALL, "nobody/nothing", "-m", "lora", "--format", "ndjson").out.splitlines()
    assert ["error" in json.loads(line) for line in lines] == [False, True]
    rows = list(csv.DictReader(io.StringIO(run(SMALL, "nobody/nothing", "-m", "lora", "-f", "csv").out)))
    assert [row["status"] for row in rows] == ["ok", "error"]
    table = run(SMALL, "nobody/nothing", "-m", "lora")
    assert table.code == 1
    assert "nobody" not in table.out


def test_options_may_stand_before_the_repo(run: Run) -> None:
    assert run("-m", "lora", "--json", SMALL).data == {
        **run("estimate", SMALL, "-m", "lora", "--json").data,
        "source": "hub",
    }


def test_named_cards(run: Run) -> None:
    data = run(SMALL, "-m", "full", "--gpu", "h100", "--gpu", "4090", "--json").data
    assert [gpu["name"] for gpu in data["estimates"][0]["gpus"]] == ["RTX 4090 24GB", "H100 80GB"]


def test_inspect(run: Run) -> None:
    data = run("inspect", MISTRAL, "--json").data
    assert data["parameters"]["total"] == 7_241_732_096
    assert data["tensor_count"] == 291
    assert sum(group["parameters"] for group in data["tensor_groups"]) == 7_241_732_096
    ignored = {file["path"]: file["reason"] for file in data["files"] if file["role"] == "ignored"}
    assert ignored
    assert all(ignored.values())
    table = run("inspect", MISTRAL, "--tensors").out
    assert "model.layers.*.mlp.up_proj.weight" in table
    assert "PyTorch pickle" in table
    result = run("inspect", MISTRAL, "nobody/nothing", "--json")
    assert result.code == 1
    assert result.data[1]["error"]["code"] == "repo_not_found"


def test_a_cache_that_cannot_be_opened_is_a_warning(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is no database" * 100)
    result = run(SMALL, "-m", "full", "--json", "--db", str(broken))
    assert result.code == 0
    assert result.data["source"] == "hub"
    assert result.err[0].startswith("Warning: going on without the cache: ")
    for command in (("sql", "select 1"), ("cache", "stats"), ("cache", "check"), ("scan", "-")):
        failed = run(*command, "--db", str(broken))
        assert (failed.code, failed.out) == (2, "")
    assert broken.read_bytes() == b"this is no database" * 100


def test_scan_then_sql(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"# two that work\n{SMALL}\n\n{MISTRAL}\nnobody/nothing  # one that does not\n{SMALL}\n")
    result = run("scan", str(listed), "-m", "lora", "-f", "ndjson", "--jobs", "2")
    assert result.code == 0
    found = {item["repo_id"]: item["status"] for item in map(json.loads, result.out.splitlines())}
    assert found == {SMALL: "ok", MISTRAL: "ok", "nobody/nothing": "error"}
    assert result.err[-1] == "2 of 3 repos are in the cache, 1 failed."
    rows = run("sql", "select repo_id, parameters from models order by parameters", "--json").data
    assert rows[-1] == {"repo_id": MISTRAL, "parameters": 7_241_732_096}
    monkeypatch.setattr(sys, "stdin", io.StringIO("select repo_id, code from errors"))
    assert run("sql", "-", "--json").data == [{"repo_id": "nobody/nothing", "code": "repo_not_found"}]
    assert run("sql", "select status from scans", "-f", "csv").out == "status\nfinished\n"
    assert "peak_allocated_bytes" in run("cache", "export", "estimates", "-f", "csv").out
    assert run("sql", "delete from models").code == 2
    assert run("cache", "check").code == 0
    assert run("cache", "stats", "--json").data["repos"] == 2
    assert run("cache", "prune", "--json").code == 0
    assert run("cache", "migrate", "--json").data["schema_version"]


def test_scan_from_stdin_strict_and_as_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f'{{"id": "{SMALL}"}}\nnobody/nothing\n'))
    result = run("scan", "-", "-m", "lora", "--strict")
    assert result.code == 1
    assert SMALL in result.out
    assert "repo_not_found" in result.out


def tiny_llama(folder: Path) -> int:
    """A Llama of two layers in a folder; its parameters."""
    hidden, inner, vocabulary = 64, 128, 256
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    for layer in range(2):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (hidden, hidden)
        for name in ("mlp.gate_proj", "mlp.up_proj"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (inner, hidden)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (hidden, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    header: dict[str, Any] = {}
    offset = total = 0
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + 2 * count]}
        offset += 2 * count
        total += count
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return total


def test_a_local_folder_asks_nobody_and_is_not_kept(
    run: Run, fake_hub: FakeHub, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = tiny_llama(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    result = run("./tiny", "--json", "-m", "full", "--offline")
    assert result.code == 0
    assert (result.data["source"], result.data["commit_sha"]) == ("local", None)
    assert result.data["parameters"]["total"] == total
    assert result.data["estimates"][0]["trainable_parameters"] == total
    assert result.data["settings"]["seq_len"] == 512
    assert fake_hub.log == []
    assert not db.exists()


def test_python_and_command_line_say_the_same(run: Run, fake_hub: FakeHub, db: Path) -> None:
    report = hubvram.estimate(
        SMALL, methods=["lora"], endpoint=fake_hub.url, db=db, batch_size=2, seq_len=128, peft={"r": 4}, gpus=["T4"]
    )
    data = run(SMALL, "-m", "lora", "--batch-size", "2", "--seq-len", "128", "--r", "4", "--gpu", "T4", "--json").data
    assert data["source"] == "cache"
    assert {**report.to_dict(), "source": "cache"} == data
    assert hubvram.inspect(SMALL, endpoint=fake_hub.url, db=db).to_dict()["parameters"] == data["parameters"]


def test_python_errors_and_warnings(fake_hub: FakeHub, db: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="batch_sise") as caught:
        hubvram.estimate(SMALL, endpoint=fake_hub.url, db=db, batch_sise=2)
    assert "batch_size" in str(caught.value.hint)
    with pytest.raises(SettingError, match="list of names"):
        hubvram.estimate(SMALL, methods="lora", endpoint=fake_hub.url, db=db)  # type: ignore[arg-type]
    with pytest.raises(OfflineError) as offline:
        hubvram.estimate(SMALL, endpoint=fake_hub.url, db=db, offline=True)
    assert offline.value.exit_code == 7
    assert fake_hub.log == []
    with pytest.warns(UserWarning, match="without the cache"):
        hubvram.estimate(SMALL, methods=["full"], endpoint=fake_hub.url, db=tmp_path)


def test_python_scan(fake_hub: FakeHub, db: Path) -> None:
    seen: list[str] = []
    results = hubvram.scan(
        [SMALL, "nobody/nothing"],
        methods=["full"],
        endpoint=fake_hub.url,
        db=db,
        on_result=lambda result: seen.append(result.repo_id),
    )
    assert [result.status for result in results] == ["ok", "error"]
    assert sorted(seen) == sorted([SMALL, "nobody/nothing"])
    # The name is a function still, whatever was imported meanwhile.
    assert callable(hubvram.scan)


def test_a_whole_process_sends_four_requests(fake_hub: FakeHub, db: Path) -> None:
    """Counted from outside: a library that asks something of its own is counted too."""
    done = subprocess.run(
        [sys.executable, "-m", "hubvram", MISTRAL, "-q", "-m", "lora"],
        capture_output=True,
        text=True,
        env=subprocess_environment(fake_hub, db),
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(fake_hub.log) <= 4, [request.url for request in fake_hub.log]
    assert fake_hub.weight_bytes == 0


def subprocess_environment(fake_hub: FakeHub, db: Path) -> dict[str, str]:
    return {**os.environ, "HF_ENDPOINT": fake_hub.url, "HUBVRAM_DB": str(db)}


def test_stdout_parses_while_stderr_is_full(fake_hub: FakeHub, db: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hubvram", SMALL, "nobody/nothing", "-m", "lora", "--json", "-v"],
        capture_output=True,
        text=True,
        env=subprocess_environment(fake_hub, db),
        timeout=60,
    )
    assert done.returncode == 1
    assert len(json.loads(done.stdout)) == 2
    assert "Error: nobody/nothing" in done.stderr


def test_head_closes_the_pipe_quietly(fake_hub: FakeHub, db: Path) -> None:
    repos = " ".join([SMALL] * 20)
    done = subprocess.run(
        f"{sys.executable} -m hubvram {repos} -m lora --format ndjson | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        env=subprocess_environment(fake_hub, db),
        timeout=60,
    )
    assert json.loads(done.stdout)["repo_id"] == SMALL
    assert done.stderr == ""


def test_ctrl_c_is_130_and_leaves_a_sound_cache(fake_hub: FakeHub, db: Path) -> None:
    def wait(answer: Any, _request: Any) -> Any:
        time.sleep(3)
        return answer

    fake_hub.bend(r"config\.json", wait)
    process = subprocess.Popen(
        [sys.executable, "-m", "hubvram", SMALL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=subprocess_environment(fake_hub, db),
    )
    deadline = time.monotonic() + 30
    while not fake_hub.requests(r"config\.json") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.strip() == "Error: interrupted"
    check = subprocess.run(
        [sys.executable, "-m", "hubvram", "cache", "check"],
        capture_output=True,
        text=True,
        env=subprocess_environment(fake_hub, db),
        timeout=60,
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_at_any_moment(fake_hub: FakeHub, db: Path) -> None:
    """From the first import to the last byte: no traceback, and a cache that is sound."""

    def slow(answer: Any, _request: Any) -> Any:
        time.sleep(0.1)
        return answer

    fake_hub.bend("", slow)
    # It says when Python itself is up: before that no line of hubvram can do anything.
    code = "from hubvram.__main__ import main; print('up', flush=True); main()"
    interrupted = 0
    for step in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", code, MISTRAL, "--refresh", "-m", "lora", "-q"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=subprocess_environment(fake_hub, db),
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(0.03 + 0.08 * step)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        # By a signal or by 130: a shell shows the same.
        assert process.returncode in (0, 130, -signal.SIGINT), err
        # Python may say before it what a finalizer met ("Exception ignored in"): that is not hubvram's to catch.
        assert err.strip().splitlines()[-1:] in ([], ["Error: interrupted"]), err
        assert "unexpected" not in err
        interrupted += process.returncode != 0
    assert interrupted >= 3
    check = subprocess.run(
        [sys.executable, "-m", "hubvram", "cache", "check"],
        capture_output=True,
        text=True,
        env=subprocess_environment(fake_hub, db),
    )
    assert check.returncode in (0, 2), check.stderr  # 2: no cache was made yet
