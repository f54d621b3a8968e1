"""The catalogues: `hubvram methods | gpus | optimizers | stacks | architectures`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import click

from hubvram.cli.options import CONTEXT, output_options
from hubvram.cli.output import Output


def _print(output: Output, module: str, hide: Sequence[str] = ()) -> None:
    """The catalogue of a module as rows; ``hide`` keeps wide columns to the data formats."""
    from hubvram.report.rows import dicts_page

    rows: Sequence[Mapping[str, Any]] = importlib.import_module(module).catalogue()
    output.pages([dicts_page(rows, hide=hide)])


@click.command(context_settings=CONTEXT)
@output_options
def methods(output: Output) -> None:
    """Fine-tuning methods and what each trains."""
    _print(output, "hubvram.plan.methods")


@click.command(context_settings=CONTEXT)
@output_options
def gpus(output: Output) -> None:
    """GPUs and the memory that their driver reports."""
    _print(output, "hubvram.gpus", hide=("label_gb", "memory_gib", "aliases"))


@click.command(context_settings=CONTEXT)
@output_options
def optimizers(output: Output) -> None:
    """Optimizers and their state per parameter."""
    _print(output, "hubvram.plan.optimizers")


@click.command(context_settings=CONTEXT)
@output_options
def stacks(output: Output) -> None:
    """Library versions that differ in memory."""
    _print(output, "hubvram.plan.stacks")


@click.command(context_settings=CONTEXT)
@output_options
def architectures(output: Output) -> None:
    """Model families that are estimated op by op."""
    _print(output, "hubvram.architecture.families")
