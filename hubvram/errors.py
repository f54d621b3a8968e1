"""The exceptions of hubvram, all in one tree.

::

    HubvramError                     code              exit
    ├── SettingError                 bad_setting          2
    ├── StoreError                   store                2
    │   └── SchemaTooNewError        schema_too_new       2
    ├── NotFoundError                not_found            3
    │   ├── RepoNotFoundError        repo_not_found       3
    │   ├── RevisionNotFoundError    revision_not_found   3
    │   └── EntryNotFoundError       entry_not_found      3
    ├── AccessError                  not_authorised       4
    │   ├── GatedRepoError           gated                4
    │   └── DisabledRepoError        disabled             4
    ├── NetworkError                 network              5
    │   └── RateLimitError           rate_limited         5
    ├── NothingToReadError           nothing_to_read      6
    │   ├── NoSafetensorsError       no_safetensors       6
    │   ├── CorruptHeaderError       corrupt_header       6
    │   ├── BadConfigError           bad_config           6
    │   └── UnsupportedError         unsupported          6
    └── OfflineError                 offline              7

``code`` and ``exit_code`` are part of the interface: ``code`` is what the JSON
error object carries, ``exit_code`` what the process returns. A message says
what happened and to which repo or file, in one line; ``hint`` says what to do
next, in one line, or is ``None``.
"""

from __future__ import annotations


class HubvramError(Exception):
    """Base of every error that hubvram raises on purpose."""

    code: str = "error"
    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None, repo_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.repo_id = repo_id

    def to_dict(self) -> dict[str, object]:
        """The JSON error object of the interface: code, message, hint."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class SettingError(HubvramError):
    """A setting, option or argument has a value that cannot be used."""

    code = "bad_setting"
    exit_code = 2


class StoreError(HubvramError):
    """The cache database cannot be opened, read or written."""

    code = "store"
    exit_code = 2


class SchemaTooNewError(StoreError):
    """The cache was written by a newer hubvram than this one."""

    code = "schema_too_new"


class NotFoundError(HubvramError):
    """A repo, revision or file does not exist."""

    code = "not_found"
    exit_code = 3


class RepoNotFoundError(NotFoundError):
    """The Hub (or the disk) has no such repo, or does not show it to this token."""

    code = "repo_not_found"


class RevisionNotFoundError(NotFoundError):
    """The repo exists, the branch, tag or commit does not."""

    code = "revision_not_found"


class EntryNotFoundError(NotFoundError):
    """The repo and revision exist, the file does not."""

    code = "entry_not_found"


class AccessError(HubvramError):
    """The Hub refuses this user."""

    code = "not_authorised"
    exit_code = 4


class GatedRepoError(AccessError):
    """The repo asks its readers to accept conditions first."""

    code = "gated"


class DisabledRepoError(AccessError):
    """The Hub's staff or the author has disabled the repo."""

    code = "disabled"


class NetworkError(HubvramError):
    """The Hub cannot be reached or answers with a server error."""

    code = "network"
    exit_code = 5


class RateLimitError(NetworkError):
    """The Hub answers 429 and the wait it asks for is too long."""

    code = "rate_limited"


class NothingToReadError(HubvramError):
    """The repo is there, but holds nothing that hubvram can count."""

    code = "nothing_to_read"
    exit_code = 6


class NoSafetensorsError(NothingToReadError):
    """The repo has no safetensors file in the layout that transformers would load."""

    code = "no_safetensors"


class CorruptHeaderError(NothingToReadError):
    """A safetensors header, or its index, breaks the format's promises."""

    code = "corrupt_header"


class BadConfigError(NothingToReadError):
    """config.json is not JSON, or not a JSON object."""

    code = "bad_config"


class UnsupportedError(NothingToReadError):
    """The repo is readable, but is of a kind that hubvram does not handle."""

    code = "unsupported"


class OfflineError(HubvramError):
    """Offline mode is on and the cache does not have what was asked for."""

    code = "offline"
    exit_code = 7
