"""Runs with faults thrown in at random (seeded): the right answer or the right error, and never the weights."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakehub import FakeHub
from helpers import QUICK, source

from hubvram.errors import HubvramError, NetworkError, RateLimitError
from hubvram.snapshot.counts import count_parameters
from hubvram.sources.refs import parse_ref
from hubvram.sources.transport import RetryPolicy

pytestmark = pytest.mark.hub

TOTALS = {
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "openai-community/gpt2": 137_022_720,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "huggyllama/llama-30b": 32_528_947_456,
    "openai/gpt-oss-20b": 11_956_805_184,
}
WHERE = ["/api/models", "/revision/", r"config\.json", r"\.index\.json", "safetensors-metadata", r"\.safetensors$"]


def _throw(hub: FakeHub, dice: random.Random) -> None:
    """One to three faults, some passing, some lasting."""
    for _ in range(dice.randint(1, 3)):
        where, times = dice.choice(WHERE), dice.choice([1, 1, 2, None])
        kind = dice.randrange(6)
        if kind == 0:
            hub.fault(where, dice.choice([500, 502, 503, 504]), times=times)
        elif kind == 1:
            hub.fault(
                where, 429, headers=dice.choice([{"Retry-After": "0"}, {"RateLimit": '"api";r=0;t=0'}]), times=times
            )
        elif kind == 2:
            hub.short_body(where, dice.randint(0, 3000), times=times)
        elif kind == 3:
            hub.body(where, dice.choice([b"<html>proxy</html>", b"", b"{", b"[]"]), times=times)
        elif kind == 4:
            hub.bend(where, lambda a, _r: a._replace(headers={**a.headers, "Content-Range": "bytes 5-9/10"}), times)
        else:
            hub.ignore_range(where)


@pytest.mark.parametrize("seed", range(60))
def test_a_run_with_faults(fake_hub: FakeHub, seed: int) -> None:
    dice = random.Random(seed)
    repo, total = dice.choice(sorted(TOTALS.items()))
    fake_hub.inner.bulk = dice.random() < 0.5
    _throw(fake_hub, dice)
    opened = source(fake_hub, policy=RetryPolicy(attempts=3, base=0.001, cap=0.002, max_wait=0.01))
    ref = parse_ref(repo)
    outcome: HubvramError | int
    try:
        outcome = count_parameters(opened.snapshot(ref, opened.resolve(ref))).total
    except HubvramError as error:
        outcome = error
    finally:
        opened.close()
    if isinstance(outcome, HubvramError):
        assert outcome.message.isprintable()
        assert outcome.exit_code in (5, 6)
    else:
        assert outcome == total
    # Headers, and what a socket holds when the client hangs up on a server that ignores ranges.
    assert fake_hub.weight_bytes < 100e6


def test_many_threads_share_a_source_and_a_rate_limit(fake_hub: FakeHub) -> None:
    told: list[str] = []
    opened = source(fake_hub, policy=RetryPolicy(attempts=3, base=0.001, max_wait=3), on_wait=told.append)
    fake_hub.fault(r"\.safetensors|config", 429, headers={"Retry-After": "1"}, times=1)

    def total(repo: str) -> int:
        ref = parse_ref(repo)
        return count_parameters(opened.snapshot(ref, opened.resolve(ref))).total

    repos = sorted(TOTALS) * 4
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(total, repos)) == [TOTALS[r] for r in repos]
    opened.close()
    assert len([r for r in fake_hub.log if r.status == 429]) == 1
    assert len(told) == 1


def test_a_rate_limit_that_stays_ends_all_threads(fake_hub: FakeHub) -> None:
    opened = source(fake_hub, policy=QUICK)
    fake_hub.fault("/resolve/", 429, headers={"Retry-After": "900"})

    def outcome(repo: str) -> type[BaseException] | None:
        ref = parse_ref(repo)
        try:
            opened.snapshot(ref, opened.resolve(ref))
        except NetworkError as error:
            return type(error)
        return None

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(outcome, sorted(TOTALS))) == {RateLimitError}
    opened.close()
