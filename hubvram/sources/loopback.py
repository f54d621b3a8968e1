"""A small Hub on this machine, served from a folder of real headers.

For trying hubvram without a network (`make run` falls back to it) and for the
tests, which build on it. It answers the requests that the Hub client makes:
model descriptions, listings, file ranges, the bulk header endpoint and
conversion pull requests. Weights are not stored: a file is its header, then
as many zeros as the real one has bytes, made while they are sent.

A folder holds ``<org>/<name>/meta.json`` (``sha``, ``siblings`` with sizes,
``gated``, ``private``, ``tags``...), ``headers/<file>.json.gz`` per
safetensors file, ``parts/<file>.head.gz`` and ``.tail.gz`` with the beginning
and the end of other binary files, and other files (config.json, indexes) as
they are. Under ``refs/pr/<n>/`` lies what a pull request adds.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

_ZEROS = bytes(65_536)
_API_MODEL = re.compile(
    r"/api/models/(?P<id>[^/]+(?:/[^/]+)?)(?P<rest>/(?:revision|safetensors-metadata|discussions).*)?"
)
_RESOLVE = re.compile(r"/(?P<id>[^/]+(?:/[^/]+)?)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Content:
    """The bytes of a file: ``head``, then zeros, and ``tail`` at the end of ``size``."""

    head: bytes
    size: int
    tail: bytes = b""

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` (not included) in pieces."""
        stop = min(stop, self.size)
        if start < len(self.head):
            yield self.head[start:stop]
            start = min(len(self.head), stop)
        behind = self.size - len(self.tail)
        while start < min(stop, behind):
            piece = _ZEROS[: min(len(_ZEROS), min(stop, behind) - start)]
            yield piece
            start += len(piece)
        if start < stop:
            yield self.tail[start - behind : stop - behind]

    @property
    def etag(self) -> str:
        """A hash of the content (of head and size, which determine it)."""
        return hashlib.sha256(self.head + str(self.size).encode() + self.tail).hexdigest()


class Answer(NamedTuple):
    """Status, headers and body; the body of a range is ``body[start:stop]``."""

    status: int
    headers: dict[str, str]
    body: Content
    start: int = 0
    stop: int | None = None

    @property
    def length(self) -> int:
        """Bytes of the body that are sent."""
        return (self.body.size if self.stop is None else self.stop) - self.start

    def chunks(self) -> Iterator[bytes]:
        """The body that is sent, in pieces."""
        return self.body.read(self.start, self.start + self.length)


@dataclass(frozen=True)
class Revision:
    """A repo's files at one commit."""

    sha: str
    files: Mapping[str, Content]
    lfs: frozenset[str]


@dataclass
class FixtureRepo:
    """One repo of the folder."""

    repo_id: str
    meta: dict[str, Any]
    revisions: dict[str, Revision] = field(default_factory=dict)
    """By name: ``main`` and ``refs/pr/<n>``."""

    def find(self, revision: str) -> Revision | None:
        """By branch name or commit."""
        if revision in self.revisions:
            return self.revisions[revision]
        return next((r for r in self.revisions.values() if r.sha == revision), None)


def load_repo(folder: Path, repo_id: str) -> FixtureRepo:
    """Read one repo's folder."""
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    repo = FixtureRepo(repo_id, meta)
    base = _revision(folder, meta["sha"], meta["siblings"])
    repo.revisions["main"] = base
    for pull in meta.get("pull_requests", []):
        name = f"refs/pr/{pull['num']}"
        added = _revision(folder / name, pull["sha"], pull["siblings"])
        repo.revisions[name] = Revision(pull["sha"], {**base.files, **added.files}, base.lfs | added.lfs)
    return repo


def _revision(folder: Path, sha: str, siblings: list[dict[str, Any]]) -> Revision:
    files: dict[str, Content] = {}
    lfs = set()
    for item in siblings:
        path, size = str(item["rfilename"]), int(item["size"])
        header = folder / "headers" / f"{path}.json.gz"
        plain = folder / path
        part = folder / "parts" / path
        if header.is_file():
            raw = gzip.decompress(header.read_bytes())
            # Writers pad the header so that the data begins at a multiple of eight.
            raw += b" " * (-len(raw) % 8)
            files[path] = Content(len(raw).to_bytes(8, "little") + raw, size)
        elif (head := part.with_name(f"{part.name}.head.gz")).is_file():
            tail = part.with_name(f"{part.name}.tail.gz")
            end = gzip.decompress(tail.read_bytes()) if tail.is_file() else b""
            files[path] = Content(gzip.decompress(head.read_bytes()), size, end)
        elif plain.is_file():
            body = plain.read_bytes()
            files[path] = Content(body, len(body))
        else:
            files[path] = Content(b"", size)
        if size > 10_000_000 or path.endswith((".safetensors", ".bin")):
            lfs.add(path)
    return Revision(sha, files, frozenset(lfs))


