"""A gated repo seen from outside: what the Hub tells everybody of its parameters, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubvram.errors import GatedRepoError
from hubvram.snapshot.dtypes import DTYPE_BITS
from hubvram.snapshot.files import Layout, describe_files
from hubvram.snapshot.records import Snapshot, TensorInfo
from hubvram.sources.records import RepoInfo

_WHAT_IS_LEFT = "the repo is gated: figures are lower bounds, from the parameter counts that the Hub shows to everybody"
NAME = "(all of {dtype})"
"""Name of the one tensor per dtype that stands for those whose shapes are not known."""


def coarse_snapshot(info: RepoInfo, endpoint: str, revision: str, refusal: GatedRepoError) -> Snapshot | None:
    """A snapshot of one tensor per dtype, from the description's ``safetensors`` field; None where it has none.

    ``metadata["layout"]`` is ``summary`` and ``metadata["refusal"]`` the error
    that stands in the way of more. Such a snapshot is never kept in the cache.
    """
    counts = _counts(info.metadata.get("safetensors"))
    if not counts:
        return None
    tensors = tuple(TensorInfo(NAME.format(dtype=d), d, (n,), "") for d, n in counts.items())
    return Snapshot(
        repo_id=info.repo_id,
        requested_revision=revision,
        commit_sha=info.commit_sha,
        endpoint=endpoint,
        source="hub",
        config=dict(info.config_summary),
        tensors=tensors,
        files=describe_files(info.files, Layout("model", (), None), {}),
        metadata={**info.metadata, "layout": "summary", "refusal": refusal.to_dict()},
        warnings=(_WHAT_IS_LEFT,),
    )


def _counts(totals: Any) -> dict[str, int]:
    """Elements by dtype; nothing where one of them cannot be."""
    parameters = totals.get("parameters") if isinstance(totals, Mapping) else None
    if not isinstance(parameters, Mapping) or not parameters:
        return {}
    plain = all(d in DTYPE_BITS and type(n) is int and 0 <= n < 2**60 for d, n in parameters.items())
    return dict(parameters) if plain else {}
