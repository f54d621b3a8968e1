"""Where the cache is: argument, then ``HUBVRAM_DB``, then the user's cache folder.

Imports nothing heavy, so that ``hubvram cache path`` stays instant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

DB_VARIABLE = "HUBVRAM_DB"
FILE_NAME = "hubvram.db"

_SECRET_IN_QUERY = re.compile(r"(?i)([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)[^&]*")
_SECRET_IN_AUTHORITY = re.compile(r"^([A-Za-z0-9+_.-]+://[^:/?#@]*):[^/?#]*@")


def default_path(environ: Mapping[str, str] | None = None) -> Path:
    """The cache file where nothing else is said: ``$XDG_CACHE_HOME/hubvram/hubvram.db`` or the system's like."""
    env = os.environ if environ is None else environ
    xdg = env.get("XDG_CACHE_HOME", "")
    # The XDG specification tells programs to ignore relative paths here.
    if xdg and Path(xdg).is_absolute():
        return Path(xdg) / "hubvram" / FILE_NAME
    import platformdirs

    return platformdirs.user_cache_path("hubvram", appauthor=False) / FILE_NAME


def location(db: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> str:
    """The cache as a SQLAlchemy URL or an absolute path, from the argument, the environment or the default.

    Text with ``://`` in it is a URL and is returned as it is (secrets and
    all: pass it through `masked` before showing it); anything else is a path.
    """
    env = os.environ if environ is None else environ
    given = os.fspath(db) if db else env.get(DB_VARIABLE, "")
    if not given:
        return str(default_path(env))
    if "://" in given:
        return given
    # Not Path.expanduser, which fails where there is no home folder.
    return str(Path(os.path.expanduser(given)).absolute())  # noqa: PTH111


def masked(where: str) -> str:
    """A location with every password in it replaced by ``***``, fit for messages."""
    if "://" not in where:
        return where
    return _SECRET_IN_QUERY.sub(r"\1***", _SECRET_IN_AUTHORITY.sub(r"\1:***@", where))
