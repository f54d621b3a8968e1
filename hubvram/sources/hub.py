"""A repo on the Hub: which commit, which files, and the headers of its weights.

Requests, cold: one for commit, listing and sizes; one for config.json; then
the headers. A single file takes one, its length guessed from the config. A
sharded model on the head of main takes one for all shards through the Hub's
bulk endpoint, and one to make sure that the head has not moved meanwhile.
Where the endpoint is missing, each shard takes one.

config.json counts as a download on its author's page, with HEAD as with GET:
it is fetched once, by GET.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any
from urllib.parse import quote

from hubvram.errors import HubvramError, NetworkError, NoSafetensorsError, NotFoundError, SettingError
from hubvram.snapshot.assemble import MAX_CONFIG_BYTES, build_snapshot, check_config_size, parse_config
from hubvram.snapshot.header import LENGTH_BYTES, Header, check_header, header_length, parse_header, parse_json
from hubvram.snapshot.layout import (
    Component,
    Layout,
    ListedFile,
    ShardIndex,
    choose,
    is_plain_path,
    parse_index,
    pickled_weights,
    stated_size,
    total_size_warning,
)
from hubvram.snapshot.records import Snapshot
from hubvram.snapshot.text import shown
from hubvram.sources import chunks
from hubvram.sources.records import RepoInfo
from hubvram.sources.refs import DEFAULT_REVISION, RepoRef
from hubvram.sources.transport import RetryPolicy, Transport
from hubvram.sources.workers import Workers, gather

WORKERS = 8
"""Header requests under way at once."""
CONVERSION_BOT = "SFconvertbot"
_MAX_INFO_BYTES = 32_000_000
_MAX_INDEX_BYTES = 64_000_000


class HubSource:
    """Reads repos of one Hub. One instance serves many repos and threads.

    Args:
        endpoint: the Hub; default ``HF_ENDPOINT``, else huggingface.co.
        token: a token, False for none, None for the environment's.
        timeout: seconds without a byte before an attempt is given up.
        deadline: seconds for everything together.
        policy: retries.
        allow_conversion_pr: take the Hub bot's open pull request with the
            safetensors conversion where the repo itself has none. Off by
            default: nobody has reviewed it.
        on_wait: told before a long wait, for a progress line.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        token: str | bool | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        policy: RetryPolicy | None = None,
        allow_conversion_pr: bool = False,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.transport = Transport(
            endpoint, token=token, timeout=timeout, policy=policy, deadline=deadline, on_wait=on_wait
        )
        self.allow_conversion_pr = allow_conversion_pr
        self._no_bulk = False
        self._workers = Workers(WORKERS)

    @property
    def endpoint(self) -> str:
        """The Hub's address, without a trailing slash."""
        return self.transport.endpoint

    def close(self) -> None:
        """Stop the workers; requests under way are dropped."""
        self._workers.close()

    # -- commit and listing ---------------------------------------------------

    def resolve(self, ref: RepoRef) -> RepoInfo:
        """Commit, canonical id, files and card, in one request.

        ``blobs=true`` adds size and hash of every file; ``expand`` would have
        to name each field and gives no sizes.

        Raises:
            SettingError: if ``ref`` is a folder.
            HubvramError: as the Hub's answer is mapped.
        """
        if ref.repo_id is None:
            raise SettingError(f"{shown(ref.original)} is a folder, not a repo on the Hub")
        path = f"/api/models/{ref.repo_id}"
        if ref.revision is not None:
            path += f"/revision/{quote(ref.revision, safe='')}"
        answer = self._json(path, {"blobs": "true"}, ref.repo_id, ref.revision)
        sha = answer.get("sha")
        if not isinstance(sha, str) or not re.fullmatch(r"[0-9a-fA-F]{7,64}", sha):
            raise self._strange(ref.repo_id, "the model's description names no commit")
        return RepoInfo(
            repo_id=_canonical(answer, ref.repo_id),
            commit_sha=sha,
            requested_revision=ref.requested_revision,
            files=_listing(answer.get("siblings")),
            is_main_head=ref.revision in (None, DEFAULT_REVISION),
            metadata=_metadata(answer),
        )

    def _json(self, path: str, params: Mapping[str, str], repo_id: str, revision: str | None) -> dict[str, Any]:
        body, headers = self.transport.get_bytes(
            path, params, repo_id=repo_id, revision=revision, limit=_MAX_INFO_BYTES
        )
        content = self._decode(body, headers, repo_id)
        if not isinstance(content, dict):
            raise self._strange(repo_id, "the answer is not a JSON object")
        return content

    def _decode(self, body: bytes, headers: Mapping[str, str], repo_id: str) -> Any:
        import json

        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            html = "html" in headers.get("content-type", "") or body.lstrip()[:1] == b"<"
            raise self._strange(repo_id, "it sends a web page" if html else "it sends no JSON") from None

    def _strange(self, repo_id: str, what: str) -> NetworkError:
        return NetworkError(
            f"{repo_id}: {self.endpoint} does not answer as a Hub: {what}",
            hint="a proxy or login page may be in between, or HF_ENDPOINT / --endpoint is not a Hub",
            repo_id=repo_id,
        )

    # -- snapshot -------------------------------------------------------------

    def snapshot(self, ref: RepoRef, info: RepoInfo) -> Snapshot:
        """Config and headers at ``info``'s commit.

        Raises:
            NoSafetensorsError: if there is no safetensors layout (and no
                conversion is allowed or offered).
            HubvramError: whatever stands in the way of reading.
        """
        warnings: list[str] = []
        extra: dict[str, Any] = {}
        try:
            layout = choose(info.files, info.repo_id)
        except NoSafetensorsError as nothing:
            if not self.allow_conversion_pr or not pickled_weights(f.path for f in info.files):
                base = _base_model(info)
                if base and any(f.path.endswith(".gguf") for f in info.files):
                    nothing.hint = f"GGUF is for inference with llama.cpp; its base model is {base}"
                raise
            pr = self._conversion(info, nothing)
            info, layout = pr, choose(pr.files, pr.repo_id)
            extra["conversion_pr"] = pr.requested_revision
            warnings.append(
                f"read from the pull request {pr.requested_revision} by {CONVERSION_BOT}, which nobody has merged"
            )
        config, headers, indexes, notes = self._read(info, layout)
        return build_snapshot(
            repo_id=info.repo_id,
            requested_revision=ref.requested_revision,
            commit_sha=info.commit_sha,
            endpoint=self.endpoint,
            source="hub",
            layout=layout,
            config=config,
            headers=headers,
            indexes=indexes,
            listed=info.files,
            metadata={**info.metadata, **extra},
            warnings=[*warnings, *notes],
        )

    def _read(
        self, info: RepoInfo, layout: Layout
    ) -> tuple[dict[str, Any], dict[str, Header], dict[str, ShardIndex], list[str]]:
        """Config, headers per file in order, the indexes that were read, and notes."""
        config = self._workers.submit(self._config, info, layout)
        if len(layout.components) == 1 and layout.components[0].index and self._bulk_worth(info, layout.components[0]):
            bulk = self._workers.submit(self._bulk, info, layout.components[0])
            self._gather([config, bulk])
            found = bulk.result()
            if found is not None:
                return config.result(), found[0], {}, found[1]
            family = layout.components[0].family
            if family:
                # The index would be one request more, for names that the headers hold anyway.
                sizes = {f.path: f.size for f in info.files}
                first = chunks.from_index_size(sizes.get(layout.components[0].index), len(family))
                return config.result(), self._headers(info, dict.fromkeys(family, first)), {}, []
        wanted: dict[str, int] = {}
        indexes: dict[str, ShardIndex] = {}
        reading = {c.index: self._workers.submit(self._index, info, c.index) for c in layout.components if c.index}
        self._gather([config, *reading.values()])
        guess = chunks.from_config(config.result()) if layout.kind == "model" else chunks.BLIND
        for component in layout.components:
            if component.index:
                index = reading[component.index].result()
                indexes[component.index] = index
                names: dict[str, list[str]] = {}
                for tensor, shard in index.weight_map.items():
                    names.setdefault(shard, []).append(tensor)
                wanted.update({shard: chunks.from_names(names[shard]) for shard in index.shards})
            elif component.single:
                wanted[component.single] = guess
        return config.result(), self._headers(info, wanted), indexes, []

    def _file(self, info: RepoInfo, path: str) -> str:
        return f"/{info.repo_id}/resolve/{info.commit_sha}/{quote(path, safe='/')}"

    def _config(self, info: RepoInfo, layout: Layout) -> dict[str, Any]:
        if layout.config is None:
            return {}
        check_config_size(
            next((f.size for f in info.files if f.path == layout.config), None), layout.config, info.repo_id
        )
        body, _ = self.transport.get_bytes(
            self._file(info, layout.config),
            repo_id=info.repo_id,
            revision=info.requested_revision,
            limit=MAX_CONFIG_BYTES,
        )
        return parse_config(body, layout.config, info.repo_id)

    def _index(self, info: RepoInfo, path: str) -> ShardIndex:
        body, _ = self.transport.get_bytes(
            self._file(info, path),
            repo_id=info.repo_id,
            revision=info.requested_revision,
            limit=_MAX_INDEX_BYTES,
        )
        return parse_index(body, path, info.repo_id, {f.path for f in info.files})

    def _headers(self, info: RepoInfo, wanted: Mapping[str, int]) -> dict[str, Header]:
        """The headers of several files at once; ``wanted`` says how many bytes to ask for first."""
        sizes = {f.path: f.size for f in info.files}
        jobs = {path: self._workers.submit(self._header, info, path, sizes.get(path), n) for path, n in wanted.items()}
        self._gather(list(jobs.values()))
        return {path: job.result() for path, job in jobs.items()}

    def _header(self, info: RepoInfo, path: str, size: int | None, first: int) -> Header:
        def needed(start: bytes) -> int:
            return LENGTH_BYTES + header_length(start, path, file_size=size, repo_id=info.repo_id)

        ask = max(LENGTH_BYTES + 2, first + LENGTH_BYTES)
        if size is not None:
            ask = max(1, min(ask, size))
        data, total = self.transport.read_prefix(
            self._file(info, path), ask, needed, repo_id=info.repo_id, revision=info.requested_revision
        )
        length = header_length(data, path, file_size=total if size is None else size, repo_id=info.repo_id)
        if total is not None and size is not None and total != size:
            raise NetworkError(
                f"{info.repo_id}: {shown(path)} has {total:,} bytes where the listing says {size:,}",
                hint="the server may have an old copy: try again later",
                repo_id=info.repo_id,
            )
        return parse_header(
            data[LENGTH_BYTES : LENGTH_BYTES + length],
            path,
            file_size=size if size is not None else total,
            repo_id=info.repo_id,
        )

    # -- the bulk endpoint ----------------------------------------------------

    def _bulk_worth(self, info: RepoInfo, component: Component) -> bool:
        return info.is_main_head and not self._no_bulk and len(component.family) != 1

    def _bulk(self, info: RepoInfo, component: Component) -> tuple[dict[str, Header], list[str]] | None:
        """All headers from the bulk endpoint, or None where it is missing or cannot be trusted.

        The endpoint knows no revision, so its answer counts only if every
        shard's size agrees with the listing and the head of main is still
        ``info``'s commit. It is tried once, without retries: the headers
        themselves are always there, and whatever is wrong shows up there too.
        """
        path = f"/api/models/{info.repo_id}/safetensors-metadata/{quote(component.index or '', safe='/')}"
        try:
            body, fields = self.transport.get_bytes(path, repo_id=info.repo_id, attempts=1, limit=_MAX_INDEX_BYTES)
            found = self._check_bulk(body, info, component)
            if found is None:
                return None
            stated = fields.get("x-repo-commit")
            if stated is None:
                stated = self._json(f"/api/models/{info.repo_id}", {"expand": "sha"}, info.repo_id, None).get("sha")
        except NotFoundError:
            self._no_bulk = True
            return None
        except HubvramError:
            return None
        return found if stated == info.commit_sha else None

    def _check_bulk(
        self, body: bytes, info: RepoInfo, component: Component
    ) -> tuple[dict[str, Header], list[str]] | None:
        path = component.index or ""
        content = parse_json(body, path, repo_id=info.repo_id)
        if not isinstance(content, dict) or not isinstance(content.get("headers"), dict):
            return None
        folder = path.rpartition("/")[0]
        sizes = {f.path: f.size for f in info.files}
        headers: dict[str, Header] = {}
        for shard, header in sorted(content["headers"].items()):
            place = f"{folder}/{shard}" if folder and not shard.startswith(f"{folder}/") else shard
            if place not in sizes:
                return None
            headers[place] = check_header(header, place, file_size=sizes[place], repo_id=info.repo_id)
            if not _fits(headers[place]):
                return None
        if not headers or (component.family and set(component.family) != set(headers)):
            return None
        index = content.get("index")
        metadata = index.get("metadata") if isinstance(index, dict) else None
        # The answer leaves the weight_map out: total_size is what is left to compare.
        note = total_size_warning(stated_size(metadata), sum(h.data_bytes for h in headers.values()), path)
        return headers, [note] if note else []

    # -- conversions ----------------------------------------------------------

    def _conversion(self, info: RepoInfo, nothing: NoSafetensorsError) -> RepoInfo:
        """The repo at the bot's open conversion pull request.

        Raises:
            NoSafetensorsError: if there is none.
        """
        answer = self._json(f"/api/models/{info.repo_id}/discussions", {"author": CONVERSION_BOT}, info.repo_id, None)
        listed = answer.get("discussions")
        for item in listed if isinstance(listed, list) else []:
            number = _conversion_number(item)
            if number is None:
                continue
            pr = RepoRef(info.repo_id, f"refs/pr/{number}", None, info.repo_id)
            found = self.resolve(pr)
            if any(f.path.endswith(".safetensors") for f in found.files):
                return found
        raise NoSafetensorsError(
            f"{nothing.message}, and no open conversion pull request by {CONVERSION_BOT}",
            hint="https://huggingface.co/spaces/safetensors/convert can make one",
            repo_id=info.repo_id,
        )

    def _gather(self, jobs: Sequence[Future[Any]]) -> None:
        """Wait for the workers; Ctrl-C stops them at their next chunk or wait."""
        try:
            gather(jobs)
        except KeyboardInterrupt:
            self.transport.stop()
            raise


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


