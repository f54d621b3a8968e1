"""Snapshots from a folder of configs and headers, without any Hub.

``DIR/<org>/<name>/config.json`` and ``headers/<file>.json.gz`` (or
``headers_if_converted`` for repos that publish no safetensors themselves).
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from hubvram.errors import RepoNotFoundError
from hubvram.snapshot.layout import ListedFile, choose
from hubvram.snapshot.records import Snapshot, TensorInfo


def load(root: Path, repo_id: str, revision: str = "main") -> Snapshot:
    """The snapshot of ``repo_id`` in a library folder.

    Args:
        root: the library.
        repo_id: ``org/name``.
        revision: ``refs/pr/<n>`` reads the headers that a pull request adds, from the folder of that name.

    Raises:
        RepoNotFoundError: no such folder, or no headers in it.
    """
    repo = root / repo_id
    folder = repo if revision == "main" else repo / revision
    headers = next((d for d in (folder / "headers", folder / "headers_if_converted") if d.is_dir()), None)
    if headers is None:
        raise RepoNotFoundError(f"{repo_id}: no headers under {folder}", repo_id=repo_id)
    paths = {str(p.relative_to(headers))[: -len(".json.gz")]: p for p in sorted(headers.rglob("*.json.gz"))}
    indexes = [str(p.relative_to(base)) for base in (folder, headers) for p in base.rglob("*.index.json")]
    component = choose([ListedFile(p) for p in [*paths, *indexes]], repo_id).components[0]
    wanted = [component.single] if component.single else [p for p in paths if _is_shard(p, component.index)]
    tensors: list[TensorInfo] = []
    for path in wanted:
        with gzip.open(paths[path], "rt", encoding="utf-8") as file:
            for name, entry in json.load(file).items():
                if name != "__metadata__":
                    tensors.append(TensorInfo(name, entry["dtype"], tuple(entry["shape"]), path))
    config = json.loads((repo / "config.json").read_text(encoding="utf-8"))
    return Snapshot(repo_id, revision, None, None, "local", config, tuple(tensors))


def _is_shard(path: str, index: str | None) -> bool:
    stem = (index or "").split(".safetensors")[0]
    return path.startswith(f"{stem}-") and path.endswith(".safetensors")
