"""What the user typed, taken apart: `org/name@rev`, `hf://…`, a pasted URL, a folder.

Pure and light: no disk, no network, nothing but the standard library. It runs
on every start, before the cache is asked.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from hubvram.errors import SettingError
from hubvram.snapshot.text import shown

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"

_PUBLIC_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"})
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_REPO_ID = re.compile(rf"(?:{_PART}/)?[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_SPECIAL_REV = re.compile(r"refs/(?:pr/[0-9]+|convert/[A-Za-z0-9_.-]+|heads/[^/]+|tags/[^/]+)")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\|\.{1,2}\\")
_OTHER_TYPES = {
    "datasets": "dataset",
    "spaces": "Space",
    "buckets": "bucket",
    "collections": "collection",
    "papers": "paper",
}
_REV_ROUTES = frozenset({"tree", "blob", "resolve", "raw", "commit", "commits", "blame", "revision"})
_OTHER_ROUTES = frozenset({"discussions", "settings", "edit", "upload", "delete", "safetensors-metadata"})
_MAX_REPO_ID = 193  # 96 characters each for namespace and name, as the Hub has it
_EXAMPLE = (
    "a repo is written org/name, org/name@revision, hf://org/name, a huggingface.co URL, or a folder such as ./dir"
)


@dataclass(frozen=True, slots=True)
class RepoRef:
    """One REPO argument, parsed. Either ``repo_id`` or ``local_path`` is set."""

    repo_id: str | None
    """``org/name``, or ``name`` for the Hub's canonical models; None for a folder."""
    revision: str | None
    """Branch, tag, commit or special ref as asked for; None = the default branch."""
    local_path: str | None
    """The folder as written (``~`` not yet expanded); None for a Hub repo."""
    original: str
    """What the user typed, for messages."""

    @property
    def is_local(self) -> bool:
        """Whether this names a folder on disk and not a repo on the Hub."""
        return self.local_path is not None

    @property
    def requested_revision(self) -> str:
        """The revision asked for, ``main`` where none was."""
        return self.revision or DEFAULT_REVISION

    def __str__(self) -> str:
        """``org/name``, ``org/name@rev`` or the folder: parses back to the same ref."""
        if self.local_path is not None:
            return self.local_path
        return f"{self.repo_id}@{self.revision}" if self.revision else f"{self.repo_id}"


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a repo to read, where it is not what transformers would load by itself."""

    variant: str | None = None
    """``fp16`` for ``model.fp16.safetensors``."""
    file: str | None = None
    """A weights file, an index or a folder."""

    @property
    def is_default(self) -> bool:
        """Whether nothing out of the ordinary was asked for."""
        return self == Selection()


def effective_endpoint(endpoint: str | None = None) -> str:
    """The Hub to ask: the argument, else ``HF_ENDPOINT``, else huggingface.co; no trailing slash.

    Read from the environment on each call: huggingface_hub freezes the
    variable when it is imported.

    Raises:
        SettingError: if it is not an http(s) URL with a host, or holds a password.
    """
    chosen = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
    try:
        parts = urlsplit(chosen)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        valid = valid and (parts.port is None or parts.port > 0) and not re.search(r"[\s\x00-\x1f]", chosen)
    except ValueError:
        valid = False
    if "@" in chosen:
        # It would stand in the cache, in every report and in messages. It is not repeated here either.
        raise SettingError(
            "the endpoint holds a user name or password, which would be printed and kept",
            hint="leave it out of --endpoint or HF_ENDPOINT; a token goes into HF_TOKEN",
        )
    if not valid:
        raise SettingError(
            f"endpoint {shown(chosen)} is not an http(s) URL",
            hint="give --endpoint or HF_ENDPOINT as https://host",
        )
    return chosen


def parse_ref(text: str, revision: str | None = None, endpoint: str | None = None) -> RepoRef:
    """Parse a REPO argument.

    Args:
        text: ``org/name``, ``name``, ``org/name@rev``, ``hf://org/name[@rev][/path]``,
            a URL of huggingface.co or of ``endpoint`` (a path behind the
            revision is dropped), ``./dir``, ``../dir``, ``/dir`` or ``~/dir``.
        revision: the ``--revision`` option.
        endpoint: host whose URLs are also taken; default as `effective_endpoint`.

    Raises:
        SettingError: if the text is none of these, names a dataset or a Space,
            or gives a revision where ``revision`` does too.
    """
    stripped = text.strip()
    if not stripped:
        raise SettingError("the repo name is empty", hint=_EXAMPLE)
    if _is_path(stripped):
        if revision is not None:
            raise SettingError(
                f"{shown(stripped)} is a folder: it has no revision {shown(revision)}", hint="leave --revision out"
            )
        return RepoRef(repo_id=None, revision=None, local_path=stripped, original=text)

    if stripped.lower().startswith("hf://"):
        repo_id, found = _parse_hf_uri(stripped)
    elif _looks_like_url(stripped, endpoint):
        repo_id, found = _parse_url(stripped, endpoint)
    else:
        repo_id, found = _split_revision(stripped.rstrip("/") if "@" not in stripped else stripped)

    _check_repo_id(repo_id, stripped)
    if found is not None:
        _check_revision(found, stripped)
    if revision is not None:
        revision = revision.strip()
        _check_revision(revision, stripped)
        if found is not None:
            raise SettingError(
                f"{repo_id} is given two revisions: {shown(found)} in the name and {shown(revision)} beside it",
                hint="keep one of them",
            )
    return RepoRef(repo_id=repo_id, revision=found if found is not None else revision, local_path=None, original=text)


def _is_path(text: str) -> bool:
    return (
        text in (".", "..", "~")
        or text.startswith(("./", "../", "/", "~/", "~\\"))
        or _WINDOWS_PATH.match(text) is not None
        or re.match(r"~[A-Za-z0-9._-]+/", text) is not None
    )


def _split_revision(text: str) -> tuple[str, str | None]:
    repo_id, at, rev = text.partition("@")
    return repo_id, rev if at else None


def _parse_hf_uri(text: str) -> tuple[str, str | None]:
    """``hf://[models/]org/name[@rev][/path]``; the path is dropped."""
    body = text[len("hf://") :].strip("/")
    first, _, rest = body.partition("/")
    if first in _OTHER_TYPES:
        raise _not_a_model(text, first)
    if first == "models":
        body = rest
    before, at, after = body.partition("@")
    if not at:
        segments = body.split("/")
        return "/".join(segments[:2]), None
    return before, _take_revision(after.split("/"))