def _canonical(answer: Mapping[str, Any], asked: str) -> str:
    """The id that the Hub itself uses; it differs after a rename."""
    found = answer.get("id") or answer.get("modelId")
    plain = isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,96}(/[A-Za-z0-9_.-]{1,96})?", found)
    return found if isinstance(found, str) and plain and ".." not in found else asked


def _listing(siblings: Any) -> tuple[ListedFile, ...]:
    """The files of the answer; entries without a name, or with one that leads out of the repo, are left out."""
    out = []
    for item in siblings if isinstance(siblings, list) else []:
        path = item.get("rfilename") if isinstance(item, dict) else None
        if not isinstance(path, str) or not is_plain_path(path):
            continue
        pointer = item.get("lfs")
        lfs: Mapping[str, Any] = pointer if isinstance(pointer, dict) else {}
        size = item.get("size", lfs.get("size"))
        digest = lfs.get("sha256") or lfs.get("oid") or item.get("blobId")
        out.append(
            ListedFile(
                path,
                size if type(size) is int and size >= 0 else None,
                digest if isinstance(digest, str) else None,
            )
        )
    return tuple(out)


def _metadata(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the description worth keeping, under the Hub's own names."""
    data = answer.get("cardData")
    card: Mapping[str, Any] = data if isinstance(data, dict) else {}
    totals = answer.get("safetensors")
    tags = answer.get("tags")
    return {
        "gated": answer.get("gated", False),
        "private": bool(answer.get("private", False)),
        "library_name": answer.get("library_name"),
        "pipeline_tag": answer.get("pipeline_tag"),
        "tags": [t for t in tags if isinstance(t, str)] if isinstance(tags, list) else [],
        "base_model": card.get("base_model"),
        "license": card.get("license"),
        "last_modified": answer.get("lastModified"),
        "safetensors": totals if isinstance(totals, dict) else None,
    }


def _base_model(info: RepoInfo) -> str | None:
    """The one base model that the card names, if it is a repo's name."""
    named = info.metadata.get("base_model")
    if isinstance(named, list) and len(named) == 1:
        named = named[0]
    plain = isinstance(named, str) and len(named) <= 193 and re.fullmatch(r"[\w.-]+/[\w.-]+", named, re.ASCII)
    return named if isinstance(named, str) and plain else None


def _conversion_number(item: Any) -> int | None:
    """The number of an open pull request by the conversion bot, else None."""
    if not isinstance(item, dict) or item.get("isPullRequest") is not True or item.get("status") != "open":
        return None
    author = item.get("author")
    name = author.get("name") if isinstance(author, dict) else author
    number = item.get("num")
    if name != CONVERSION_BOT or type(number) is not int or number < 1:
        return None
    return number if "safetensors" in str(item.get("title", "")).lower() else None
