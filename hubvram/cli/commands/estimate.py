"""`hubvram estimate REPO...`: memory per method."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import click

from hubvram.cli.options import (
    CONTEXT,
    HubOptions,
    gpu_option,
    hub_options,
    output_options,
    revision_option,
    selection_options,
    setting_options,
    take_settings,
)
from hubvram.cli.output import Output, refuse
from hubvram.errors import GatedRepoError, HubvramError, RepoNotFoundError
from hubvram.report.page import Page

SHOWN = (
    "full",
    "freeze",
    "lora",
    "lora_int8",
    "qlora",
    "dora",
    "prefix_tuning",
    "prompt_tuning",
    "p_tuning",
    "p_tuning_v2",
    "adapter",
    "inference",
)
"""What a table shows where no method is named: the seed guide's methods and two that people ask for. Data have all."""


@click.command(context_settings=CONTEXT)
@click.argument("repos", nargs=-1, required=True, metavar="REPO...")
@setting_options
@gpu_option
@revision_option
@selection_options
@hub_options
@click.option("--all", "all_", is_flag=True, help="Every method in the table, not the usual ones only.")
@click.option("--explain", is_flag=True, help="Take every figure apart: what is alive at the peak, and why.")
@click.option("--rule-of-thumb", is_flag=True, help="Add the guide's figure: parameters in billions x 2 x 2 GB.")
@output_options
@click.pass_context
def estimate(ctx: click.Context, /, repos: tuple[str, ...], output: Output, **options: Any) -> None:
    """GPU memory that each fine-tuning method takes on REPO.

    REPO is org/name, org/name@revision, hf://org/name, a huggingface.co URL, or a local folder (./dir).
    """
    from hubvram.client import Client
    from hubvram.gpus import resolve
    from hubvram.plan.methods import names
    from hubvram.report.estimates import View, error_page, report_page

    settings, methods = take_settings(options)
    more = 0
    if not options.pop("all_") and methods is None and output.format in ("table", "markdown"):
        known = names()
        methods = tuple(name for name in known if name in SHOWN)
        more = len(known) - len(methods)
    gpus = options.pop("gpus")
    cards = resolve(gpus)
    view = View(
        output.unit, options.pop("explain"), options.pop("rule_of_thumb"), per_gpu=0 < len(gpus) <= 3, more_methods=more
    )
    hub = HubOptions(options, output)
    many = len(repos) > 1

    def pages() -> Iterator[Page]:
        with Client(**hub.keywords(), warn=output.warning, status=output.status) as client:
            for repo in repos:
                try:
                    report = client.estimate(
                        repo, methods, options["revision"], gpus=cards, explain=view.explain, settings=settings
                    )
                except HubvramError as error:
                    _suggest_command(error, repo)
                    if not many:
                        raise
                    output.error(error, repo)
                    yield error_page(repo, error)
                else:
                    for warning in report.warnings:
                        output.warning(f"{report.repo_id}: {warning}")
                    yield report_page(report, view)
                    refuse(output, report.error, report.repo_id)

    output.pages(pages(), many=many)
    if output.failed:
        ctx.exit(1 if many else GatedRepoError.exit_code)


def _suggest_command(error: HubvramError, repo: str) -> None:
    """A word that is neither a repo nor a command may be a command mistyped."""
    from hubvram.cli.main import COMMANDS

    near = difflib.get_close_matches(repo, COMMANDS, n=1, cutoff=0.75)
    if near and isinstance(error, RepoNotFoundError):
        error.hint = f"Did you mean the command `hubvram {near[0]}`?"
