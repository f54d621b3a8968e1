"""Config and headers of a repo on the Hub at one commit, in as few requests as will do.

What the cache knows by content is not asked for again. Of the rest, a single
file takes one request, its length guessed from the config. A sharded model on
the head of main takes one for all shards through the Hub's bulk endpoint, and
one to make sure that the head has not moved meanwhile. Where the endpoint is
missing, each shard takes one. Pickles take two each (the zip's directory is at
the end, the pickle at the beginning), a GGUF file as many as its vocabulary.

config.json counts as a download on its author's page, with HEAD as with GET:
it is fetched once, by GET.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hubvram.errors import CorruptHeaderError, HubvramError, NetworkError, NotFoundError
from hubvram.snapshot.assemble import MAX_CONFIG_BYTES, check_config_size, parse_config
from hubvram.snapshot.header import LENGTH_BYTES, Header, header_length, parse_header
from hubvram.snapshot.layout import Component, Layout, ShardIndex, parse_index
from hubvram.snapshot.limits import MAX_READ_BYTES, Budget
from hubvram.snapshot.text import shown
from hubvram.sources import chunks
from hubvram.sources.binary import gguf_header, pickle_header
from hubvram.sources.bulk import check_bulk
from hubvram.sources.records import Contents, Known, KnownFile, RepoInfo
from hubvram.sources.transport import Transport
from hubvram.sources.workers import Workers, gather

_MAX_INDEX_BYTES = MAX_READ_BYTES
_FEW = 2
"""Missing shards that are fetched one by one rather than by two requests for all."""


@dataclass(slots=True)
class BulkState:
    """Whether the Hub has the bulk endpoint; shared by all repos of a source."""

    missing: bool = False


class RepoReader:
    """Reads one repo at one commit.

    Args:
        transport: to the Hub.
        workers: run the requests.
        info: commit and listing.
        known: the cache, or None.
        bulk: what is known of the bulk endpoint.
    """

    def __init__(
        self, transport: Transport, workers: Workers, info: RepoInfo, known: Known | None, bulk: BulkState
    ) -> None:
        self.transport = transport
        self.workers = workers
        self.info = info
        self.bulk = bulk
        self._known = known
        self._sizes = {f.path: f.size for f in info.files}
        self._hashes = {f.path: f.content_hash for f in info.files}
        self._cached: dict[str, KnownFile] = {}
        self._budget = Budget(info.repo_id)

    def read(self, layout: Layout) -> Contents:
        """Everything that the layout names.

        Raises:
            HubvramError: whatever stands in the way.
        """
        self._ask_cache(layout)
        contents = Contents()
        config = self.workers.submit(self._config, layout)
        try:
            if len(layout.components) == 1:
                parts = [self._single_component(layout, layout.components[0], config, contents)]
            else:
                parts = self._components(layout, config, contents)
        except HubvramError:
            gather([config])  # what stands in the way of the config is said first
            raise
        contents.config = config.result()
        contents.headers = {path: header for part in parts for path, header in part.items()}
        return contents

    # -- the cache ------------------------------------------------------------

    def _ask_cache(self, layout: Layout) -> None:
        """What the cache knows of the layout's files, checked against the listing's sizes."""
        paths = [layout.config, *(p for c in layout.components for p in (c.single, c.index, *c.family))]
        wanted = {p: h for p in paths if p is not None and (h := self._hashes.get(p))}
        if self._known is None or not wanted:
            return
        found = self._known(set(wanted.values()))
        for path, content_hash in wanted.items():
            entry = found.get(content_hash)
            if entry is None:
                continue
            header = entry.header
            if header is not None and header.header_bytes is not None:
                length = LENGTH_BYTES + header.header_bytes + header.data_bytes
                if self._sizes.get(path) not in (None, length):
                    continue
            self._cached[path] = entry

    def _cached_header(self, path: str) -> Header | None:
        entry = self._cached.get(path)
        return entry.header.at(path) if entry is not None and entry.header is not None else None

    # -- components -----------------------------------------------------------

    def _single_component(
        self, layout: Layout, component: Component, config: Future[Any], contents: Contents
    ) -> dict[str, Header]:
        """One set of weights: here the bulk endpoint is worth its two requests."""
        shards = component.family or self._cached_shards(component, contents)
        missing = [p for p in shards if self._cached_header(p) is None]
        if component.single is None and (not shards or len(missing) > _FEW or len(missing) == len(shards)):
            found = self._try_bulk(component, config)
            if found is not None:
                contents.notes += found[1]
                return found[0]
        return self._components(layout, config, contents)[0]

    def _components(self, layout: Layout, config: Future[Any], contents: Contents) -> list[dict[str, Header]]:
        """Every component, file by file."""
        first: dict[str, int] = {}
        order: list[Sequence[str]] = []
        reading: dict[str, Future[ShardIndex]] = {}
        shards = [c.family or self._cached_shards(c, contents) for c in layout.components]
        for component, series in zip(layout.components, shards, strict=True):
            if component.index and not self._needs_no_index(component, series):
                reading[component.index] = self.workers.submit(self._index, component.index)
        self._gather([config, *reading.values()])
        for component, series in zip(layout.components, shards, strict=True):
            if component.single:
                order.append([component.single])
                first[component.single] = _first_chunk(layout, component, config.result())
            elif component.index in reading:
                index = reading[component.index].result()
                contents.indexes[component.index] = index
                names: dict[str, list[str]] = {}
                for tensor, shard in index.weight_map.items():
                    names.setdefault(shard, []).append(tensor)
                order.append(index.shards)
                first.update({shard: chunks.from_names(names[shard]) for shard in index.shards})
            else:
                # The index would be one request more, for names that the headers hold anyway.
                size = self._sizes.get(component.index) if component.index else None
                order.append(series)
                first.update(dict.fromkeys(series, chunks.from_index_size(size, len(series))))
        found = self._headers(first, contents)
        return [{path: found[path] for path in paths} for paths in order]

    def _needs_no_index(self, component: Component, series: Sequence[str]) -> bool:
        """Whether the shards are known without their index, and worth reading so.

        After the bulk endpoint's refusal, and where only few are missing. At a
        commit of its own the index gives lengths and claims to check.
        """
        if not series:
            return False
        if all(self._cached_header(p) is not None for p in series):
            return True
        known = any(self._cached_header(p) is not None for p in series)
        return bool(component.family) and component.format == "safetensors" and (known or self._bulk_worth(component))

    def _cached_shards(self, component: Component, contents: Contents) -> tuple[str, ...]:
        """Shards of an index that the cache knows; nothing where one of them is not listed."""
        entry = self._cached.get(component.index or "")
        if entry is None or entry.shards is None:
            return ()
        folder = f"{component.folder}/" if component.folder else ""
        shards = tuple(f"{folder}{s}" for s in entry.shards)
        if any(s not in self._sizes for s in shards):
            return ()
        contents.notes += [n for n in entry.notes if n not in contents.notes]
        return shards

    # -- files ----------------------------------------------------------------

    def _url(self, path: str) -> str:
        return f"/{self.info.repo_id}/resolve/{self.info.commit_sha}/{quote(path, safe='/')}"

    def _config(self, layout: Layout) -> dict[str, Any]:
        if layout.config is None:
            return {}
        entry = self._cached.get(layout.config)
        if entry is not None and entry.config is not None:
            return dict(entry.config)
        check_config_size(self._sizes.get(layout.config), layout.config, self.info.repo_id)
        return parse_config(self._whole(layout.config, MAX_CONFIG_BYTES), layout.config, self.info.repo_id)

    def _index(self, path: str) -> ShardIndex:
        return parse_index(self._whole(path, _MAX_INDEX_BYTES), path, self.info.repo_id, set(self._sizes))

    def _whole(self, path: str, limit: int) -> bytes:
        body, _ = self.transport.get_bytes(
            self._url(path), repo_id=self.info.repo_id, revision=self.info.requested_revision, limit=limit
        )
        return body

    def _headers(self, first: Mapping[str, int], contents: Contents) -> dict[str, Header]:
        """The headers of several files at once; ``first`` says how many bytes to ask for at first."""
        found: dict[str, Header] = {}
        jobs: dict[str, Future[Any]] = {}
        for path, count in first.items():
            cached = self._cached_header(path)
            if cached is not None:
                found[path] = cached
                contents.pairs = contents.pairs or self._cached[path].pairs or {}
            elif path.endswith(".safetensors"):
                jobs[path] = self.workers.submit(self._header, path, count)
            elif path.endswith(".gguf"):
                jobs[path] = self.workers.submit(self._gguf, path)
            else:
                jobs[path] = self.workers.submit(self._pickle, path)
        self._gather(list(jobs.values()))
        for path, job in jobs.items():
            result = job.result()
            if isinstance(result, tuple):
                # Of a model in parts, the first has the pairs.
                found[path], pairs = result
                contents.pairs = contents.pairs or pairs
            else:
                found[path] = result
        return found

    def _header(self, path: str, first: int) -> Header:
        size, repo_id = self._sizes.get(path), self.info.repo_id

        def needed(start: bytes) -> int:
            length = header_length(start, path, file_size=size, repo_id=repo_id)
            self._budget.claim(path, length)
            return LENGTH_BYTES + length

        ask = max(LENGTH_BYTES + 2, first + LENGTH_BYTES)
        if size is not None:
            ask = max(1, min(ask, size))
        data, total = self.transport.read_prefix(
            self._url(path), ask, needed, repo_id=repo_id, revision=self.info.requested_revision
        )
        length = header_length(data, path, file_size=total if size is None else size, repo_id=repo_id)
        self._check_size(path, total)
        raw = data[LENGTH_BYTES : LENGTH_BYTES + length]
        del data  # up to 32 MB, twice
        header = parse_header(raw, path, file_size=size if size is not None else total, repo_id=repo_id)
        self._budget.add_tensors(len(header.tensors))
        return header

    def _check_size(self, path: str, total: int | None) -> None:
        size = self._sizes.get(path)
        if total is not None and size is not None and total != size:
            raise NetworkError(
                f"{self.info.repo_id}: {shown(path)} has {total:,} bytes where the listing says {size:,}",
                hint="the server may have an old copy: try again later",
                repo_id=self.info.repo_id,
            )

    def _span(self, path: str, start: int, stop: int) -> bytes:
        data, total = self.transport.read_range(
            self._url(path), start, stop, repo_id=self.info.repo_id, revision=self.info.requested_revision
        )
        self._check_size(path, total)
        return data

    def _size(self, path: str) -> int:
        size = self._sizes.get(path)
        if not size:
            raise CorruptHeaderError(
                f"{self.info.repo_id}: {shown(path)} is empty, or of a size that the Hub does not tell",
                hint="try another revision, or tell the repo's authors",
                repo_id=self.info.repo_id,
            )
        return size

    def _gguf(self, path: str) -> tuple[Header, dict[str, Any]]:
        return gguf_header(lambda a, b: self._span(path, a, b), self._size(path), path, self.info.repo_id)

    def _pickle(self, path: str) -> Header:
        return pickle_header(lambda a, b: self._span(path, a, b), self._size(path), path, self.info.repo_id)

    # -- the bulk endpoint ----------------------------------------------------

    def _bulk_worth(self, component: Component) -> bool:
        safetensors = component.format == "safetensors" and component.index is not None
        return safetensors and self.info.is_main_head and len(component.family) != 1

    def _try_bulk(self, component: Component, config: Future[Any]) -> tuple[dict[str, Header], list[str]] | None:
        """All headers from the bulk endpoint, or None where it is missing or cannot be trusted."""
        if self.bulk.missing or not self._bulk_worth(component):
            return None
        bulk = self.workers.submit(self._bulk, component)
        self._gather([config, bulk])
        return bulk.result()

    def _bulk(self, component: Component) -> tuple[dict[str, Header], list[str]] | None:
        """Tried once, without retries: the headers themselves are always there, and whatever is wrong shows there."""
        repo_id = self.info.repo_id
        path = f"/api/models/{repo_id}/safetensors-metadata/{quote(component.index or '', safe='/')}"
        try:
            body, fields = self.transport.get_bytes(path, repo_id=repo_id, attempts=1, limit=_MAX_INDEX_BYTES)
            found = check_bulk(body, self.info, component)
            if found is None:
                return None
            stated = fields.get("x-repo-commit")
            if stated is None:
                answer, _ = self.transport.get_bytes(f"/api/models/{repo_id}", {"expand": "sha"}, repo_id=repo_id)
                content = json.loads(answer)
                stated = content.get("sha") if isinstance(content, dict) else None
        except NotFoundError:
            self.bulk.missing = True
            return None
        except (HubvramError, ValueError, RecursionError):
            return None
        return found if stated == self.info.commit_sha else None

    def _gather(self, jobs: Sequence[Future[Any]]) -> None:
        """Wait for the workers; Ctrl-C stops them at their next chunk or wait."""
        try:
            gather(jobs)
        except KeyboardInterrupt:
            self.transport.stop()
            raise


def _first_chunk(layout: Layout, component: Component, config: Mapping[str, Any]) -> int:
    """Bytes to ask for of a single file, its header's length not known."""
    if layout.kind == "model":
        return chunks.from_config(config)
    return chunks.ADAPTER if layout.kind == "adapter" else chunks.from_folder(component.folder)
