"""The `hubvram` command: its group, its default command, and the way out.

Nothing heavier than click is imported here or by a command's module: help and
completion must answer at once. Each command imports what it needs when it runs.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from hubvram.cli import errors
from hubvram.version import __version__

COMMANDS = {
    "estimate": "hubvram.cli.commands.estimate",
    "inspect": "hubvram.cli.commands.inspect",
    "scan": "hubvram.cli.commands.scan",
    "fit": "hubvram.cli.commands.fit",
    "recommend": "hubvram.cli.commands.recommend",
    "sql": "hubvram.cli.commands.sql",
    "cache": "hubvram.cli.commands.cache",
    "methods": "hubvram.cli.commands.catalogues",
    "gpus": "hubvram.cli.commands.catalogues",
    "optimizers": "hubvram.cli.commands.catalogues",
    "stacks": "hubvram.cli.commands.catalogues",
    "architectures": "hubvram.cli.commands.catalogues",
}
"""Command -> module that holds it under its own name, in the order of the help."""

DEFAULT = "estimate"
_OWN_OPTIONS = ("--help", "-h", "--version")


class DefaultGroup(click.Group):
    """A group that loads its commands when asked for them, and takes what is no command as a repo."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, its module imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front of anything that is neither a command nor the group's own option."""
        if args and args[0] not in COMMANDS and args[0] not in _OWN_OPTIONS:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Both forms: a repo, and a command."""
        formatter.write_usage(ctx.command_path, "REPO... [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="   or: ")


@click.group(
    cls=DefaultGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HUBVRAM", "max_content_width": 100},
    epilog="`hubvram REPO` is `hubvram estimate REPO`; see `hubvram estimate --help` for the settings.",
)
@click.version_option(__version__, prog_name="hubvram", allow_from_autoenv=False)
def cli() -> None:
    """How much GPU memory fine-tuning a Hugging Face model takes, from its headers alone.

    REPO is org/name, org/name@revision, hf://org/name, a huggingface.co URL, or a local folder (./dir).
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. Prints errors, raises nothing but what ends the process."""
    # What SQLAlchemy meets while it closes a connection at Ctrl-C is for the log (-vv), not for the screen.
    logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())
    try:
        result = cli.main(args=list(arguments), prog_name="hubvram", standalone_mode=False)
        errors.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except BaseException as error:  # noqa: BLE001 - the one place where every exception gets its words
        return errors.report(error, arguments)
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
