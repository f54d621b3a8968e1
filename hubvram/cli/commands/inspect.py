"""`hubvram inspect REPO...`: what the headers say, without an estimate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from hubvram.cli.options import (
    CONTEXT,
    HubOptions,
    hub_options,
    output_options,
    revision_option,
    selection_options,
)
from hubvram.cli.output import Output, refuse
from hubvram.errors import GatedRepoError, HubvramError
from hubvram.report.page import Page


@click.command(context_settings=CONTEXT)
@click.argument("repos", nargs=-1, required=True, metavar="REPO...")
@click.option("--tensors", is_flag=True, help="List the tensors too, those alike in one line.")
@revision_option
@selection_options
@hub_options
@output_options
@click.pass_context
def inspect(ctx: click.Context, /, repos: tuple[str, ...], output: Output, **options: Any) -> None:
    """Exact parameters, dtypes and files of REPO.

    Also the architecture, and which files were ignored and why.
    """
    from hubvram.client import Client
    from hubvram.report.page import Page as ResultPage
    from hubvram.report.rows import INSPECT_FIELDS, inspection_page

    tensors = options.pop("tensors")
    hub = HubOptions(options, output)
    many = len(repos) > 1

    def pages() -> Iterator[Page]:
        with Client(**hub.keywords(), warn=output.warning, status=output.status) as client:
            for repo in repos:
                try:
                    inspection = client.inspect(repo, options["revision"])
                except HubvramError as error:
                    if not many:
                        raise
                    output.error(error, repo)
                    record = {"repo_id": repo, "error_code": error.code, "error_message": error.message}
                    data = {"repo_id": repo, "error": error.to_dict()}
                    yield ResultPage(data=data, records=[record], fields=INSPECT_FIELDS)
                else:
                    for warning in inspection.warnings:
                        output.warning(f"{inspection.repo_id}: {warning}")
                    yield inspection_page(inspection, unit=output.unit, tensors=tensors)
                    refuse(output, inspection.metadata.get("refusal"), inspection.repo_id)

    output.pages(pages(), many=many)
    if output.failed:
        ctx.exit(1 if many else GatedRepoError.exit_code)
