"""The Hub's listing of models: ids by author, name or tag, in an order, page by page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from hubvram.errors import NetworkError
from hubvram.sources.transport import Transport

SORTS = {
    "downloads": "downloads",
    "likes": "likes",
    "trending_score": "trendingScore",
    "created_at": "createdAt",
    "last_modified": "lastModified",
}
"""Orders by huggingface_hub's name -> by the API's; always the largest or newest first."""

NAME = "the Hub's listing"
"""What messages call it, where they would name a repo."""

_PAGE = 1000
"""The most that the API gives at once."""
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_MAX_PAGE_BYTES = 50_000_000


def list_models(
    transport: Transport,
    *,
    author: str | None = None,
    search: str | None = None,
    filters: Sequence[str] = (),
    sort: str | None = None,
    limit: int | None = None,
) -> Iterator[str]:
    """Ids of models, in the Hub's order; a page of up to 1,000 is one request, asked for when it is needed.

    Args:
        transport: of the Hub.
        author: user or organisation.
        search: part of the name.
        filters: tags that a model must all have (``safetensors``, ``text-generation``, ``llama``...).
        sort: a key of :data:`SORTS`.
        limit: at most so many; None = all there are.

    Raises:
        HubvramError: as the transport maps the Hub's answer; NetworkError if it is no listing.
    """
    query: list[tuple[str, str]] = [("expand", "sha")]
    query += [(name, value) for name, value in (("author", author), ("search", search)) if value]
    query += [("filter", tag) for tag in filters]
    if sort:
        query += [("sort", SORTS[sort]), ("direction", "-1")]
    query.append(("limit", str(min(limit or _PAGE, _PAGE))))
    page: list[tuple[str, str]] | None = query
    left = limit
    while page is not None and left != 0:
        body, headers = transport.get_bytes("/api/models", page, repo_id=NAME, limit=_MAX_PAGE_BYTES)
        for repo_id in _ids(body, transport.endpoint):
            if left == 0:
                return
            yield repo_id
            left = None if left is None else left - 1
        page = _next_page(headers.get("link", ""))


def _ids(body: bytes, endpoint: str) -> list[str]:
    try:
        items: Any = json.loads(body)
        if not isinstance(items, list):
            raise TypeError(type(items).__name__)
        return [str(item["id"]) for item in items]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise NetworkError(
            f"{NAME}: {endpoint} does not answer as a Hub",
            hint="a proxy or login page may be in between, or HF_ENDPOINT / --endpoint is not a Hub",
        ) from None


def _next_page(link: str) -> list[tuple[str, str]] | None:
    """Query of the next page. The host that the link names is not followed: a mirror's links name the Hub itself."""
    match = _NEXT.search(link)
    return parse_qsl(urlsplit(match[1]).query) or None if match else None
