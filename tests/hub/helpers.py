"""Shorthands of the Hub tests."""

from __future__ import annotations

from typing import Any

from fakehub import GRANTED, FakeHub

from hubvram.snapshot.records import Snapshot
from hubvram.sources.hub import HubSource
from hubvram.sources.refs import parse_ref
from hubvram.sources.transport import RetryPolicy

QUICK = RetryPolicy(attempts=3, base=0.001, cap=0.002, max_wait=0.5)
"""As stubborn as the real one, without its patience."""


def source(hub: FakeHub, **options: Any) -> HubSource:
    options = {"token": GRANTED, "policy": QUICK, "timeout": 5.0, **options}
    return HubSource(hub.url, **options)


def fetch(hub: FakeHub, repo: str, *, revision: str | None = None, **options: Any) -> Snapshot:
    opened = source(hub, **options)
    try:
        ref = parse_ref(repo, revision=revision, endpoint=hub.url)
        return opened.snapshot(ref, opened.resolve(ref))
    finally:
        opened.close()
