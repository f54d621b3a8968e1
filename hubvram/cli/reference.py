"""`python -m hubvram.cli.reference`: docs/cli.md, written from the commands themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from hubvram.cli.errors import EXIT_CODES
from hubvram.cli.main import COMMANDS, cli

ENVIRONMENT = {
    "HUBVRAM_DB": "the cache: a path or a SQLAlchemy URL (`--db`)",
    "HUBVRAM_DEBUG": "not empty: print the traceback of an error",
    "HF_ENDPOINT": "the Hub to ask (`--endpoint`)",
    "HF_TOKEN": "access token for gated and private repos; else the one of `hf auth login`",
    "HF_HUB_OFFLINE": "`1`: ask nobody (`--offline`); TRANSFORMERS_OFFLINE does the same",
    "HF_HUB_DOWNLOAD_TIMEOUT": "seconds without a byte before a request is tried again; 10",
    "HF_HUB_DISABLE_PROGRESS_BARS": "`1`: no progress bars",
    "XDG_CACHE_HOME": "folder that holds `hubvram/hubvram.db` where HUBVRAM_DB is not set",
    "NO_COLOR": "not empty: no colour; FORCE_COLOR: colour even into a pipe; TERM=dumb: none",
}
"""Variables that are no option's; every option ``--some-name`` also has ``HUBVRAM_SOME_NAME``."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, subcommands behind their group."""
    context = click.Context(cli, info_name="hubvram")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None  # noqa: S101 - COMMANDS names what get_command finds
        yield f"hubvram {name}", command
        if isinstance(command, click.Group):
            for sub, subcommand in command.commands.items():
                yield f"hubvram {name} {sub}", subcommand


def variable(option: click.Option) -> str | None:
    """The environment variable of an option, None for one that has none."""
    if not option.allow_from_autoenv or option.name in (None, "help"):
        return None
    return f"HUBVRAM_{option.name.rstrip('_').upper()}" if option.envvar is None else str(option.envvar)


def help_text(name: str, command: click.Command) -> str:
    """What ``--help`` prints, at a width of its own."""
    parent = _context(cli, "hubvram")
    info_name = name.removeprefix("hubvram").strip()
    if not info_name:
        return cli.get_help(parent)
    return command.get_help(_context(command, info_name, parent))


def _context(command: click.Command, info_name: str, parent: click.Context | None = None) -> click.Context:
    """As the command line makes it, but at a width of its own."""
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    return click.Context(command, info_name=info_name, parent=parent, **settings)


def markdown() -> str:
    """The whole page."""
    parts = [
        "# Command line\n",
        "Written by `python -m hubvram.cli.reference docs/cli.md`; a test holds it against the commands.\n",
        "```text\n" + help_text("hubvram", cli) + "\n```\n",
    ]
    parts += [f"## {name}\n\n```text\n{help_text(name, command)}\n```\n" for name, command in commands()]
    parts.append("## Environment\n")
    parts.append(
        "Every option can be set by a variable: `--batch-size` by `HUBVRAM_BATCH_SIZE`, in every command that has it. "
        "The command line wins. Beside these:\n"
    )
    parts.append("| variable | meaning |\n|---|---|")
    parts += [f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items()]
    parts.append("\n| option | variable |\n|---|---|")
    parts += [f"| `{flag}` | `{name}` |" for flag, name in sorted(option_variables().items())]
    parts.append("\n## Exit codes\n\n| code | meaning |\n|---|---|")
    parts += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(parts) + "\n"


def option_variables() -> dict[str, str]:
    """Flag -> variable, over all commands."""
    found: dict[str, str] = {}
    for _, command in commands():
        for param in command.params:
            name = variable(param) if isinstance(param, click.Option) else None
            if name:
                found[max(param.opts, key=len)] = name
    return found


def main(arguments: list[str]) -> None:
    """Write the page to the file named, or to stdout."""
    if arguments:
        Path(arguments[0]).write_text(markdown(), encoding="utf-8")
    else:
        sys.stdout.write(markdown())


if __name__ == "__main__":
    main(sys.argv[1:])
