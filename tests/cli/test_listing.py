"""`scan` without a file: the Hub's listing, its filters and its pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from hubvram.cli.commands.scan import SORTS as FLAGS
from hubvram.client import Client
from hubvram.errors import NetworkError, OfflineError
from hubvram.sources.listing import SORTS
from hubvram.sources.loopback import Answer, Content, as_json

if TYPE_CHECKING:
    from fakehub import FakeHub

pytestmark = pytest.mark.hub


def query(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query)


def paged(pages: dict[str, list[str]], host: str) -> Callable[[Answer, Any], Answer]:
    """The listing cut into pages, each with a link to the next as the Hub writes it."""
    names = list(pages)

    def how(_answer: Answer, request: Any) -> Answer:
        cursor = dict(query(request.url)).get("cursor", names[0])
        following = names[names.index(cursor) + 1 :]
        link = {"Link": f'<{host}/api/models?limit=2&cursor={following[0]}>; rel="next"'} if following else {}
        return as_json([{"id": name, "sha": "0" * 40} for name in pages[cursor]], headers=link)

    return how


def test_flags_are_the_api_s_orders() -> None:
    assert tuple(SORTS) == FLAGS


def test_filters_reach_the_hub(fake_hub: FakeHub) -> None:
    with Client(endpoint=fake_hub.url) as client:
        found = list(client.listing(author="mistralai", search="v0.1", filters=["a", "b"], sort="likes", limit=7))
    assert found == []
    (request,) = fake_hub.log
    assert query(request.url) == [
        ("expand", "sha"),
        ("author", "mistralai"),
        ("search", "v0.1"),
        ("filter", "a"),
        ("filter", "b"),
        ("sort", "likes"),
        ("direction", "-1"),
        ("limit", "7"),
    ]


def test_author_and_limit(fake_hub: FakeHub) -> None:
    with Client(endpoint=fake_hub.url) as client:
        everything = list(client.listing(author="mistralai"))
        assert set(everything) == {"mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.3"}
        assert list(client.listing(author="mistralai", limit=1)) == everything[:1]


def test_pages_are_followed_on_the_endpoint_asked(fake_hub: FakeHub) -> None:
    pages = {"one": ["o/a", "o/b"], "two": ["o/c", "o/d"], "three": ["o/e"]}
    # The links of a mirror name the Hub; following them would leave the mirror.
    fake_hub.bend(r"/api/models\?", paged(pages, "https://huggingface.co"))
    with Client(endpoint=fake_hub.url) as client:
        assert list(client.listing(author="o")) == ["o/a", "o/b", "o/c", "o/d", "o/e"]
        assert len(fake_hub.log) == 3
        assert list(client.listing(author="o", limit=3)) == ["o/a", "o/b", "o/c"]
        assert len(fake_hub.log) == 5


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[1]", b'[{"name": "x"}]', b"["])
def test_what_is_no_listing(fake_hub: FakeHub, body: bytes) -> None:
    fake_hub.body(r"/api/models\?", body)
    with Client(endpoint=fake_hub.url) as client, pytest.raises(NetworkError, match="the Hub's listing"):
        list(client.listing(author="o"))


def test_offline(fake_hub: FakeHub) -> None:
    with Client(endpoint=fake_hub.url, offline=True) as client, pytest.raises(OfflineError, match="the Hub's listing"):
        list(client.listing(author="o"))
    assert fake_hub.log == []


def test_scan_takes_a_list_or_a_listing(run: Any, fake_hub: FakeHub) -> None:
    for arguments in (("scan",), ("scan", "-", "--author", "mistralai")):
        result = run(*arguments)
        assert result.code == 2
        assert "either a FILE" in result.err[0]
    assert fake_hub.log == []


def test_scan_of_a_listing(run: Any) -> None:
    result = run("scan", "--author", "mistralai", "--limit", "1", "-m", "full", "-f", "ndjson")
    assert result.code == 0
    assert [json.loads(line)["status"] for line in result.out.splitlines()] == ["ok"]


def test_a_link_without_query_ends_the_listing(fake_hub: FakeHub) -> None:
    def how(_answer: Answer, _request: Any) -> Answer:
        body = b'[{"id": "o/a"}]'
        return Answer(200, {"Link": '</api/models>; rel="next"'}, Content(body, len(body)))

    fake_hub.bend(r"/api/models\?", how)
    with Client(endpoint=fake_hub.url) as client:
        assert list(client.listing(author="o")) == ["o/a"]