class LoopbackHub:
    """The Hub's API over a folder of fixtures, as one function: `answer`.

    Args:
        folder: holds ``<org>/<name>/meta.json``.
        granted: tokens that may read gated repos.
        bulk: whether the bulk header endpoint exists.
        aliases: old names of renamed repos.
    """

    def __init__(
        self,
        folder: Path,
        *,
        granted: frozenset[str] = frozenset(),
        bulk: bool = True,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.granted = granted
        self.bulk = bulk
        self.aliases = {"gpt2": "openai-community/gpt2", **(aliases or {})}
        self._repos: dict[str, FixtureRepo | None] = {}
        self._lock = threading.Lock()

    def repo(self, repo_id: str) -> FixtureRepo | None:
        """The repo of that id, loaded when first asked for."""
        with self._lock:
            if repo_id not in self._repos:
                known = re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id) and ".." not in repo_id
                folder = self.folder / repo_id
                exists = bool(known) and (folder / "meta.json").is_file()
                self._repos[repo_id] = load_repo(folder, repo_id) if exists else None
            return self._repos[repo_id]

    def names(self) -> list[str]:
        """All repos of the folder, sorted."""
        return sorted(f"{p.parent.parent.name}/{p.parent.name}" for p in self.folder.glob("*/*/meta.json"))

    def answer(self, method: str, url: str, headers: Mapping[str, str]) -> Answer:
        """What the Hub would say.

        Args:
            method: GET or HEAD.
            url: absolute, or a path with query.
            headers: keys in lower case.
        """
        parts = urlsplit(url)
        token = headers.get("authorization", "").removeprefix("Bearer ").strip()
        query = parse_qs(parts.query)
        if method not in ("GET", "HEAD"):
            return refusal(405, "", "Method not allowed")
        if parts.path == "/api/models":
            return self._list(query)
        match = _API_MODEL.fullmatch(parts.path)
        if match:
            return self._api(match["id"], match["rest"] or "", query, token)
        match = _RESOLVE.fullmatch(parts.path)
        if match:
            return self._resolve(match["id"], unquote(match["rev"]), unquote(match["path"]), headers, token)
        return refusal(404, "", "Not found")

    def _api(self, repo_id: str, rest: str, query: Mapping[str, list[str]], token: str) -> Answer:
        if repo_id in self.aliases:
            return Answer(
                307, {"Location": f"/api/models/{self.aliases[repo_id]}{rest}{_query(query)}"}, Content(b"", 0)
            )
        repo = self.repo(repo_id)
        if repo is None or (repo.meta.get("private") and token not in self.granted):
            return refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        if rest.startswith("/safetensors-metadata/"):
            return self._bulk(repo, unquote(rest.removeprefix("/safetensors-metadata/")), token)
        if rest == "/discussions":
            return as_json({"discussions": pull_requests(repo), "count": len(pull_requests(repo)), "start": 0})
        name = unquote(rest.removeprefix("/revision/")) if rest else "main"
        revision = repo.find(name)
        if revision is None:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {name}")
        return as_json(describe(repo, revision, "blobs" in query))

    def _bulk(self, repo: FixtureRepo, index_path: str, token: str) -> Answer:
        if not self.bulk:
            return refusal(404, "", "Not found")
        refused = self._gate(repo, token)
        if refused is not None:
            return refused
        main = repo.revisions["main"]
        if index_path not in main.files:
            return refusal(404, "EntryNotFound", "Entry not found")
        index = json.loads(main.files[index_path].head)
        folder = f"{index_path.rpartition('/')[0]}/" if "/" in index_path else ""
        headers = {
            shard: json.loads(main.files[folder + shard].head[8:])
            for shard in sorted(set(index["weight_map"].values()))
        }
        return as_json({"index": {"metadata": index.get("metadata")}, "headers": headers})

    def _resolve(self, repo_id: str, rev: str, path: str, headers: Mapping[str, str], token: str) -> Answer:
        if repo_id in self.aliases:
            target = f"/{self.aliases[repo_id]}/resolve/{rev}/{path}"
            return Answer(307, {"Location": target}, Content(b"", 0))
        repo = self.repo(repo_id)
        if repo is None or (repo.meta.get("private") and token not in self.granted):
            return refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        revision = repo.find(rev)
        if revision is None:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        if path not in revision.files:
            return refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": revision.sha})
        # Only the front page of a gated repo is open to everybody.
        refused = None if path in ("README.md", ".gitattributes") else self._gate(repo, token)
        if refused is not None:
            return refused
        content = revision.files[path]
        fields = {"X-Repo-Commit": revision.sha, "ETag": f'"{content.etag}"', "Accept-Ranges": "bytes"}
        return ranged(content, headers.get("range"), fields)

    def _gate(self, repo: FixtureRepo, token: str) -> Answer | None:
        if not repo.meta.get("gated") or token in self.granted:
            return None
        message = f"Access to model {repo.repo_id} is restricted."
        return refusal(403 if token else 401, "GatedRepo", message)

    def _list(self, query: Mapping[str, list[str]]) -> Answer:
        """The listing: author, search, filter and limit, in the order of downloads."""
        found = []
        for name in self.names():
            repo = self.repo(name)
            if repo is None:
                continue
            author, search = query.get("author", [""])[0], query.get("search", [""])[0]
            tags = set(repo.meta.get("tags", []))
            if author and name.split("/", 1)[0] != author:
                continue
            if search.lower() in name.lower() and set(query.get("filter", [])) <= tags:
                found.append(describe(repo, repo.revisions["main"], False))
        found.sort(key=lambda d: -int(d["downloads"]))
        return as_json(found[: int(query.get("limit", ["1000"])[0])])


