"""Nothing from a repo runs; what one Hub says is never taken for another's; what is kept is its owner's alone."""

from __future__ import annotations

import ast
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fakehub import FakeHub, mounted_on_loopback

import hubvram
from hubvram.cli.main import run as cli
from hubvram.sources.loopback import Content, LoopbackHub

pytestmark = pytest.mark.hub

REPO = "HuggingFaceTB/SmolLM2-135M"
PACKAGE = Path(hubvram.__file__).parent

# Calls and modules by which a file's content could become a program's.
_CALLS = {"eval", "exec", "compile", "__import__"}
_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch", "transformers", "runpy"}
_METHODS = {"os.system", "os.popen", "os.execv", "subprocess.run", "subprocess.Popen", "yaml.load"}


def test_no_line_of_the_package_could_run_a_file() -> None:
    seen = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & _MODULES
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = {(node.module or "").partition(".")[0]} & _MODULES
            elif isinstance(node, ast.Call):
                names = {ast.unparse(node.func)} & (_CALLS | _METHODS)
                seen += 1
            elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                names = {"trust_remote_code"}
            assert not names, f"{path.relative_to(PACKAGE)}:{node.lineno}"
    assert seen > 1_000


_WATCHED = """
import sys
from pathlib import Path

def hook(event, arguments):
    if event in ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn"):
        Path(sys.argv[1]).write_text(event)
    if event == "import" and "evil" in arguments[0]:
        Path(sys.argv[1]).write_text("import " + arguments[0])

from hubvram.cli.main import run
sys.addaudithook(hook)
raise SystemExit(run(sys.argv[2:]))
"""


def _evil_pickle(mark: Path) -> bytes:
    """A pickle that makes a file when it is unpickled: ``exec`` called on a line of code."""
    code = f"open({str(mark)!r}, 'w').close()".encode()
    return b"\x80\x02cbuiltins\nexec\nX" + len(code).to_bytes(4, "little") + code + b"\x85R."


@pytest.mark.parametrize("kind", ["pickle", "custom code"])
def test_nothing_of_a_repo_is_run(fake_hub: FakeHub, tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "ran"
    assert fake_hub.inner.repo(REPO) is not None
    code = f"open({str(mark)!r}, 'w')".encode()
    for name in ("modeling_evil.py", "configuration_evil.py", "__init__.py", "setup.py"):
        fake_hub.file(REPO, name, Content(code, len(code)))
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "configuration_evil.C", "AutoModel": "modeling_evil.M"}}
    raw = json.dumps(config).encode()
    fake_hub.file(REPO, "config.json", Content(raw, len(raw)))
    if kind == "pickle":
        fake_hub.remove(REPO, "model.safetensors")
        evil = _evil_pickle(mark)
        fake_hub.file(REPO, "pytorch_model.bin", Content(evil, len(evil)))
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(tmp_path / "seen"), REPO, "-m", "lora", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_ENDPOINT": fake_hub.url, "HUBVRAM_DB": str(tmp_path / "cache.db")},
        timeout=60,
        check=False,
    )
    assert done.returncode == (6 if kind == "pickle" else 0), done.stderr
    assert not mark.exists()
    assert not (tmp_path / "seen").exists(), (tmp_path / "seen").read_text()
    assert fake_hub.requests(r"\.py") == []


def test_two_hubs_with_a_repo_of_one_name(
    fake_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same id, the same commit, the same hashes claimed for other contents: each Hub's word counts for itself."""
    monkeypatch.setenv("HUBVRAM_DB", str(tmp_path / "cache.db"))
    other = FakeHub(LoopbackHub(fake_hub.inner.folder))
    entry = {"w": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}
    header = json.dumps(entry).encode()
    repo = other.inner.repo(REPO)
    assert repo is not None
    true = repo.revisions["main"].files["model.safetensors"]
    header += b" " * 8
    lie = Content(len(header).to_bytes(8, "little") + header, 28 + len(header))
    other.file(REPO, "model.safetensors", lie)

    def claim(answer, _request):
        content = json.loads(answer.body.head)
        for item in content.get("siblings", []):
            if item["rfilename"] == "model.safetensors":
                item["blobId"], item["lfs"]["sha256"] = true.etag[:40], true.etag
        raw = json.dumps(content).encode()
        return answer._replace(body=Content(raw, len(raw)), start=0, stop=None)

    other.bend("/api/models", claim)
    totals = {}
    with mounted_on_loopback(other):
        for first, second in ((other, fake_hub), (fake_hub, other)):
            for hub in (first, second):
                for extra in ((), ("--offline",), ("--refresh",)):
                    assert cli(["inspect", REPO, "--json", "--endpoint", hub.url, *extra]) == 0
                    body = json.loads(capsys.readouterr().out)
                    assert body["endpoint"] == hub.url
                    totals.setdefault(hub.url, set()).add(body["parameters"]["total"])
                    assert cli([REPO, "-m", "full", "--json", "--endpoint", hub.url, *extra]) == 0
                    body = json.loads(capsys.readouterr().out)
                    totals[hub.url].add(body["parameters"]["total"])
    assert totals == {other.url: {5}, fake_hub.url: {134_515_008}}
    assert cli(["sql", "select endpoint, parameters from models", "--format", "ndjson"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["endpoint"]: row["parameters"] for row in rows} == {other.url: 5, fake_hub.url: 134_515_008}
    assert cli(["cache", "check"]) == 0


def test_the_cache_s_key_has_the_endpoint_everywhere() -> None:
    """Each table that is looked up by a repo's name has the endpoint in the same key."""
    from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint

    from hubvram.store import schema

    named = [t for t in schema.metadata.tables.values() if "repo_id" in t.c]
    assert len(named) >= 3
    for table in named:
        keys = [
            {c.name for c in constraint.columns}
            for constraint in table.constraints
            if isinstance(constraint, (PrimaryKeyConstraint, UniqueConstraint))
        ]
        for key in keys:
            assert "repo_id" not in key or "endpoint" in key, table.name


@pytest.mark.skipif(sys.platform == "win32", reason="permissions")
@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_what_is_kept_is_its_owners_alone(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    old = os.umask(umask)
    try:
        done = cli(
            ["meta-llama/Llama-3.2-1B", "-m", "lora", "-q", "--endpoint", fake_hub.url, "--token", "hf_granted_token"]
        )
    finally:
        os.umask(old)
    assert done == 0
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert kept
    assert {stat.S_IMODE(p.stat().st_mode) for p in kept} == {0o600}


def test_the_pickle_of_these_tests_does_run_where_it_is_let(tmp_path: Path) -> None:
    import pickle

    pickle.loads(_evil_pickle(tmp_path / "ran"))
    assert (tmp_path / "ran").exists()
