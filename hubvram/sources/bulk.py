"""The Hub's bulk endpoint: the headers of all shards in one answer, as far as it can be trusted.

The endpoint knows no revision, so its answer counts only if every shard's size
agrees with the listing, and (the caller sees to that) the head of main is still
the commit of the listing.
"""

from __future__ import annotations

from hubvram.snapshot.header import Header, check_header, parse_json
from hubvram.snapshot.layout import Component, stated_size, total_size_warning
from hubvram.snapshot.limits import Budget
from hubvram.sources import chunks
from hubvram.sources.records import RepoInfo


def check_bulk(body: bytes, info: RepoInfo, component: Component) -> tuple[dict[str, Header], list[str]] | None:
    """The headers in an answer and notes, or None where it does not fit the listing.

    Raises:
        CorruptHeaderError: if it is no JSON, or a header breaks the format's promises.
        UnsupportedError: if it is far more than any model's headers.
    """
    path = component.index or ""
    content = parse_json(body, path, repo_id=info.repo_id)
    if not isinstance(content, dict) or not isinstance(content.get("headers"), dict):
        return None
    folder = path.rpartition("/")[0]
    sizes = {f.path: f.size for f in info.files}
    headers: dict[str, Header] = {}
    budget = Budget(info.repo_id)
    for shard, header in sorted(content["headers"].items()):
        place = f"{folder}/{shard}" if folder and not shard.startswith(f"{folder}/") else shard
        if place not in sizes:
            return None
        headers[place] = check_header(header, place, file_size=sizes[place], repo_id=info.repo_id)
        if not _fits(headers[place]):
            return None
        budget.add_tensors(len(headers[place].tensors))
    if not headers or (component.family and set(component.family) != set(headers)):
        return None
    index = content.get("index")
    metadata = index.get("metadata") if isinstance(index, dict) else None
    # The answer leaves the weight_map out: total_size is what is left to compare.
    note = total_size_warning(stated_size(metadata), sum(h.data_bytes for h in headers.values()), path)
    return headers, [note] if note else []


def _fits(header: Header) -> bool:
    """Whether a length that follows from the listing can be that of this header's JSON.

    It cannot if the listing is of other contents than the header.
    """
    if header.header_bytes is None:
        return True
    longest = chunks.from_names(t.name for t in header.tensors) * 3 // 2 + 4_096
    longest += 2 * sum(len(k) + len(v) + 6 for k, v in header.metadata.items())
    shortest = sum(len(t.name) + 40 for t in header.tensors)
    return shortest <= header.header_bytes <= longest
