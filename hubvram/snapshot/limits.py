"""How much of a stranger's repo is read: limits that no model meets, so that no file can take all memory.

Parsed JSON takes many times the memory of its text: ``[],`` is three bytes in a
file and 64 in Python. So texts are limited twice, by bytes and by the values
that their punctuation can make, and both before anything is parsed.
"""

from __future__ import annotations

import threading

from hubvram.errors import HubvramError, UnsupportedError

MAX_TENSORS = 200_000
"""In all files of a repo. DeepSeek-V3 has 92,000, Kimi-K2 some 140,000."""
MAX_READ_BYTES = 32_000_000
"""Of all headers of a repo: 200,000 tensors take 25 MB. The format allows 100 MB a file."""
MAX_NAME = 2_000
"""Characters of a tensor's name."""
_HINT = "no known model is as large; hubvram does not read it"


def is_bulky(raw: bytes, containers: int, values: int) -> bool:
    """Whether a JSON text may hold more objects and lists, or more values, than allowed.

    Punctuation inside strings counts as well: the answer errs on the safe side.
    """
    return raw.count(b"{") + raw.count(b"[") > containers or raw.count(b",") > values


def too_large(where: str, what: str, repo_id: str | None = None) -> HubvramError:
    """The error for what is valid, perhaps, but larger than any model's."""
    return UnsupportedError(f"{where} {what}", hint=_HINT, repo_id=repo_id)


class Budget:
    """What the headers of one repo may take together. Threads share it.

    Args:
        repo_id: for the messages.
    """

    def __init__(self, repo_id: str | None) -> None:
        self._repo_id = repo_id
        self._where = repo_id or "the repo"
        self._claimed: dict[str, int] = {}
        self._tensors = 0
        self._lock = threading.Lock()

    def claim(self, path: str, length: int) -> None:
        """A header is about to be read; claiming it again changes nothing.

        Raises:
            UnsupportedError: if all of them are more than `MAX_READ_BYTES`.
        """
        with self._lock:
            self._claimed[path] = length
            total = sum(self._claimed.values())
        if total > MAX_READ_BYTES:
            # The same words whichever of several threads comes here first.
            what = f"is too much to read: its headers take more than {MAX_READ_BYTES:,} bytes together"
            raise too_large(self._where, what, self._repo_id)

    def add_tensors(self, count: int) -> None:
        """A header has been parsed.

        Raises:
            UnsupportedError: if all of them hold more than `MAX_TENSORS` tensors.
        """
        with self._lock:
            self._tensors += count
            total = self._tensors
        if total > MAX_TENSORS:
            raise too_large(
                self._where, f"is too much to read: it has more than {MAX_TENSORS:,} tensors", self._repo_id
            )
