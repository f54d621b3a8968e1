"""The tables of README.zh.md.

The text, the heads of the tables included, is written by hand; between a pair of markers

    <!-- guide:NAME -->
    | head | ... |
    |---|---|
    | row | ... |
    <!-- /guide -->

the rows are made here. They hold names, figures and flags only, which read the same in every language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from hubvram.guide import figures
from hubvram.guide.compare import AMP, FULL, LORA, LORA_INT8, PLAIN, QLORA, Recipe, Subject
from hubvram.guide.page import gb

_BLOCK = re.compile(r"(?P<open><!-- guide:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(?P<close><!-- /guide -->)", re.DOTALL)

Rows = list[tuple[object, ...]]


def filled(text: str, all_: Sequence[Subject]) -> str:
    """The README with its tables as they are now.

    Raises:
        ValueError: a block that is not known here, has no head, or is missing.
    """
    found = []

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"no table is called {name!r}: {', '.join(TABLES)}")
        found.append(name)
        head = match["body"].splitlines()[:2]
        if len(head) < 2 or not head[1].startswith("|-"):
            raise ValueError(f"the table {name!r} needs its head and the line below it")
        rows = ["| " + " | ".join(map(str, row)) + " |" for row in TABLES[name](all_)]
        return match["open"] + "\n".join([*head, *rows]) + "\n" + match["close"]

    text = _BLOCK.sub(block, text)
    missing = [name for name in TABLES if name not in found]
    if missing:
        raise ValueError(f"the tables {', '.join(missing)} have no place in the text")
    return text


def _placed(s: Subject, recipe: Recipe) -> str:
    """Total and card."""
    return f"**{gb(s.total(recipe))}** ({s.seats(recipe) or '-'})"


def main_rows(all_: Sequence[Subject]) -> Rows:
    """The guide's main table."""
    return [
        (
            s.model.name,
            s.model.full,
            _placed(s, PLAIN),
            _placed(s, AMP),
            s.model.lora,
            _placed(s, LORA),
            s.model.qlora,
            _placed(s, QLORA),
        )
        for s in all_
    ]


def recipe_rows(all_: Sequence[Subject]) -> Rows:
    """Where the bytes of the smallest model go, recipe by recipe."""
    s = all_[0]
    rows: Rows = []
    for recipe in (*FULL, LORA, LORA_INT8, QLORA):
        b = s.breakdown(recipe)
        parts = (b.weights_bytes, b.gradients_bytes, b.optimizer_bytes, b.activations_bytes + b.temporary_bytes)
        rows.append((f"`{recipe.flags()}`", *map(gb, parts), gb(s.total(recipe))))
    return rows


def rule_rows(all_: Sequence[Subject]) -> Rows:
    """The rule of thumb."""
    rows: Rows = []
    by_name = {s.model.name: s for s in all_}
    for example in figures.RULE_EXAMPLES:
        s = by_name[example.model]
        rows.append(
            (s.model.name, f"{figures.rule(s.model.billions):g}", example.buffered, *(gb(s.total(r)) for r in FULL))
        )
    return rows


TABLES: Mapping[str, Callable[[Sequence[Subject]], Rows]] = {
    "main": main_rows,
    "recipes": recipe_rows,
    "rule": rule_rows,
}
"""By the name in the marker."""
