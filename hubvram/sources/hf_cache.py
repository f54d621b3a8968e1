"""The Hub client's own cache (`HF_HOME`), read without any request when offline.

Source: the layout that huggingface_hub documents: ``models--org--name/refs/<rev>``
holds a commit, ``snapshots/<commit>/`` the files that were downloaded at it.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from hubvram.errors import HubvramError, OfflineError
from hubvram.snapshot.records import Snapshot
from hubvram.sources.local import LocalSource
from hubvram.sources.refs import RepoRef, Selection

_COMMIT = re.compile(r"[0-9a-f]{40}")


def cache_folder() -> Path:
    """Where huggingface_hub keeps its files; read from the environment on each call."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").expanduser() / "huggingface" / "hub"


def find(ref: RepoRef) -> tuple[Path, str] | None:
    """Folder and commit of a repo in the cache; None where it is not there.

    The revision cannot leave the cache: `parse_ref` refuses dots and slashes
    that would.
    """
    if ref.repo_id is None:
        return None
    root = cache_folder() / f"models--{ref.repo_id.replace('/', '--')}"
    revision = ref.requested_revision
    commit = revision
    try:
        if not _COMMIT.fullmatch(revision):
            commit = (root / "refs" / revision).read_text("ascii").strip()
        folder = root / "snapshots" / commit
        if _COMMIT.fullmatch(commit) and folder.is_dir():
            return folder, commit
    except (OSError, ValueError):
        return None
    return None


def read(ref: RepoRef, selection: Selection | None = None) -> Snapshot | None:
    """The repo as the cache has it; None where it is not there.

    Raises:
        OfflineError: if the cache has only a part of what the estimate needs.
    """
    found = find(ref)
    if found is None:
        return None
    folder, commit = found
    source = LocalSource()
    local = RepoRef(repo_id=None, revision=None, local_path=str(folder), original=ref.original)
    try:
        info = replace(source.resolve(local), repo_id=str(ref.repo_id))
        snapshot = source.snapshot(local, info, selection)
    except HubvramError as error:
        raise OfflineError(
            f"{ref} is only in part in the Hub's cache {folder}: {error.message}",
            hint="run once without --offline (and without HF_HUB_OFFLINE), then it is cached",
            repo_id=ref.repo_id,
        ) from None
    return replace(
        snapshot,
        requested_revision=ref.requested_revision,
        commit_sha=commit,
        warnings=(*snapshot.warnings, f"read from the Hub client's cache {folder}: files it lacks are not listed"),
    )
