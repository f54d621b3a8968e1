"""Refusals: each becomes one error with code, exit code, one line and a hint, and never the token."""

from __future__ import annotations

import json

import pytest
from fakehub import GRANTED, FakeHub
from helpers import fetch

from hubvram.errors import (
    AccessError,
    BadConfigError,
    CorruptHeaderError,
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HubvramError,
    NetworkError,
    RateLimitError,
    RepoNotFoundError,
    RevisionNotFoundError,
)
from hubvram.sources.loopback import Content

pytestmark = pytest.mark.hub

GATED = "meta-llama/Llama-3.2-1B"
SMALL = "HuggingFaceTB/SmolLM2-135M"
BIG = "mistralai/Mistral-7B-v0.1"


def refused(hub: FakeHub, kind: type[HubvramError], repo: str = SMALL, **options) -> HubvramError:
    with pytest.raises(HubvramError) as caught:
        fetch(hub, repo, **options)
    error = caught.value
    assert type(error) is kind
    assert error.message.isprintable()
    assert error.hint
    assert error.hint.isprintable()
    assert error.__cause__ is None
    for secret in (GRANTED, "hf_other_token"):
        assert secret not in f"{error.message} {error.hint} {error.args}"
    return error


@pytest.mark.parametrize("token", [False, "hf_other_token"])
def test_unknown_repo(hub: FakeHub, token: str | bool) -> None:
    error = refused(hub, RepoNotFoundError, "nobody/nothing", token=token)
    assert error.exit_code == 3
    assert "nobody/nothing" in error.message
    assert ("hf auth login" in error.hint) == (token is False)


def test_unknown_revision(hub: FakeHub) -> None:
    error = refused(hub, RevisionNotFoundError, SMALL, revision="v9")
    assert error.exit_code == 3
    assert SMALL in error.message
    assert "v9" in error.message


def test_gated_without_a_token(hub: FakeHub) -> None:
    error = refused(hub, GatedRepoError, GATED, token=False)
    assert error.exit_code == 4
    assert "hf auth login" in error.hint
    assert f"{hub.url}/{GATED}" in error.hint


def test_gated_with_a_token_that_has_no_access(hub: FakeHub) -> None:
    error = refused(hub, GatedRepoError, GATED, token="hf_other_token")
    assert "granted" in error.message
    assert "hf auth login" in error.hint
    assert f"{hub.url}/{GATED}" in error.hint


def test_gated_with_access(hub: FakeHub) -> None:
    assert fetch(hub, GATED).metadata["gated"]


def test_private_is_like_unknown(hub: FakeHub) -> None:
    found = hub.inner.repo(SMALL)
    assert found is not None
    found.meta["private"] = True
    refused(hub, RepoNotFoundError, token=False)
    assert fetch(hub, SMALL).metadata["private"] is True


def test_disabled(hub: FakeHub) -> None:
    hub.fault("/resolve/", 403, message="Access to this resource is disabled.")
    assert refused(hub, DisabledRepoError).exit_code == 4


def test_forbidden_for_another_reason(hub: FakeHub) -> None:
    hub.fault("/api/models", 403, message=f"Token {GRANTED} lacks  the scope")
    error = refused(hub, AccessError)
    assert "Token *** lacks the scope" in error.message


def test_a_refused_token(hub: FakeHub) -> None:
    hub.fault("/api/models", 401, message="Invalid credentials in Authorization header")
    assert "hf auth login" in (refused(hub, AccessError).hint or "")


def test_a_file_that_is_listed_but_gone(hub: FakeHub) -> None:
    hub.fault(r"config\.json", 404, code="EntryNotFound")
    assert "config.json" in refused(hub, EntryNotFoundError).message


@pytest.mark.parametrize("fields", [{"RateLimit": '"api";r=0;t=300'}, {"Retry-After": "300"}])
def test_a_rate_limit_that_asks_too_long(hub: FakeHub, fields: dict[str, str]) -> None:
    hub.fault("/api/models", 429, headers=fields)
    error = refused(hub, RateLimitError)
    assert error.exit_code == 5
    assert "300 s" in error.message
    assert len(hub.log) == 1


