"""Write docs/hub.md: each kind of repo, each fault and each limit, met on a Hub on loopback and written down.

The cases are those of the tests (tests/hub, tests/limits): ``python tools/hub.py`` runs them and prints what
they said. Needs the packages of the extra `test`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "hub.md"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "hub"), str(ROOT / "tests" / "limits")]

from fakehub import GRANTED, FakeHub, mounted_on_loopback  # noqa: E402
from fault_table import ANSWER, meet  # noqa: E402
from fault_table import TABLE as FAULTS  # noqa: E402
from locations import FIXTURES  # noqa: E402
from refusal_table import TABLE as REFUSALS  # noqa: E402
from refusal_table import refuse  # noqa: E402
from test_kinds import KINDS  # noqa: E402
from test_limits import MEGABYTES, REFUSED, REPO, SECONDS  # noqa: E402

from hubvram.client import Client  # noqa: E402
from hubvram.errors import HubvramError  # noqa: E402
from hubvram.report.inspection import Inspection  # noqa: E402
from hubvram.sources.transport import DEFAULT_TIMEOUT, RetryPolicy  # noqa: E402

INTRO = """\
# Any repo, any Hub

<!-- Written by tools/hub.py from the cases of the tests: `make docs`. -->

What hubvram makes of each kind of repo, and of a Hub that misbehaves. Every line was run on a Hub on loopback
that serves the headers of real repos; the tests hold each to what stands here.

It asks little: `config.json` once per commit, headers by ranges and never weights, one request where nothing has
changed. What is known by content is not asked for again: a commit that touches only the README costs no header.
"""

KIND_TEXT = """\
## Kinds of repo

Requests are those of a first run, redirects not counted; kB are all bodies together. `inspect` gives these
counts, exact, from the headers. *Stored* are elements in the files, *parameters* what the config means by them,
where packing makes the two differ.
"""

REFUSAL_TEXT = """\
## Repos without an answer

One line, one hint, and an exit code. As JSON the same: `{"repo_id", "error": {"code", "message", "hint"}}`.
"""

FAULT_TEXT = """\
## A Hub that misbehaves

Passing faults are tried again, {attempts} times in all, with pauses of {base:g} s doubled each time up to {cap:g} s,
and jitter. A rate limit is waited out as the Hub asks, by all requests together, where it asks for no more than
{max_wait:g} s; a line on stderr says so. A server that sends nothing for {timeout:g} s is given up
(`HF_HUB_DOWNLOAD_TIMEOUT`); `--timeout` limits everything together, and is off by default. A redirect keeps the
range and loses the token where it leads to another host. Proxies and certificates are those of the Hub's library
(`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`): a certificate that nobody vouches for ends the
run before anything is asked. Ctrl-C ends it at once, whatever the server does.

Requests are those that the Hub saw, of 3 for the small repo and 4 for the sharded one without a fault; three
tries stand for {attempts} here.
"""

LIMIT_TEXT = """\
## Repos that are too much

No repo takes more than {megabytes} MB of memory or {seconds} s, measured on whole processes. What is larger than
any model is refused before it is read or parsed. Configs of absurd values (types, sizes, NaN) give estimates that
are skipped, with the reason.
"""


def main() -> None:
    """Write the page, or a file named on the command line."""
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    place.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    policy = RetryPolicy()
    retries = {"attempts": policy.attempts, "base": policy.base, "cap": policy.cap, "max_wait": policy.max_wait}
    parts = [
        INTRO,
        KIND_TEXT,
        table(("kind", "repo", "requests", "kB", "stored", "parameters", "dtypes"), kinds()),
        REFUSAL_TEXT,
        table(("repo", "exit", "error", "hint"), refusals()),
        FAULT_TEXT.format(**retries, timeout=DEFAULT_TIMEOUT),
        table(("fault", "requests", "what becomes of it"), faults()),
        LIMIT_TEXT.format(megabytes=MEGABYTES, seconds=SECONDS),
        table(("what", "error"), limits()),
    ]
    text = "\n".join(parts)
    return text.replace(f"{REPO}: ", "").replace("http://HUB", "HUB")


def kinds() -> Iterator[tuple[str, ...]]:
    """A row per kind of repo."""
    for kind, (repo, options, *_) in KINDS.items():
        with case() as (hub, folder):
            found = inspect(hub, folder, repo, options)
            hub.weight_bytes  # noqa: B018 - waits until the server has sent all
            counts = found.parameters
            yield (
                kind,
                f"`{repo}`",
                str(len(hub.log)),
                f"{sum(r.sent for r in hub.log) / 1000:,.0f}",
                f"{counts.total:,}",
                f"{counts.logical_total:,}" if counts.logical_total != counts.total else "the same",
                ", ".join(counts.by_dtype),
            )


def inspect(hub: FakeHub, folder: Path, repo: str, options: dict[str, Any]) -> Inspection:
    """A first run."""
    with Client(endpoint=hub.url, db=folder / "cache.db", token=GRANTED, **options) as client:
        return client.inspect(repo)


def refusals() -> Iterator[tuple[str, ...]]:
    """A row per kind of repo that has no answer."""
    for name, refusal in REFUSALS.items():
        with case() as (hub, folder):
            said = refuse(refusal, hub, folder / "cache.db")
            yield name, str(said.exit_code), said.message, said.hint


def faults() -> Iterator[tuple[str, ...]]:
    """A row per fault."""
    for name, fault in FAULTS.items():
        with case() as (hub, folder):
            found = meet(fault, hub, folder / "cache.db")
            what = "the right answer" if found.code == ANSWER else f"`{found.code}`: {found.message}"
            yield name, str(found.requests), what


def limits() -> Iterator[tuple[str, ...]]:
    """A row per repo that is too much."""
    for name, (arrange, code) in REFUSED.items():
        with case() as (hub, folder):
            hub.inner.repo(REPO)
            arrange(hub)
            try:
                inspect(hub, folder, REPO, {})
            except HubvramError as error:
                host = hub.url.partition("//")[2]
                yield name, f"`{code}`: {error.message.replace(host, 'HUB')}"


class case:  # noqa: N801 - read as a with-statement's word
    """A fresh Hub and a folder for its cache."""

    def __enter__(self) -> tuple[FakeHub, Path]:
        self._folder = tempfile.TemporaryDirectory()
        self._mount = mounted_on_loopback(FakeHub.of(FIXTURES))
        return self._mount.__enter__(), Path(self._folder.name)

    def __exit__(self, *error: object) -> None:
        self._mount.__exit__(None, None, None)
        self._folder.cleanup()


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
