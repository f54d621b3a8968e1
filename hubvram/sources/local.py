"""A folder on disk, read like a repo: the same layout, the same header parser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from hubvram.errors import CorruptHeaderError, EntryNotFoundError, RepoNotFoundError, SettingError
from hubvram.snapshot.assemble import MAX_CONFIG_BYTES, build_snapshot, check_config_size, parse_config
from hubvram.snapshot.header import LENGTH_BYTES, Header, corrupt, header_length, parse_header
from hubvram.snapshot.layout import Layout, ListedFile, choose, parse_index
from hubvram.snapshot.limits import MAX_READ_BYTES, Budget
from hubvram.snapshot.records import Snapshot
from hubvram.snapshot.text import shown
from hubvram.sources.binary import Fetch, gguf_header, pickle_header
from hubvram.sources.records import Contents, RepoInfo
from hubvram.sources.refs import DEFAULT_REVISION, RepoRef, Selection

_MAX_INDEX_BYTES = MAX_READ_BYTES
_MAX_FILES = 100_000


class LocalSource:
    """Reads model folders. Nothing is written, nothing leaves the machine."""

    def resolve(self, ref: RepoRef) -> RepoInfo:
        """List the folder, hidden files and folders left out.

        Raises:
            SettingError: if ``ref`` is a repo on the Hub, or the folder holds
                far more files than a model's.
            RepoNotFoundError: if there is no such folder.
        """
        root = _root(ref)
        files = []
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for name in sorted(names):
                path = Path(folder) / name
                if name.startswith(".") or not path.is_file():
                    continue
                files.append(ListedFile(path.relative_to(root).as_posix(), path.stat().st_size))
                if len(files) > _MAX_FILES:
                    raise SettingError(
                        f"{shown(ref.local_path)} holds over {_MAX_FILES:,} files: it is not a model's folder",
                        hint="name the folder with the config.json",
                    )
        return RepoInfo(
            repo_id=str(ref.local_path),
            commit_sha=None,
            requested_revision=DEFAULT_REVISION,
            files=tuple(files),
        )

    def snapshot(self, ref: RepoRef, info: RepoInfo, selection: Selection | None = None) -> Snapshot:
        """Read config and headers.

        Raises:
            NoSafetensorsError: if the folder holds no weights.
            HubvramError: for a broken config, index or header.
        """
        chosen = selection or Selection()
        layout = choose(info.files, info.repo_id, variant=chosen.variant, file=chosen.file)
        contents = read_folder(_root(ref), layout, info)
        return build_snapshot(
            repo_id=info.repo_id,
            requested_revision=ref.requested_revision,
            commit_sha=None,
            endpoint=None,
            source="local",
            layout=layout,
            config=contents.config,
            headers=contents.headers,
            indexes=contents.indexes,
            listed=info.files,
            metadata=info.metadata,
            pairs=contents.pairs,
        )

    def close(self) -> None:
        """Nothing to let go of."""


def read_folder(root: Path, layout: Layout, info: RepoInfo) -> Contents:
    """Config and headers of a folder.

    Raises:
        HubvramError: for a broken or missing config, index or header.
    """
    contents = Contents()
    listed = {f.path for f in info.files}
    budget = Budget(info.repo_id)
    if layout.config is not None:
        check_config_size(next(f.size for f in info.files if f.path == layout.config), layout.config, info.repo_id)
        raw = _read(root, layout.config, MAX_CONFIG_BYTES, info)
        contents.config = parse_config(raw, layout.config, info.repo_id)
    for component in layout.components:
        paths: tuple[str, ...] = (component.single,) if component.single else component.family
        if component.index:
            raw = _read(root, component.index, _MAX_INDEX_BYTES, info)
            contents.indexes[component.index] = parse_index(raw, component.index, info.repo_id, listed)
            paths = contents.indexes[component.index].shards
        for path in paths:
            header = contents.headers[path] = _header(root, path, info, contents)
            budget.claim(path, header.header_bytes or 0)
            budget.add_tensors(len(header.tensors))
    return contents


def _root(ref: RepoRef) -> Path:
    if ref.local_path is None:
        raise SettingError(f"{shown(ref.original)} is a repo on the Hub, not a folder")
    try:
        root = Path(ref.local_path).expanduser()
        if root.is_dir():
            return root
    except (OSError, RuntimeError, ValueError):
        root = Path(ref.local_path)
    what = "is a file, not a folder" if root.is_file() else "is not a folder on this machine"
    raise RepoNotFoundError(
        f"{shown(ref.local_path)} {what}", hint="for a repo on the Hub write org/name", repo_id=ref.local_path
    )


def _read(root: Path, path: str, limit: int, info: RepoInfo) -> bytes:
    try:
        with (root / path).open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, info, error) from None
    if len(raw) > limit:
        raise CorruptHeaderError(
            f"{info.repo_id}: {shown(path)} is larger than the {limit:,} bytes allowed", repo_id=info.repo_id
        )
    return raw


def _header(root: Path, path: str, info: RepoInfo, contents: Contents) -> Header:
    try:
        with (root / path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if path.endswith(".gguf"):
                header, pairs = gguf_header(_spans(file), size, path, info.repo_id)
                contents.pairs = contents.pairs or pairs
                return header
            if not path.endswith(".safetensors"):
                return pickle_header(_spans(file), size, path, info.repo_id)
            length = header_length(file.read(LENGTH_BYTES), path, file_size=size, repo_id=info.repo_id)
            raw = file.read(length)
    except OSError as error:
        raise _unreadable(path, info, error) from None
    if len(raw) < length:
        raise corrupt(path, f"its header ends after {len(raw):,} of {length:,} bytes", info.repo_id)
    return parse_header(raw, path, file_size=size, repo_id=info.repo_id)


def _spans(file: BinaryIO) -> Fetch:
    """Pieces of an open file: read with the same limits as over the network."""

    def fetch(start: int, stop: int) -> bytes:
        file.seek(start)
        return file.read(stop - start)

    return fetch


def _unreadable(path: str, info: RepoInfo, error: OSError) -> EntryNotFoundError:
    return EntryNotFoundError(
        f"{info.repo_id}: {shown(path)} cannot be read ({error.strerror or type(error).__name__})",
        hint="check the file and its permissions",
        repo_id=info.repo_id,
    )
