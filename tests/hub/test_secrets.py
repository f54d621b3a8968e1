"""The token: never printed, logged, kept or sent to another host, whatever the server does and is logged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakehub import GRANTED, FakeHub, mounted_on_loopback

from hubvram.cli.output import hide_secrets
from hubvram.errors import AccessError
from hubvram.sources.loopback import Answer, Content, LoopbackHub
from hubvram.sources.transport import Transport

pytestmark = pytest.mark.hub

GATED = "meta-llama/Llama-3.2-1B"


def run(hub: FakeHub, folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """The command in a process of its own, as loud as it gets; exit code and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "hubvram", GATED, "-m", "lora", "-vv", *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HUBVRAM_DB": str(folder / "cache.db"),
            "HUBVRAM_DEBUG": "1",
            "HF_DEBUG": "1",
            **environment,
        },
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def kept(folder: Path) -> bytes:
    """All bytes of all files that the command left behind."""
    return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def _echo(answer: Answer, request) -> Answer:
    """What a careless proxy does: the request's secret in header and body of the refusal."""
    secret = request.headers.get("authorization", "")
    body = f'{{"error": "cannot use {secret}"}}'.encode()
    fields = {"Content-Type": "application/json", "X-Error-Message": f"cannot use {secret}", "X-Seen": secret}
    return Answer(403, fields, Content(body, len(body)))


@pytest.mark.parametrize(
    ("way", "mood"),
    [
        ("environment", "fine"),
        ("environment", "torn"),
        ("option", "echo"),
        ("file", "echo"),
        ("file", "error"),
        ("file", "redirect"),
    ],
)
def test_the_token_is_nowhere(fake_hub: FakeHub, tmp_path: Path, way: str, mood: str) -> None:
    if mood == "echo":
        fake_hub.bend(r"config\.json", _echo)
    elif mood == "error":
        fake_hub.fault(r"config\.json", 401, code="", message="who are you")
    elif mood == "torn":
        fake_hub.short_body("/api/models", 10)
    other = FakeHub(LoopbackHub(fake_hub.inner.folder, granted=frozenset({""})))
    environment: dict[str, str] = {}
    arguments: tuple[str, ...] = ()
    if way == "environment":
        environment["HF_TOKEN"] = GRANTED
    elif way == "option":
        arguments = ("--token", GRANTED)
    else:
        place = tmp_path / "login" / "token"
        place.parent.mkdir()
        place.write_text(GRANTED)
        environment["HF_TOKEN_PATH"] = str(place)
    (tmp_path / "cache").mkdir()
    with mounted_on_loopback(other):
        if mood == "redirect":
            fake_hub.cdn = other.url
        code, printed = run(fake_hub, tmp_path / "cache", *arguments, **environment)
    assert code == {"fine": 0, "redirect": 0, "echo": 4, "error": 4, "torn": 5}[mood], printed
    assert GRANTED not in printed
    assert GRANTED.encode() not in kept(tmp_path / "cache")
    assert fake_hub.log[0].headers["authorization"] == f"Bearer {GRANTED}"
    assert all("authorization" not in request.headers for request in other.log)
    assert bool(other.log) == (mood == "redirect")


@pytest.mark.parametrize("token", ["hf_se\u00e9cret", "hf_se\x01cret", "hf se cret", "hf_secret\nHost: evil"])
def test_a_token_that_no_header_can_hold_is_not_sent(fake_hub: FakeHub, tmp_path: Path, token: str) -> None:
    with pytest.raises(AccessError) as caught:
        Transport(fake_hub.url, token=token)
    assert "cret" not in f"{caught.value.message}{caught.value.hint}"


def test_such_a_token_on_the_command_line(fake_hub: FakeHub, tmp_path: Path) -> None:
    code, printed = run(fake_hub, tmp_path, "--token", "hf_se\u00e9cret")
    assert code == 4
    assert "cret" not in printed.replace("hide_secrets", "")
    assert fake_hub.log == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer " + "a1" * 15, "Authorization: Bearer ***"),
        ("hf_" + "Ab3" * 11 + "x is no good", "hf_*** is no good"),
        ("org/hf_model-7b and hf_hub/2.4.0", "org/hf_model-7b and hf_hub/2.4.0"),
        ("the bearer of news", "the bearer of news"),
    ],
)
def test_what_looks_like_a_token_is_hidden(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown


@pytest.mark.parametrize(
    ("target", "goes_along"),
    [
        ("http://127.0.0.1:{port}/api/models/{repo}", True),
        ("http://localhost:{port}/api/models/{repo}", False),
        ("//localhost:{port}/api/models/{repo}", False),
        ("/api/models/{repo}", True),
    ],
)
def test_only_the_same_origin_gets_the_token(fake_hub: FakeHub, target: str, goes_along: bool) -> None:
    from helpers import source

    from hubvram.sources.refs import parse_ref

    port = fake_hub.url.rpartition(":")[2]
    location = target.format(port=port, repo="openai-community/gpt2")
    fake_hub.bend("/api/models/old/name", lambda _a, _r: Answer(307, {"Location": location}, Content(b"", 0)))
    opened = source(fake_hub)
    opened.resolve(parse_ref("old/name"))
    opened.close()
    assert [("authorization" in r.headers) for r in fake_hub.log] == [True, goes_along]
