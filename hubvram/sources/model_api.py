"""The Hub's description of a model, taken apart: id, files, card, pull requests. Everything in it is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hubvram.snapshot.layout import ListedFile, is_plain_path

CONVERSION_BOT = "SFconvertbot"


def canonical(answer: Mapping[str, Any], asked: str) -> str:
    """The id that the Hub itself uses; it differs after a rename."""
    found = answer.get("id") or answer.get("modelId")
    plain = isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,96}(/[A-Za-z0-9_.-]{1,96})?", found)
    return found if isinstance(found, str) and plain and ".." not in found else asked


def listing(siblings: Any) -> tuple[ListedFile, ...]:
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


def metadata(answer: Mapping[str, Any]) -> dict[str, Any]:
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


def conversion_number(item: Any) -> int | None:
    """The number of an open pull request by the conversion bot, else None."""
    if not isinstance(item, dict) or item.get("isPullRequest") is not True or item.get("status") != "open":
        return None
    author = item.get("author")
    name = author.get("name") if isinstance(author, dict) else author
    number = item.get("num")
    if name != CONVERSION_BOT or type(number) is not int or number < 1:
        return None
    return number if "safetensors" in str(item.get("title", "")).lower() else None


def config_summary(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The few keys of config.json that the description repeats: they are public where the file is gated."""
    config = answer.get("config")
    if not isinstance(config, dict):
        return {}
    return {k: config[k] for k in ("architectures", "model_type", "quantization_config") if k in config}