def test_a_server_error_that_stays(hub: FakeHub) -> None:
    hub.fault("/api/models", 503)
    error = refused(hub, NetworkError)
    assert error.exit_code == 5
    assert "503" in error.message
    assert len(hub.log) == 3, "as many tries as the policy says"


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><html>sign in</html>", b"not json", b"[]", b"{}", b"[" * 100_000])
def test_an_endpoint_that_is_no_hub(hub: FakeHub, body: bytes) -> None:
    hub.body("/api/models", body)
    error = refused(hub, NetworkError)
    assert hub.url in error.message


def test_no_such_host() -> None:
    error = refused(FakeHub(inner=None, url="http://no-such-host.invalid"), NetworkError)  # type: ignore[arg-type]
    assert "no-such-host.invalid" in error.message


def test_nobody_listens() -> None:
    error = refused(FakeHub(inner=None, url="http://127.0.0.1:9"), NetworkError)  # type: ignore[arg-type]
    assert "127.0.0.1:9" in error.message


def test_the_conversion_pull_request_of_the_bot(hub: FakeHub) -> None:
    snapshot = fetch(hub, "EleutherAI/gpt-j-6b", allow_conversion_pr=True)
    assert sum(t.numel for t in snapshot.tensors) == 6_050_882_784
    assert snapshot.metadata["conversion_pr"] == "refs/pr/19"
    assert any("refs/pr/19" in w for w in snapshot.warnings)
    assert snapshot.commit_sha
    assert all(snapshot.commit_sha in r.path for r in hub.requests("/resolve/"))
    assert not hub.requests(r"pr%2F2[01]"), "closed ones and strangers' are not looked at"


def test_no_conversion_on_offer(hub: FakeHub) -> None:
    found = hub.inner.repo("EleutherAI/gpt-j-6b")
    assert found is not None
    for pull in found.meta["pull_requests"]:
        pull["author"] = "somebody"
    snapshot = fetch(hub, "EleutherAI/gpt-j-6b", allow_conversion_pr=True)
    assert sum(t.numel for t in snapshot.tensors) == 6_050_882_784, "the pickle is read instead"
    assert any("no open conversion pull request by SFconvertbot" in w for w in snapshot.warnings)


def test_config_that_is_no_json(hub: FakeHub) -> None:
    hub.body(r"config\.json", b"{'a': 1}")
    error = refused(hub, BadConfigError)
    assert error.exit_code == 6
    assert "config.json" in error.message


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"", "fewer than the 8"),
        (b"\0" * 8, "0 bytes long"),
        ((2**60).to_bytes(8, "little"), "more than"),
        ((100_000_001).to_bytes(8, "little"), "more than"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x10\0\0\0\0\0\0\0" + b"\xff" * 16, "begin with"),
        (b'\x10\0\0\0\0\0\0\0{"\xff\xfe": 1        ', "UTF-8"),
    ],
)
def test_a_corrupt_header_names_the_file(hub: FakeHub, head: bytes, word: str) -> None:
    hub.file(SMALL, "model.safetensors", Content(head, max(len(head), 300 if head else 0)))
    error = refused(hub, CorruptHeaderError)
    assert error.exit_code == 6
    assert SMALL in error.message
    assert "model.safetensors" in error.message
    assert word in error.message


def test_a_header_of_25_mb(hub: FakeHub) -> None:
    entry = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    raw = entry + b" " * (25_000_000 - len(entry) - 1) + b"}"
    hub.file(SMALL, "model.safetensors", Content(len(raw).to_bytes(8, "little") + raw, 8 + len(raw) + 8))
    assert len(fetch(hub, SMALL).tensors) == 1


@pytest.mark.parametrize(
    "shard", ["../../etc/passwd", "/etc/x.safetensors", "https://evil/x.safetensors", "a/../b.safetensors"]
)
def test_path_tricks_in_the_index(hub: FakeHub, shard: str) -> None:
    index = json.dumps({"weight_map": {"w": shard}}).encode()
    hub.file(BIG, "model.safetensors.index.json", Content(index, len(index)))
    hub.remove(BIG, "model-00001-of-00002.safetensors")
    hub.inner.bulk = False
    refused(hub, CorruptHeaderError, BIG)
    assert not hub.requests("passwd|evil|/b.safetensors")
