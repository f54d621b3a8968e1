"""The one sink: data on stdout, everything else on stderr. Commands never print."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

import click

from hubvram.errors import GatedRepoError, HubvramError
from hubvram.report.formats import DATA_FORMATS, render
from hubvram.report.page import Page
from hubvram.report.text import UNITS, clean

_SECRET = re.compile(r"((?i:bearer)\s+|\bhf_)[A-Za-z0-9_.=+/~-]{20,}")
_given: set[str] = set()
_ASCII = str.maketrans({"\u00b7": "-", "\u2026": "...", "\u2013": "-", "\u2014": "-", "\u00d7": "x"})


class Output:
    """Where a command's results, warnings and errors go.

    Args:
        format: one of `hubvram.report.formats.NAMES`.
        unit: unit of the figures for people.
        quiet: no warnings, hints or progress; errors stay.
        verbose: 0, 1 (hubvram's own log on stderr) or 2 (the libraries' too).
    """

    def __init__(self, format: str = "table", unit: str = "GiB", *, quiet: bool = False, verbose: int = 0) -> None:  # noqa: A002 - the option's name
        if unit not in UNITS:
            raise ValueError(f"no such unit: {unit}")
        self.format = format
        self.unit = unit
        self.quiet = quiet
        self.failed = 0
        if verbose:
            _log_to_stderr(verbose)

    @property
    def is_data(self) -> bool:
        """Whether the format is JSON: errors then also become objects on stdout."""
        return self.format in DATA_FORMATS

    def pages(self, pages: Iterable[Page], *, many: bool = False) -> None:
        """Print results, each as soon as it is there.

        Raises:
            click.exceptions.Exit: with code 0 when the reader has gone away
                (`| head`): nothing is wrong, and nothing more is wanted.
        """
        self.write(render(self.format, pages, many=many))

    def write(self, pieces: Iterable[str]) -> None:
        """Print text on stdout, flushed piece by piece so that a pipe sees it at once."""
        for piece in pieces:
            try:
                sys.stdout.write(encodable(piece, sys.stdout))
                sys.stdout.flush()
            except BrokenPipeError:
                _forget_stdout()
                raise click.exceptions.Exit(0) from None

    def warning(self, message: str) -> None:
        """Something the reader should know of, though there is a result."""
        if not self.quiet:
            _stderr(f"{paint('Warning:', 'yellow')} {clean(message)}")

    def status(self, message: str) -> None:
        """What is going on, for a person who waits."""
        if not self.quiet:
            _stderr(clean(message))

    def error(self, error: HubvramError, repo_id: str | None = None) -> None:
        """One line, and at most one hint."""
        self.failed += 1
        print_error(error.message, error.hint, name=repo_id)

    def progress_wanted(self) -> bool:
        """Whether a progress bar may be drawn: a terminal, not quiet, not switched off for the Hub's tools."""
        disabled = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in ("1", "ON", "YES", "TRUE")
        return not self.quiet and not disabled and sys.stderr.isatty()


def print_error(message: str, hint: str | None = None, *, name: str | None = None) -> None:
    """`Error: ...` on stderr, then the hint. A message that does not name the repo gets it in front."""
    text = f"{name}: {message}" if name and name not in message else message
    _stderr(f"{paint('Error:', 'red')} {clean(text)}")
    if hint:
        _stderr(f"{paint('Hint:', 'cyan')} {clean(hint)}")


def refuse(output: Output, refusal: Mapping[str, Any] | None, repo_id: str) -> None:
    """Say why a result is only a part: the repo is gated, and what is shown is what everybody may see."""
    if refusal is not None:
        output.error(GatedRepoError(str(refusal["message"]), hint=refusal["hint"]), repo_id)


def encodable(text: str, stream: TextIO) -> str:
    """Text that the stream's encoding takes: typographic characters give way to ASCII, others are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text


def paint(text: str, colour: str) -> str:
    """Colour on stderr, where the terminal and the reader want it (NO_COLOR, FORCE_COLOR, TERM=dumb)."""
    wanted = bool(os.environ.get("FORCE_COLOR")) or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb")
    return click.style(text, fg=colour) if wanted and not os.environ.get("NO_COLOR") else text


def lines(stream: Iterable[str]) -> Iterator[str]:
    """Lines of an input without their ends."""
    return (line.rstrip("\r\n") for line in stream)


def keep_secret(token: str) -> None:
    """A token given on the command line: `hide_secrets` knows it from now on."""
    _given.add(token)


def hide_secrets(text: str) -> str:
    """Text without tokens: those given, the environment's or the login's, and what looks like one.

    The transport keeps the token out of every message. This is for what is
    printed but not ours: a library's log, a traceback, a server that echoes.
    """
    wire = sys.modules.get("hubvram.sources.wire")  # where it has not been imported, no token has been read
    for token in _given | getattr(wire, "TOKENS", set()):
        if len(token) > 3:
            text = text.replace(token, "***")
    return _SECRET.sub(r"\1***", text)


class _Formatter(logging.Formatter):
    """A log line, and its traceback, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return hide_secrets(super().format(record))


def _stderr(line: str) -> None:
    try:
        sys.stderr.write(encodable(hide_secrets(line), sys.stderr) + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        # Nobody reads the messages; the result on stdout is still wanted.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - lives until the process ends


def _forget_stdout() -> None:
    """Point the descriptor at nothing, so that the interpreter's last flush does not complain."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # a stdout without a descriptor (tests) needs no care
        return


def _log_to_stderr(verbose: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(name)s: %(message)s"))
    logger = logging.getLogger() if verbose > 1 else logging.getLogger("hubvram")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG)
