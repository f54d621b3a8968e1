"""`hubvram scan [FILE|-]`: many repos into the cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubvram.cli.options import (
    CONTEXT,
    HubOptions,
    gpu_option,
    hub_options,
    output_options,
    setting_options,
    take_settings,
)
from hubvram.cli.output import Output
from hubvram.errors import SettingError
from hubvram.report.page import Page

if TYPE_CHECKING:
    from hubvram.scanning import ScanResult

SORTS = ("downloads", "likes", "trending_score", "created_at", "last_modified")
"""As `hubvram.sources.listing.SORTS`, which is too heavy to import for a help text; a test holds the two together."""

FIELDS = (
    "repo_id",
    "revision",
    "status",
    "commit_sha",
    "source",
    "model_type",
    "parameters",
    "dtype",
    "error_code",
    "error_message",
)
"""Columns of a scan: a row per repo."""


@click.command(context_settings=CONTEXT)
@click.argument("file", metavar="[FILE|-]", required=False, type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--author", metavar="NAME", help="From the Hub's listing: models of this user or organisation.")
@click.option("--search", metavar="TEXT", help="From the Hub's listing: models with this in their name.")
@click.option("--filter", "filters", multiple=True, metavar="TAG", help="Tag that they must have; repeatable.")
@click.option("--sort", type=click.Choice(SORTS), help="Order of the listing, the largest or newest first.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N models of the listing.")
@click.option("--jobs", type=click.IntRange(min=1), default=8, metavar="N", help="Repos in work at once.")
@click.option("--strict", is_flag=True, help="Exit with 1 if any repo failed.")
@setting_options
@gpu_option
@hub_options
@output_options
@click.pass_context
def scan(ctx: click.Context, /, file: str | None, jobs: int, strict: bool, output: Output, **options: Any) -> None:
    """Estimate many repos into the cache.

    What is there can be asked with `hubvram sql`. FILE has a repo a line: org/name, org/name@revision,
    a URL, or a JSON object with `id`; `#` begins a comment. Without FILE the repos come from the Hub's
    listing: `hubvram scan --filter safetensors --sort downloads --limit 100`. Each repo is kept as soon as it is done;
    one that fails becomes a row with its error. The exit code is 0 when the list was worked through,
    whatever became of its repos (see --strict).
    """
    from hubvram.client import Client, check_methods
    from hubvram.gpus import resolve
    from hubvram.plan.settings import Settings
    from hubvram.scanning import iter_scan, parse_repo_list

    settings, methods = take_settings(options)
    cards = resolve(options.pop("gpus"))
    names = check_methods(methods)
    hub = HubOptions(options, output)
    wanted = {name: options.pop(name) for name in ("author", "search", "filters", "sort", "limit")}
    if (file is None) is not any(wanted.values()):
        raise click.UsageError("Give either a FILE (or -), or --author, --search, --filter, --sort or --limit.")
    repos = parse_repo_list(_read(file)) if file is not None else []
    with Client(**hub.keywords(), need_store=True, warn=output.warning, status=output.status) as client:
        if file is None:
            repos = list(client.listing(**wanted))
        results = iter_scan(
            repos,
            estimate_one=lambda ref: client.estimate(ref, names, gpus=cards, settings=settings),
            store=client.store,
            jobs=jobs,
            endpoint=client.endpoint,
            settings_key=Settings.from_kwargs(**settings).key(),
        )
        with _progress(output, len(repos)) as tick:
            output.pages(_pages(results, output, tick), many=True)
    if strict and output.failed:
        ctx.exit(1)


def _read(file: str) -> list[str]:
    try:
        if file == "-":
            return sys.stdin.read().splitlines()
        return Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingError(f"The list {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"The list {file} is not UTF-8 text.") from error


def _pages(results: Iterator[ScanResult], output: Output, tick: Callable[[], object]) -> Iterator[Page]:
    """A page per repo for formats that stream, one page of all for tables."""
    rows = []
    ok = 0
    for result in results:
        tick()
        record = _record(result)
        ok += result.error is None
        if result.error is not None:
            output.error(result.error, result.repo_id)
        if output.format in ("table", "markdown"):
            rows.append((result.position, record))
        else:
            yield Page(data=result.to_dict(), records=[record], fields=FIELDS)
    output.status(f"{ok} of {ok + output.failed} repos are in the cache, {output.failed} failed.")
    if rows:
        from hubvram.report.rows import rows_page

        # People find a repo where their list has it; the other formats give each as it is done.
        ordered = [record for _, record in sorted(rows, key=lambda row: row[0])]
        yield rows_page(
            FIELDS, [[record[name] for name in FIELDS] for record in ordered], hide=("source", "error_message")
        )


def _record(result: ScanResult) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(FIELDS)
    row.update(repo_id=result.repo_id, revision=result.revision, status=result.status)
    if result.report is not None:
        counts = result.report.parameters
        row.update(
            commit_sha=(result.report.commit_sha or "")[:12] or None,
            source=result.report.source,
            model_type=result.report.model_type,
            parameters=counts.total,
            dtype=max(counts.by_dtype, key=lambda dtype: counts.by_dtype[dtype], default=None),
        )
    if result.error is not None:
        row.update(error_code=result.error.code, error_message=result.error.message)
    return row


@contextmanager
def _progress(output: Output, total: int) -> Iterator[Callable[[], object]]:
    """A bar on stderr where one is wanted; yields what to call after each repo."""
    if total < 2 or not output.progress_wanted():
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="repo", file=sys.stderr, dynamic_ncols=True) as bar:
        yield bar.update
