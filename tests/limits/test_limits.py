"""No repo takes more than 300 MB or 10 seconds, whatever is in it: measured on whole processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakehub import FakeHub

from hubvram.sources.loopback import Content

pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]

REPO = "HuggingFaceTB/SmolLM2-135M"
MEGABYTES = 300
SECONDS = 10
"""Of CPU: what else the machine does is not hubvram's doing."""

# The high-water mark of this process alone; getrusage's also counts the parent that forked it.
_MEASURED = """
import sys, time
from pathlib import Path
from hubvram.cli.main import run
code = run(sys.argv[1:])
peak = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024, time.process_time(), file=sys.stderr)
raise SystemExit(code)
"""


def run(hub: FakeHub, folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON, and the first line of stderr, the limits held."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *(arguments or (REPO,)), "--json", "-q"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HUBVRAM_DB": str(folder / "cache.db")},
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    *lines, figures = done.stderr.splitlines()
    megabytes, seconds = figures.split()
    assert int(megabytes) < MEGABYTES, figures
    assert float(seconds) < SECONDS, figures
    return done.returncode, json.loads(done.stdout), lines[0] if lines else ""


def plain(raw: bytes) -> Content:
    return Content(raw, len(raw))


def weights(header: bytes, data: int = 0) -> Content:
    """A safetensors file with that header."""
    return Content(len(header).to_bytes(8, "little") + header, 8 + len(header) + data)


def bytes_of(count: int) -> Content:
    """A file of that many tensors, a byte each."""
    entry = '"model.layers.%d.mlp.experts.%d.down_proj.weight":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    entries = (entry % (i // 800, i % 800, i, i + 1) for i in range(count))
    return weights(f"{{{','.join(entries)}}}".encode(), count)


def sharded(hub: FakeHub, *contents: Content, names: dict[str, str] | None = None) -> None:
    """Shards in the place of the repo's one file."""
    hub.remove(REPO, "model.safetensors")
    paths = [f"model-{i:05d}-of-{len(contents):05d}.safetensors" for i in range(1, len(contents) + 1)]
    for path, content in zip(paths, contents, strict=True):
        hub.file(REPO, path, content)
    index = {"weight_map": names or {f"t{i}": path for i, path in enumerate(paths)}}
    hub.file(REPO, "model.safetensors.index.json", plain(json.dumps(index).encode()))


def header(raw: bytes) -> Callable[[FakeHub], None]:
    return lambda hub: hub.file(REPO, "model.safetensors", weights(raw))


def length(claimed: int) -> Callable[[FakeHub], None]:
    content = Content(claimed.to_bytes(8, "little") + b"{}", 2**62)
    return lambda hub: hub.file(REPO, "model.safetensors", content)


def config(raw: bytes) -> Callable[[FakeHub], None]:
    return lambda hub: hub.file(REPO, "config.json", plain(raw))


def million(bulk: bool) -> Callable[[FakeHub], None]:
    def make(hub: FakeHub) -> None:
        hub.inner.bulk = bulk
        count = 3 if bulk else 10  # that answer is made in one piece, and refused the same
        sharded(hub, *[bytes_of(100_000)] * count)

    return make


def _index_of_a_million(hub: FakeHub) -> None:
    shard = "model-00001-of-00001.safetensors"
    hub.inner.bulk = False
    sharded(hub, bytes_of(10), names={f"m.{i}": shard for i in range(400_000)})


def _info(body: bytes) -> Callable[[FakeHub], None]:
    return lambda hub: hub.body("/api/models", body, content_type="application/json")


