"""The one error table: what each kind of exception becomes for the user."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from hubvram.cli.output import Output, hide_secrets, print_error
from hubvram.errors import HubvramError
from hubvram.report.formats import DATA_FORMATS, NAMES
from hubvram.report.page import Page

EXIT_CODES = {
    0: "ok",
    1: "some repos of several failed, or an unexpected error",
    2: "usage, a bad setting, or a cache that cannot be used",
    3: "repo, revision or file not found",
    4: "gated or not authorised",
    5: "network or rate limit",
    6: "nothing to read: no safetensors, unsupported, corrupt header",
    7: "offline and not cached",
    130: "interrupted (Ctrl-C)",
}
"""What the process returns; the README's table is held against this one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception in the words of the interface."""

    code: str
    message: str
    hint: str | None
    exit_code: int
    repo_id: str | None = None


def _hubvram(error: HubvramError) -> Failure:
    return Failure(error.code, error.message, error.hint, error.exit_code, error.repo_id)


def _usage(error: click.UsageError) -> Failure:
    command = error.ctx.command_path if error.ctx else "hubvram"
    return Failure("usage", error.format_message(), f"Try `{command} --help`.", 2)


def _click(error: click.ClickException) -> Failure:
    return Failure("usage", error.format_message(), None, 2)


def _interrupted(error: BaseException) -> Failure:
    return Failure("interrupted", "interrupted", None, 130)


def _memory(error: BaseException) -> Failure:
    return Failure("memory", "this machine ran out of memory", None, 1)


def _unexpected(error: Exception) -> Failure:
    text = " ".join(str(error).split()) or "no message"
    hint = "This is a bug in hubvram: HUBVRAM_DEBUG=1 prints the traceback to report."
    return Failure("internal", f"unexpected {type(error).__name__}: {text}", hint, 1)


TABLE: Sequence[tuple[type[BaseException], Callable[[Any], Failure]]] = (
    (HubvramError, _hubvram),
    (click.UsageError, _usage),  # before its base
    (click.ClickException, _click),
    (click.Abort, _interrupted),
    (KeyboardInterrupt, _interrupted),
    (MemoryError, _memory),
    (Exception, _unexpected),
)
"""First match wins: a subclass stands before its base."""


def failure_of(error: BaseException) -> Failure:
    """The exception in the words of the interface; one that is not in the table is raised again.

    Ctrl-C can come while a library tidies up, which then fails in its own way:
    what was raised in the wake of an interrupt is the interrupt.
    """
    if _in_the_wake_of_an_interrupt(error):
        return _interrupted(error)
    for kind, describe in TABLE:
        if isinstance(error, kind):
            return describe(error)
    raise error


def _in_the_wake_of_an_interrupt(error: BaseException) -> bool:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, KeyboardInterrupt):
            return True
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
    return False


def report(error: BaseException, arguments: Sequence[str]) -> int:
    """Print an error that ended the command, and give its exit code."""
    if os.environ.get("HUBVRAM_DEBUG"):
        sys.stderr.write(hide_secrets("".join(traceback.format_exception(error))))
    failure = failure_of(error)
    print_error(failure.message, failure.hint, name=failure.repo_id)
    name = asked_format(arguments)
    if name in DATA_FORMATS and failure.exit_code != 130:
        body = {"code": failure.code, "message": failure.message, "hint": failure.hint}
        page = Page(data={"repo_id": failure.repo_id, "error": body})
        Output(name).pages([page])
    return failure.exit_code


def asked_format(arguments: Sequence[str]) -> str:
    """The format that the command line asks for, read without parsing it: the error may be in the parsing."""
    found = os.environ.get("HUBVRAM_FORMAT", "table")
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--json":
            found = "json"
        elif argument.startswith("--format="):
            found = argument.partition("=")[2]
        elif argument in ("--format", "-f") and index + 1 < len(arguments):
            found = arguments[index + 1]
    return found if found in NAMES else "table"


def flush() -> None:
    """Write out what stdout still holds; a reader that has gone away is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        Output().write([""])