def _looks_like_url(text: str, endpoint: str | None) -> bool:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return True
    host = text.split("/", 1)[0].lower()
    # `hf.co/org/name` without a scheme; a bare `hf.co` would be a model's name.
    return "/" in text and (
        host in _PUBLIC_HOSTS or (":" in host and host == urlsplit(effective_endpoint(endpoint)).netloc.lower())
    )


def _parse_url(text: str, endpoint: str | None) -> tuple[str, str | None]:
    """A page, file or API address of the Hub; query and fragment are dropped."""
    base = urlsplit(effective_endpoint(endpoint))
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        host = parts.netloc.lower()
        _ = parts.port
    except ValueError:
        raise SettingError(f"{shown(text)} is not a valid URL", hint=_EXAMPLE) from None
    path = parts.path
    if parts.scheme not in ("http", "https") or host not in _PUBLIC_HOSTS | {base.netloc.lower()}:
        bare = re.sub(r"//[^/]*@", "//", text)  # a password in the URL is not for messages
        raise SettingError(
            f"{shown(bare)} is not an address of {base.netloc} or huggingface.co",
            hint="for another Hub give --endpoint https://host and the repo as org/name",
        )
    if host == base.netloc.lower() and base.path and path.startswith(f"{base.path}/"):
        path = path[len(base.path) :]
    raw = [s for s in path.split("/") if s]
    if raw and raw[0] == "api":
        raw = raw[1:]
    if raw and raw[0] in _OTHER_TYPES:
        raise _not_a_model(text, raw[0])
    if raw and raw[0] == "models":
        raw = raw[1:]
    if not raw:
        raise SettingError(f"{shown(text)} names no model", hint=_EXAMPLE)
    segments = [unquote(s) for s in raw]
    # A canonical model (`gpt2`) has its route where others have their name.
    size = 1 if len(segments) > 1 and segments[1] in _REV_ROUTES | _OTHER_ROUTES and len(segments) != 2 else 2
    repo_id, rest = "/".join(segments[:size]), segments[size:]
    if "@" in repo_id:
        name, rev = _split_revision("/".join(segments))
        return name, rev
    if rest and rest[0] in _REV_ROUTES:
        if len(rest) == 1:
            return repo_id, None
        return repo_id, _take_revision(rest[1:])
    return repo_id, None


def _take_revision(segments: list[str]) -> str:
    """The revision at the head of a path; special refs hold slashes of their own."""
    joined = "/".join(segments)
    special = _SPECIAL_REV.match(joined)
    if special:
        return special.group(0)
    return segments[0]


def _not_a_model(text: str, kind: str) -> SettingError:
    return SettingError(
        f"{shown(text)} is a {_OTHER_TYPES[kind]}, not a model", hint="hubvram reads model repos: " + _EXAMPLE
    )


def _check_repo_id(repo_id: str, text: str) -> None:
    if (
        not _REPO_ID.fullmatch(repo_id)
        or len(repo_id) > _MAX_REPO_ID
        or any(len(part) > 96 for part in repo_id.split("/"))
        or "--" in repo_id
        or ".." in repo_id
        or repo_id.endswith(".git")
    ):
        raise SettingError(f"{shown(text)} is not a repo name", hint=_EXAMPLE)


def _check_revision(revision: str, text: str) -> None:
    bad = (
        not revision
        or len(revision) > 250
        or re.search(r"[\s\x00-\x1f\x7f-\x9f\\:?*\[^~]", revision) is not None
        or not revision.isprintable()
        or revision.startswith(("/", "-"))
        or revision.endswith("/")
        or any(part in ("", ".", "..") for part in revision.split("/"))
        or ".." in revision
    )
    if bad:
        raise SettingError(
            f"{shown(text)}: {shown(revision)} is not a revision",
            hint="a revision is a branch, a tag, a commit, refs/pr/N or refs/convert/NAME",
        )