REFUSED: dict[str, tuple[Callable[[FakeHub], None], str]] = {
    "header of 0 bytes": (length(0), "corrupt_header"),
    "header of 2^60 bytes": (length(2**60), "corrupt_header"),
    "header of 100 MB and a byte": (length(100_000_001), "corrupt_header"),
    "header of 100 MB": (header(b'{"__metadata__":{"a":"' + b"x" * 99_999_970 + b'"}}'), "unsupported"),
    "header of lists": (header(b'{"a":[' + b"[]," * 8_000_000 + b"1]}"), "unsupported"),
    "header of numbers": (header(b'{"a":[' + b"5555," * 6_000_000 + b"1]}"), "unsupported"),
    "header a million lists deep": (header(b'{"a":' + b"[" * 1_000_000 + b"}"), "unsupported"),
    "header a thousand lists deep": (header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "corrupt_header"),
    "name of 20 MB": (
        header(b'{"' + b"a.1." * 5_000_000 + b'":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        "unsupported",
    ),
    "a million tensors": (million(bulk=False), "unsupported"),
    "300,000 tensors through the bulk endpoint": (million(bulk=True), "unsupported"),
    "index of 400,000 names": (_index_of_a_million, "unsupported"),
    "config of 50 MB": (config(b'{"a":"' + b"x" * 50_000_000 + b'"}'), "bad_config"),
    "config of lists": (config(b'{"a":[' + b"[]," * 1_500_000 + b"1]}"), "bad_config"),
    "config a thousand lists deep": (config(b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}"), "bad_config"),
    "listing of ten million objects": (
        _info(b'{"sha":"' + b"0" * 40 + b'","siblings":[' + b"{}," * 10_000_000 + b"{}]}"),
        "unsupported",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(fake_hub: FakeHub, tmp_path: Path, case: str) -> None:
    assert fake_hub.inner.repo(REPO) is not None
    make, code = REFUSED[case]
    make(fake_hub)
    status, body, line = run(fake_hub, tmp_path)
    assert (status, body["error"]["code"]) == (6, code), line
    assert line.startswith(f"Error: {REPO}")
    assert len(line) < 400
    assert len(fake_hub.log) < 30


def _large_but_right(hub: FakeHub) -> None:
    hub.file(REPO, "model.safetensors", bytes_of(190_000))


def _every_layer_another(hub: FakeHub) -> None:
    tensors, at = {}, 0
    for i in range(3_500):
        tensors[f"l.{i}.a.weight"] = {"dtype": "U8", "shape": [i + 1, 4], "data_offsets": [at, at + 4 * (i + 1)]}
        at += 4 * (i + 1)
    hub.file(REPO, "model.safetensors", weights(json.dumps(tensors).encode(), at))
    hub.file(REPO, "config.json", plain(b'{"model_type": "nobody-knows"}'))


READ: dict[str, Callable[[FakeHub], None]] = {
    "190,000 tensors": _large_but_right,
    "metadata of 31 MB": header(b'{"__metadata__":{"a":"' + b"x" * 31_000_000 + b'"}}'),
    "config of 4.9 MB": config(b'{"model_type":"llama","a":"' + b"x" * 4_900_000 + '\U0001f600"}'.encode()),
    "config 900 lists deep": config(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"),
    "3,500 layers, no two alike": _every_layer_another,
    "a billion layers": config(b'{"model_type": "llama", "num_hidden_layers": 1000000000}'),
    "a width of 10^18": config(b'{"model_type": "gpt2", "n_embd": 1000000000000000000}'),
    "2,000 layers": config(
        b'{"model_type":"llama","num_hidden_layers":2000,"hidden_size":64,"num_attention_heads":4,'
        b'"intermediate_size":64,"vocab_size":100,"max_position_embeddings":100}'
    ),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_read(fake_hub: FakeHub, tmp_path: Path, case: str) -> None:
    assert fake_hub.inner.repo(REPO) is not None
    READ[case](fake_hub)
    status, body, line = run(fake_hub, tmp_path)
    assert status == 0, line
    assert len(body["estimates"]) > 30


def test_a_compressed_answer_that_swells(fake_hub: FakeHub, tmp_path: Path) -> None:
    """A thousand to one: the limit holds for what comes out."""
    import gzip

    bomb = gzip.compress(b'{"a":"' + b" " * 400_000_000 + b'"}', 9)

    def swell(answer: Any, _request: Any) -> Any:
        from hubvram.sources.loopback import Answer

        fields = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return Answer(200, fields, Content(bomb, len(bomb)))

    fake_hub.bend("/api/models", swell)
    status, body, line = run(fake_hub, tmp_path)
    assert (status, body["error"]["code"]) == (5, "network"), line
