"""Names that strangers chose: escape codes, markup and SQL in them reach no terminal, no page and no database."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from pathlib import Path

import pytest
from fakehub import FakeHub

from hubvram.cli.main import COMMANDS
from hubvram.cli.main import run as cli
from hubvram.report.formats import NAMES
from hubvram.sources.loopback import Content

pytestmark = [pytest.mark.hub, pytest.mark.hostile]

REPO = "HuggingFaceTB/SmolLM2-135M"
EVIL = {
    "terminal": "\x1b]0;owned\x07\x1b[31mred\x1b[2J\x9b1A",
    "direction": "a\u202egpj.sj\u2066b\u200f",
    "lines": "a\r\nError: not true\x0b\x0c\x85\u2028b",
    "markup": "<script>alert(1)</script>|[x](javascript:1)`*_&lt;",
    "sql": "x'); drop table _models; --\"; select 1",
    "emoji": "\U0001f600 in a pair of escapes",
    "nul": "a\x00b",
    "formula": '=HYPERLINK("http://127.0.0.1","x")',
}
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def poison(hub: FakeHub, name: str) -> None:
    """The name wherever a repo's author may put one."""
    tensors = {
        f"model.layers.0.{name}.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        name: {"dtype": name, "shape": [2], "data_offsets": [8, 16]},
        "__metadata__": {name: name},
    }
    header = json.dumps(tensors).encode()
    hub.inner.repo(REPO)
    hub.file(REPO, "model.safetensors", Content(len(header).to_bytes(8, "little") + header, 8 + len(header) + 16))
    config = json.dumps({"model_type": name, "architectures": [name], "torch_dtype": name, name: name}).encode()
    hub.file(REPO, "config.json", Content(config, len(config)))
    found = hub.inner.repo(REPO)
    assert found is not None
    found.meta |= {"tags": [name], "library_name": name, "pipeline_tag": name, "cardData": {"license": name}}


@pytest.fixture
def _at_this_hub(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", fake_hub.url)
    monkeypatch.setenv("HUBVRAM_DB", str(tmp_path / "cache.db"))


@pytest.mark.usefixtures("_at_this_hub")
@pytest.mark.parametrize("kind", EVIL)
def test_every_command_in_every_format(
    fake_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    poison(fake_hub, EVIL[kind])
    commands = [
        ["inspect", REPO],
        ["estimate", REPO, "-m", "lora", "--explain"],
        ["sql", "select * from models"],
        ["sql", "select * from tensors"],
        ["sql", "select * from estimates"],
    ]
    assert {command[0] for command in commands} <= set(COMMANDS)
    for command in commands:
        for form in NAMES:
            code = cli([*command, "--format", form])
            out, err = capsys.readouterr()
            assert code == 0, err
            assert not _CONTROL.search(out.replace("\r\n", "\n")), (command, form)
            assert not _CONTROL.search(err), (command, form)
            assert all(line.startswith(("Warning: ", "Hint: ")) for line in err.splitlines()), err
            if form == "json":
                json.loads(out)
            elif form == "ndjson":
                assert all(json.loads(line) is not None for line in out.splitlines())
            elif form in ("csv", "tsv"):
                rows = list(csv.reader(io.StringIO(out), delimiter="," if form == "csv" else "\t"))
                assert len({len(row) for row in rows}) == 1, (command, form)
            elif form == "markdown":
                assert not re.search(r"(?<!\\)<script", out)  # a backslash makes it text
                cells = [len(re.findall(r"(?<!\\)\|", line)) for line in out.splitlines() if line.startswith("|")]
                assert command[0] != "sql" or len(set(cells)) == 1
    assert cli(["cache", "check"]) == 0
    connection = sqlite3.connect(tmp_path / "cache.db")
    assert connection.execute("select count(*) from models").fetchone() == (1,)
    connection.close()


@pytest.mark.usefixtures("_at_this_hub")
@pytest.mark.parametrize("kind", EVIL)
def test_the_name_asked_for_is_the_evil_one(fake_hub: FakeHub, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    for name in (EVIL[kind], f"org/{EVIL[kind]}", f"{REPO}@{EVIL[kind]}"):
        code = cli([name, "-m", "lora"])
        out, err = capsys.readouterr()
        assert code in (2, 3), (name, err)
        assert out == ""
        assert len(err.splitlines()) <= 2
        assert not _CONTROL.search(err)
    assert all(_CONTROL.search(request.url) is None for request in fake_hub.log)


@pytest.mark.usefixtures("_at_this_hub")
def test_a_rename_to_an_evil_name_is_not_believed(fake_hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    def renamed(answer, _request):
        content = json.loads(answer.body.head)
        raw = json.dumps(content | {"id": "../../etc/passwd"}).encode()
        return answer._replace(body=Content(raw, len(raw)), start=0, stop=None)

    fake_hub.bend("/api/models", renamed)
    assert cli([REPO, "-m", "lora", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repo_id"] == REPO
    assert all(".." not in request.url for request in fake_hub.log)


@pytest.mark.usefixtures("_at_this_hub")
def test_half_a_surrogate_pair(fake_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = "\ud800x"
    good = fake_hub.inner.repo(REPO)
    assert good is not None
    config = json.dumps({"model_type": half, half: [half]}).encode()
    fake_hub.file(REPO, "config.json", Content(config, len(config)))
    good.meta |= {"tags": [half]}
    assert cli(["inspect", REPO, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_type"] == "?x"
    assert cli(["cache", "check"]) == 0
    assert cli(["sql", "select model_type from models", "--format", "tsv"]) == 0
    assert capsys.readouterr().out.endswith("?x\n")
    header = json.dumps({half: {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode()
    fake_hub.file(REPO, "model.safetensors", Content(len(header).to_bytes(8, "little") + header, 12 + len(header)))
    assert cli([REPO, "--db", str(tmp_path / "other.db")]) == 6
    assert "surrogate" in capsys.readouterr().err
