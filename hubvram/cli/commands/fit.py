"""`hubvram fit REPO --gpu NAME`: what fits on a card, and how far the settings can go."""

from __future__ import annotations

from typing import Any

import click

from hubvram.cli.commands.estimate import SHOWN
from hubvram.cli.options import (
    CONTEXT,
    HubOptions,
    card_option,
    hub_options,
    output_options,
    revision_option,
    selection_options,
    setting_options,
    take_settings,
)
from hubvram.cli.output import Output, refuse
from hubvram.errors import GatedRepoError


@click.command(context_settings=CONTEXT)
@click.argument("repo", metavar="REPO")
@card_option
@setting_options
@revision_option
@selection_options
@hub_options
@click.option("--all", "all_", is_flag=True, help="Every method in the table, not the usual ones only.")
@output_options
@click.pass_context
def fit(ctx: click.Context, /, repo: str, output: Output, **options: Any) -> None:
    """What fits on a card, and how far it goes.

    For each method: whether it fits, and the largest batch, sequence and LoRA rank that do, each
    with all other settings fixed. For one that does not fit: what it lacks, and the cheapest
    single change that makes it fit.

    With --num-gpus and --strategy, each card is one of so many.
    """
    from hubvram.advising import fit_with
    from hubvram.client import Client
    from hubvram.gpus import resolve
    from hubvram.plan.methods import names
    from hubvram.report.advice import fit_page

    settings, methods = take_settings(options)
    named = methods is not None
    more = 0
    if not options.pop("all_") and methods is None and output.format in ("table", "markdown"):
        known = names()
        methods = tuple(name for name in known if name in SHOWN)
        more = len(known) - len(methods)
    cards = resolve(options.pop("gpus"))
    hub = HubOptions(options, output)
    with Client(**hub.keywords(), warn=output.warning, status=output.status) as client:
        result = fit_with(client, repo, cards, methods, options["revision"], settings, strict=named)
    for warning in result.report.warnings:
        output.warning(f"{result.report.repo_id}: {warning}")
    output.pages([fit_page(result, output.unit, more_methods=more)])
    refuse(output, result.report.error, result.report.repo_id)
    if output.failed:
        ctx.exit(GatedRepoError.exit_code)
