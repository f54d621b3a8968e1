"""A repo on the Hub: which commit, which files, and the headers of its weights.

Requests, cold: one for commit, listing and sizes; one for config.json; then
the headers (`hubvram.sources.reading`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from hubvram.errors import GatedRepoError, NetworkError, SettingError
from hubvram.snapshot.assemble import build_snapshot
from hubvram.snapshot.layout import choose
from hubvram.snapshot.limits import is_bulky, too_large
from hubvram.snapshot.records import Snapshot
from hubvram.snapshot.text import shown, storable
from hubvram.sources import model_api
from hubvram.sources.coarse import coarse_snapshot
from hubvram.sources.reading import BulkState, RepoReader
from hubvram.sources.records import Known, RepoInfo
from hubvram.sources.refs import DEFAULT_REVISION, RepoRef, Selection
from hubvram.sources.transport import RetryPolicy, Transport
from hubvram.sources.workers import Workers

WORKERS = 8
"""Header requests under way at once."""
_MAX_INFO_BYTES = 32_000_000
_MAX_FILES = 200_000
"""A listing has two objects a file, and at most eight values."""


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
        known: the cache, asked for files by their content.
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
        known: Known | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.transport = Transport(
            endpoint, token=token, timeout=timeout, policy=policy, deadline=deadline, on_wait=on_wait
        )
        self.allow_conversion_pr = allow_conversion_pr
        self._known = known
        self._bulk_seen = BulkState()
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
            repo_id=model_api.canonical(answer, ref.repo_id),
            commit_sha=sha,
            requested_revision=ref.requested_revision,
            files=model_api.listing(answer.get("siblings")),
            is_main_head=ref.revision in (None, DEFAULT_REVISION),
            metadata=model_api.metadata(answer),
            config_summary=model_api.config_summary(answer),
        )

    def _json(self, path: str, params: Mapping[str, str], repo_id: str, revision: str | None) -> dict[str, Any]:
        body, headers = self.transport.get_bytes(
            path, params, repo_id=repo_id, revision=revision, limit=_MAX_INFO_BYTES
        )
        if is_bulky(body, 2 * _MAX_FILES, 8 * _MAX_FILES):
            raise too_large(repo_id, f"is listed with more than {_MAX_FILES:,} files", repo_id)
        content = self._decode(body, headers, repo_id)
        if not isinstance(content, dict):
            raise self._strange(repo_id, "the answer is not a JSON object")
        return content

    def _decode(self, body: bytes, headers: Mapping[str, str], repo_id: str) -> Any:
        try:
            return storable(json.loads(body), body)
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

    def snapshot(self, ref: RepoRef, info: RepoInfo, selection: Selection | None = None) -> Snapshot:
        """Config and headers at ``info``'s commit.

        Where the repo is gated and this user has no access, but the Hub tells
        everybody how many parameters it has, those are the snapshot.

        Raises:
            NoSafetensorsError: if there is nothing to read.
            HubvramError: whatever stands in the way of reading.
        """
        warnings: list[str] = []
        extra: dict[str, Any] = {}
        chosen = selection or Selection()
        layout = choose(info.files, info.repo_id, variant=chosen.variant, file=chosen.file)
        if layout.format == "pickle" and chosen.is_default:
            pr = self._conversion(info) if self.allow_conversion_pr else None
            if pr is not None:
                info, layout = pr, choose(pr.files, pr.repo_id)
                extra["conversion_pr"] = pr.requested_revision
                warnings.append(
                    f"read from the pull request {pr.requested_revision} by {model_api.CONVERSION_BOT},"
                    " which nobody has merged"
                )
            elif self.allow_conversion_pr:
                warnings.append(
                    f"there is no open conversion pull request by {model_api.CONVERSION_BOT};"
                    " https://huggingface.co/spaces/safetensors/convert can make one"
                )
        try:
            contents = RepoReader(self.transport, self._workers, info, self._known, self._bulk_seen).read(layout)
        except GatedRepoError as refusal:
            coarse = coarse_snapshot(info, self.endpoint, ref.requested_revision, refusal)
            if coarse is None or not chosen.is_default:
                raise
            return coarse
        return build_snapshot(
            repo_id=info.repo_id,
            requested_revision=ref.requested_revision,
            commit_sha=info.commit_sha,
            endpoint=self.endpoint,
            source="hub",
            layout=layout,
            config=contents.config,
            headers=contents.headers,
            indexes=contents.indexes,
            listed=info.files,
            metadata={**info.metadata, **extra},
            pairs=contents.pairs,
            warnings=[*warnings, *contents.notes],
        )

    # -- conversions ----------------------------------------------------------

    def _conversion(self, info: RepoInfo) -> RepoInfo | None:
        """The repo at the bot's open conversion pull request; None where there is none."""
        path = f"/api/models/{info.repo_id}/discussions"
        listed = self._json(path, {"author": model_api.CONVERSION_BOT}, info.repo_id, None).get("discussions")
        for item in listed if isinstance(listed, list) else []:
            number = model_api.conversion_number(item)
            if number is None:
                continue
            found = self.resolve(RepoRef(info.repo_id, f"refs/pr/{number}", None, info.repo_id))
            if any(f.path.endswith(".safetensors") for f in found.files):
                return found
        return None
