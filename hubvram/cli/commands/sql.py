"""`hubvram sql QUERY|-`: read-only SQL over the cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import click

from hubvram.cli.options import CONTEXT, db_option, output_options
from hubvram.cli.output import Output


@click.command(context_settings=CONTEXT)
@click.argument("query", metavar="QUERY|-")
@db_option
@output_options
def sql(query: str, db: str | None, output: Output) -> None:
    """Ask the cache a question in SQL.

    It can only be read. `-` takes the query from stdin.

    The views are models, parameters, tensors, estimates, files, errors and scans.

    Example: hubvram sql "select method, total_gib from estimates where repo_id = 'gpt2'"
    """
    print_query(output, db, sys.stdin.read() if query == "-" else query)


def print_query(output: Output, db: str | None, text: str) -> None:
    """Run a query on the cache and print its rows, as they are read where the format allows it."""
    from hubvram.report.rows import rows_page
    from hubvram.store.query import run_query

    result = run_query(db, text)
    if output.format in ("ndjson", "csv", "tsv"):
        # A pipe may have had enough after ten rows of a million.
        output.pages(rows_page(result.columns, chunk) for chunk in _chunks(result.rows))
    else:
        output.pages([rows_page(result.columns, list(result.rows))])


def _chunks(rows: Iterator[tuple[Any, ...]], size: int = 500) -> Iterator[list[tuple[Any, ...]]]:
    """At least one chunk, so that a result without rows still has its header."""
    while chunk := list(islice(rows, size)):
        yield chunk
    yield []
