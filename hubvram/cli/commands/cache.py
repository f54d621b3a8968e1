"""`hubvram cache ...`: where the cache is, what it holds, and its upkeep."""

from __future__ import annotations

import click

from hubvram.cli.options import CONTEXT, db_option, output_options
from hubvram.cli.output import Output

VIEWS = (
    "models",
    "parameters",
    "tensors",
    "estimates",
    "files",
    "errors",
    "scans",
    "model_history",
    "estimate_history",
)
"""The public views; a test holds them against `hubvram.store.views`, which is too heavy to import for a help text."""


@click.group(context_settings=CONTEXT)
def cache() -> None:
    """Where the cache is, what it holds, and its upkeep."""


@cache.command(context_settings=CONTEXT)
@db_option
@output_options
def path(db: str | None, output: Output) -> None:
    """Print where the cache is (or would be), passwords masked."""
    from hubvram.report.page import Page
    from hubvram.store.location import location, masked

    where = masked(location(db))
    record = {"path": where}
    output.pages([Page(data=record, records=[record], head=(where,))])


@cache.command(context_settings=CONTEXT)
@db_option
@output_options
def stats(db: str | None, output: Output) -> None:
    """Print what the cache holds."""
    from hubvram.report.rows import facts_page
    from hubvram.store import open_store

    with open_store(db, create=False) as store:
        found = store.stats().to_dict()
    output.pages([facts_page(found)])


@cache.command(context_settings=CONTEXT)
@db_option
@output_options
def migrate(db: str | None, output: Output) -> None:
    """Make the cache, or bring its schema up to this version (every command does so by itself)."""
    from hubvram.report.rows import facts_page
    from hubvram.store import open_store

    with open_store(db) as store:
        found = store.stats()
    output.pages([facts_page({"location": found.location, "schema_version": found.schema_version})])


@cache.command(context_settings=CONTEXT)
@db_option
@output_options
@click.pass_context
def check(ctx: click.Context, /, db: str | None, output: Output) -> None:
    """Look for damage: the file, its references, sums that must agree. Exit code 1 if there is any."""
    from hubvram.report.page import Page
    from hubvram.store import open_store

    with open_store(db, create=False) as store:
        problems = store.check()
        where = store.where
    data = {"location": where, "ok": not problems, "problems": problems}
    head = tuple(problems) or (f"{where}: sound",)
    records = [{"problem": problem} for problem in problems]
    output.pages([Page(data=data, records=records, head=head, fields=("problem",))])
    if problems:
        ctx.exit(1)


@cache.command(context_settings=CONTEXT)
@click.option(
    "--unchecked-days",
    type=click.IntRange(min=0),
    metavar="N",
    help="Also remove what the Hub has not confirmed for N days.",
)
@db_option
@output_options
def prune(unchecked_days: int | None, db: str | None, output: Output) -> None:
    """Remove commits that no branch points at any more and superseded estimates; give the space back."""
    from hubvram.report.rows import facts_page
    from hubvram.store import open_store

    with open_store(db, create=False) as store:
        found = store.prune(unchecked_days=unchecked_days).to_dict()
    output.pages([facts_page(found)])


@cache.command(context_settings=CONTEXT)
@click.argument("view", type=click.Choice(VIEWS))
@db_option
@output_options
def export(view: str, db: str | None, output: Output) -> None:
    """Print every row of VIEW, for another program: `hubvram cache export estimates --format csv`."""
    from hubvram.cli.commands.sql import print_query

    print_query(output, db, f"select * from {view}")  # noqa: S608 - a name of VIEWS, checked by click