def describe(repo: FixtureRepo, revision: Revision, blobs: bool) -> dict[str, Any]:
    """The model API's description."""
    siblings = []
    for path, content in revision.files.items():
        item: dict[str, Any] = {"rfilename": path}
        if blobs:
            item |= {"size": content.size, "blobId": content.etag[:40]}
            if path in revision.lfs:
                item["lfs"] = {"sha256": content.etag, "size": content.size, "pointerSize": 135}
        siblings.append(item)
    meta = repo.meta
    return {
        "_id": hashlib.sha256(repo.repo_id.encode()).hexdigest()[:24],
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "author": repo.repo_id.split("/", 1)[0],
        "sha": revision.sha,
        "lastModified": "2024-01-01T00:00:00.000Z",
        "private": bool(meta.get("private", False)),
        "gated": meta.get("gated", False),
        "disabled": False,
        "downloads": int(meta.get("downloads", 0)),
        "tags": meta.get("tags", []),
        "pipeline_tag": meta.get("pipeline_tag"),
        "library_name": meta.get("library_name"),
        "cardData": meta.get("cardData", {}),
        "siblings": siblings,
    }


def pull_requests(repo: FixtureRepo) -> list[dict[str, Any]]:
    """The pull requests as the discussions API lists them."""
    return [
        {
            "num": pull["num"],
            "title": pull["title"],
            "status": pull["status"],
            "isPullRequest": True,
            "author": {"name": pull["author"], "type": "user"},
        }
        for pull in repo.meta.get("pull_requests", [])
    ]


def ranged(content: Content, asked: str | None, fields: Mapping[str, str]) -> Answer:
    """A file, or the range of it that was asked for."""
    headers = {"Content-Type": "application/octet-stream", **fields}
    match = _RANGE.fullmatch(asked or "")
    if match is None or not match[1]:
        return Answer(200, headers, content)
    start = int(match[1])
    stop = min(int(match[2]) + 1, content.size) if match[2] else content.size
    if start >= content.size or stop <= start:
        return Answer(416, {**headers, "Content-Range": f"bytes */{content.size}"}, Content(b"", 0))
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size}"
    return Answer(206, headers, content, start, stop)


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON answer."""
    body = json.dumps(value).encode()
    return Answer(
        status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, Content(body, len(body))
    )


def refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A refusal as the Hub words it."""
    extra = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
    return as_json({"error": message}, status, extra)


def _query(query: Mapping[str, list[str]]) -> str:
    return f"?{urlencode(query, doseq=True)}" if query else ""


AnswerFunction = Callable[[str, str, Mapping[str, str]], Answer]


@contextlib.contextmanager
def serving(
    answer: AnswerFunction, *, port: int = 0, on_sent: Callable[[str, Answer, int], None] | None = None
) -> Iterator[str]:
    """Serve an `answer` function on loopback; gives the address.

    Args:
        answer: such as `LoopbackHub.answer`.
        port: 0 = any free one.
        on_sent: told path, answer and the bytes of body that went out.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes: no 40 ms between them

        def _handle(self) -> None:
            fields = {k.lower(): v for k, v in self.headers.items()}
            found = answer(self.command, self.path, fields)
            sent = 0
            try:
                self.send_response(found.status)
                for key, value in found.headers.items():
                    self.send_header(key, value)
                if "Content-Length" not in found.headers:
                    self.send_header("Content-Length", str(found.length))
                self.end_headers()
                if self.command != "HEAD":
                    for piece in found.chunks():
                        self.wfile.write(piece)
                        sent += len(piece)
                if int(found.headers.get("Content-Length", found.length)) != found.length:
                    self.close_connection = True
            except OSError:
                self.close_connection = True  # the client hung up, as it may
            finally:
                if on_sent is not None:
                    on_sent(self.path, found, sent)

        do_GET = _handle  # noqa: N815
        do_HEAD = _handle  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients hang up after a header: that is no error."""
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main(argv: list[str] | None = None) -> int:
    """``python -m hubvram.sources.loopback FOLDER [PORT]``: serve until interrupted."""
    args = sys.argv[1:] if argv is None else argv
    if not 1 <= len(args) <= 2 or not Path(args[0]).is_dir() or not all(a.isdigit() for a in args[1:]):
        sys.stderr.write("usage: python -m hubvram.sources.loopback FOLDER [PORT]\n")
        return 2
    hub = LoopbackHub(Path(args[0]))
    with serving(hub.answer, port=int(args[1]) if len(args) > 1 else 0) as url, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
