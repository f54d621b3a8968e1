"""`hubvram recommend REPO`: goal -> method -> cards."""

from __future__ import annotations

from typing import Any

import click

from hubvram.cli.options import (
    CONTEXT,
    HubOptions,
    hub_options,
    output_options,
    revision_option,
    selection_options,
    setting_options,
    stock_option,
    take_settings,
)
from hubvram.cli.output import Output, refuse
from hubvram.errors import GatedRepoError

GOALS = ("best_quality", "balance", "smallest_card", "fastest_to_try")
"""As `hubvram.advice.goals.names()`, which is too heavy to import for a help text; a test holds the two together."""


@click.command(context_settings=CONTEXT)
@click.argument("repo", metavar="REPO")
@click.option(
    "--goal",
    "goals",
    multiple=True,
    type=click.Choice(GOALS),
    help="What matters; repeatable. Default: all.",
)
@stock_option
@setting_options
@revision_option
@selection_options
@hub_options
@output_options
@click.pass_context
def recommend(ctx: click.Context, /, repo: str, output: Output, **options: Any) -> None:
    """Which method on which cards, for each goal.

    For each goal: the method with its settings, the card or number of cards, what it takes and
    leaves free, and why. Settings given here stay as given. --gpu names the cards at hand, and
    --num-gpus says how many there are of a kind (default: as many as it takes, up to 64); -m
    keeps to the methods named.
    """
    from hubvram.advising import recommend_with
    from hubvram.client import Client
    from hubvram.gpus import resolve
    from hubvram.report.advice import recommend_page

    settings, methods = take_settings(options)
    cards = resolve(options.pop("gpus"))
    hub = HubOptions(options, output)
    with Client(**hub.keywords(), warn=output.warning, status=output.status) as client:
        result = recommend_with(client, repo, options["goals"], cards, None, methods, options["revision"], settings)
    for warning in result.report.warnings:
        output.warning(f"{result.report.repo_id}: {warning}")
    output.pages([recommend_page(result, output.unit)])
    refuse(output, result.report.error, result.report.repo_id)
    if output.failed:
        ctx.exit(GatedRepoError.exit_code)
