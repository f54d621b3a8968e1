"""``docs/guide.md``: the guide's tables, each beside hubvram's estimates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hubvram.gpus import fits, guide_cards, smallest
from hubvram.guide import figures, texts
from hubvram.guide.compare import (
    ADAPTERS,
    AMP,
    BASE,
    COUNTS,
    FSDP,
    FULL,
    GB,
    HEADLINES,
    LORA,
    LORA_INT8,
    PLAIN,
    QLORA,
    SHORT,
    Reached,
    Recipe,
    Subject,
    deviation,
    main_branch,
)

_TITLES = {"full": "full, FP16", "lora": "LoRA, FP16", "qlora": "QLoRA, 4-bit"}
TOKENS = BASE["seq_len"]


def gb(size: float) -> str:
    """Bytes in GB, one decimal."""
    return f"{size / GB:,.1f}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; columns of figures are set right."""
    body = [[str(cell) for cell in row] for row in rows]
    right = [all(_is_figure(row[i]) for row in body) for i in range(len(head))]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---:" if r else "---" for r in right) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def _is_figure(cell: str) -> bool:
    return not cell or cell[0] in "0123456789+-" or cell in ("within", "equal")


def subjects(models_dir: Path) -> list[Subject]:
    """The guide's models."""
    return [Subject(model, models_dir) for model in figures.MODELS]


def page(all_: Sequence[Subject]) -> str:
    """The whole page."""
    by_name = {s.model.name: s for s in all_}
    seven, seventy, gptj = by_name["LLaMA 7B"], by_name["LLaMA 70B"], by_name["GPT-J 6B"]
    card = guide_cards()[3]
    parts = [
        texts.INTRO.format(title=figures.TITLE, card=card.name, card_gb=gb(card.usable_bytes)),
        texts.MAIN.format(tokens=TOKENS),
        main_table(all_),
        repo_table(all_),
        "\n".join(f"- {s.model.name}: {s.model.note}." for s in all_ if s.model.note),
        texts.REACHED.format(short=SHORT),
        reached_table(all_),
        verdicts(all_),
        texts.PER_PARAMETER.format(name=seven.model.name, tokens=TOKENS),
        per_parameter_table(seven),
        texts.COMMANDS,
        "\n".join(f"    hubvram {seven.model.repo_id} {r.flags()}" for r in (*FULL, LORA, LORA_INT8, QLORA)),
        texts.RULE,
        rule_table(all_),
        _cache(seven),
        texts.WEIGHTS,
        weights_table(all_),
        texts.FAMILIES.format(name=seven.model.name, tokens=TOKENS),
        *families(seven),
        texts.PRECISIONS.format(name=seven.model.name, tokens=TOKENS),
        precision_table(seven),
        _largest(seven, LORA_INT8),
        texts.SEVERAL.format(name=seventy.model.name, tokens=TOKENS),
        several_table(seventy),
        _pickled(gptj),
        texts.OWN,
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def main_table(all_: Sequence[Subject]) -> str:
    """The guide's eighteen figures."""
    head = (
        "model", "method", "guide", "hubvram: recipe", "total", "off by",
        "weights", "gradients", "optimizer", "activations", "temporary", "card",
    )  # fmt: skip
    rows = []
    for s in all_:
        for method, recipes in HEADLINES.items():
            figure = s.model.figure(method)
            for recipe in recipes:
                printed = f"{figure} (several cards)" if method in s.model.several_cards else str(figure)
                first = (s.model.name, _TITLES[method], printed) if recipe is recipes[0] else ("", "", "")
                b, total = s.breakdown(recipe), s.total(recipe)
                parts = (b.weights_bytes, b.gradients_bytes, b.optimizer_bytes, b.activations_bytes, b.temporary_bytes)
                card = s.seats(recipe) or "-"
                rows.append((*first, recipe.name, gb(total), deviation(total, figure), *map(gb, parts), card))
    return table(head, rows)


def repo_table(all_: Sequence[Subject]) -> str:
    """The repos behind the guide's names."""
    rows = [(s.model.name, f"`{s.model.repo_id}`", f"{s.parameters:,}") for s in all_]
    return table(("model", "repo", "parameters in its headers"), rows)


def reached_table(all_: Sequence[Subject]) -> str:
    """How each figure comes about."""
    rows = []
    for s in all_:
        for method, title in _TITLES.items():
            r = s.reached(method)
            low = f"{r.recipe.name}: {gb(r.total_bytes)}" if r.recipe else f"none, the cheapest: {gb(r.total_bytes)}"
            high = f"{r.above.name}: {gb(r.above_bytes)}" if r.above else ""
            batches = (r.batch, r.batch_unchecked) if r.recipe else ("", "")
            rows.append((s.model.name, title, s.model.figure(method), low, *batches, high))
    head = ("model", "method", "guide", "fits", "batch", "without checkpointing", "does not fit")
    return table(head, rows)


def verdicts(all_: Sequence[Subject]) -> str:
    """What `reached_table` comes to, in sentences that hold for what it says."""
    groups: dict[str, list[str]] = {}
    for method in _TITLES:
        for s in all_:
            verdict = verdict_of(s, method, s.reached(method))
            groups.setdefault(verdict, []).append(s.model.name)
    return "\n".join(f"- {listed(names)}, {verdict}" for verdict, names in groups.items())


def verdict_of(s: Subject, method: str, r: Reached) -> str:
    """The sentence on one figure."""
    title = _TITLES[method].split(",")[0]
    if method == "full":
        if r.recipe is None:
            return "full: below every recipe here."
        if r.above is None:
            return f"full: above every recipe here, *{r.recipe.name}* among them."
        return f"full: between *{r.recipe.name}* and *{r.above.name}*."
    named = ADAPTERS[method][0]
    if r.recipe is named:
        return f"{title}: holds on one card for short batches, see the table."
    if s.breakdown(named, seq_len=SHORT).weights_bytes > s.model.figure(method).high * GB:
        way = f"an *{r.recipe.name}* fits" if r.recipe else "no smaller base here fits"
        return f"{title}: the weights alone are more than the figure; {way}, or several cards share them."
    if r.recipe is None:
        return f"{title}: one card of that size does not hold even one sample of {SHORT} tokens; several do, see below."
    return f"{title}: holds only as *{r.recipe.name}*."


def listed(names: Sequence[str]) -> str:
    """``A, B and C``."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def per_parameter_table(s: Subject) -> str:
    """Bytes per parameter of the recipes of full fine-tuning."""
    rows = []
    for recipe in FULL:
        b = s.breakdown(recipe)
        parts = (b.weights_bytes, b.gradients_bytes, b.optimizer_bytes, b.activations_bytes, b.temporary_bytes, b.total)
        shares = (f"{part / s.parameters:.2f}" for part in parts)
        rows.append((recipe.name, *shares, s.estimate(recipe).peak_phase, gb(s.total(recipe))))
    head = (
        "recipe", "weights", "gradients", "optimizer", "activations", "temporary", "peak", "peak is in", "total, GB",
    )  # fmt: skip
    return table(head, rows)


def rule_table(all_: Sequence[Subject]) -> str:
    """The rule beside what runs take."""
    shown = (FULL[0], PLAIN, FULL[3], AMP)
    examples = {example.model: example.buffered for example in figures.RULE_EXAMPLES}
    rows = []
    for s in all_:
        rule, buffered = f"{figures.rule(s.model.billions):g}", examples.get(s.model.name, "")
        exact = gb(4 * s.parameters)
        rows.append((s.model.name, rule, buffered, exact, *(gb(s.total(recipe)) for recipe in shown)))
    head = ("model", "rule", "guide, with cache", "4 bytes × exact count", *(recipe.name for recipe in shown))
    return table(head, rows)


def _cache(s: Subject) -> str:
    b = s.breakdown(AMP)
    batch = b.activations_bytes + b.temporary_bytes
    return texts.CACHE.format(name=s.model.name, states=gb(b.optimizer_bytes), batch=gb(batch))


def weights_table(all_: Sequence[Subject]) -> str:
    """Weights in FP16."""
    recipe = Recipe("weights alone", "inference", {"dtype": "float16"})
    rows = [
        (s.model.name, f"{figures.WEIGHTS_FP16[s.model.name]:g}", gb(2 * s.parameters), gb(s.loaded(recipe)))
        for s in all_
        if s.model.name in figures.WEIGHTS_FP16
    ]
    return table(("model", "guide", "2 bytes × exact count", "on the card after loading"), rows)


def families(s: Subject) -> list[str]:
    """The table of the families, and what hubvram remarks on their methods."""
    rows: list[tuple[object, ...]] = []
    remarks: dict[str, list[Recipe]] = {}
    for family, methods in figures.FAMILIES:
        for name in methods:
            recipe = Recipe(name, name, {"dtype": "float16"}, FSDP)
            e, b = s.estimate(recipe), s.breakdown(recipe)
            if e.reason:
                remarks.setdefault(e.reason, []).append(recipe)
            trained = e.trainable_parameters or 0
            sizes = (
                b.weights_bytes,
                b.gradients_bytes + b.optimizer_bytes,
                b.activations_bytes + b.temporary_bytes,
                b.total,
                s.total(recipe),
            )
            first = family if name == methods[0] else ""
            share = f"{trained / s.parameters:.3%}"
            rows.append((first, f"`{name}`", f"{trained:,}", share, *map(gb, sizes), s.seats(recipe) or "-"))
    head = (
        "family", "method", "trained", "of all", "weights", "gradients + optimizer", "activations + temporary",
        "peak", "total", "card",
    )  # fmt: skip
    parts = [table(head, rows)]
    for remark, recipes in remarks.items():
        parts.append(f"{listed([f'`{recipe.method}`' for recipe in recipes])}: {remark}.")
        parts.append(_largest(s, recipes[0]))
    return parts


def precision_table(s: Subject) -> str:
    """The guide's precisions; full fine-tuning where the weights can be trained."""

    def in_(recipe: Recipe, **settings: str) -> Recipe:
        return Recipe(recipe.name, recipe.method, {**recipe.settings, **settings}, recipe.sharded)

    fp8 = {"dtype": "bfloat16", "mixed_precision": "fp8"}
    ways: dict[str, tuple[str, Recipe | None, Recipe]] = {
        "FP16": ("`--dtype float16`", PLAIN, LORA),
        "BF16": ("`--dtype bfloat16`", in_(PLAIN, dtype="bfloat16"), in_(LORA, dtype="bfloat16")),
        "FP8": ("`--dtype bfloat16 --mixed-precision fp8`", in_(PLAIN, **fp8), in_(LORA, **fp8)),
        "INT8": ("`-m lora_int8` (LLM.int8)", None, LORA_INT8),
        "4-bit": ("`-m qlora` (NF4, double quantisation)", None, QLORA),
    }
    rows = []
    for name in figures.PRECISIONS:
        asked, full, lora = ways[name]
        loaded = s.loaded(lora)
        per = f"{loaded / s.parameters:.2f}"
        totals = (gb(s.total(full)) if full else "", gb(s.total(lora)))
        rows.append((name, asked, gb(loaded), per, *totals, s.seats(lora) or "-"))
    head = ("guide", "hubvram", "loaded", "bytes per parameter", "full", "LoRA", "card for LoRA")
    return table(head, rows)


def _largest(s: Subject, recipe: Recipe) -> str:
    """The largest thing at the peak beside the weights, in hubvram's own words."""
    group = s.largest_beside_weights(recipe)
    return texts.LARGEST.format(
        method=recipe.method,
        count=group.count,
        shape=" × ".join(map(str, group.shape)),
        dtype=group.dtype,
        size=gb(group.bytes),
        why=group.why,
    )


def several_table(s: Subject) -> str:
    """What each of several cards holds."""
    rows = []
    for recipe in (AMP, LORA, QLORA):
        for count in COUNTS[:-1]:
            need = s.total(recipe, **recipe.sharded, num_gpus=count)
            card = smallest(fits(need, guide_cards(), count=count))
            first = (recipe.name, recipe.sharded["strategy"]) if count == COUNTS[0] else ("", "")
            rows.append((*first, count, gb(need), card.name if card else "-"))
    return table(("recipe", "strategy", "cards", "total per card", "smallest of the guide's cards"), rows)


def _pickled(s: Subject) -> str:
    found = main_branch(s.models_dir, s.model.repo_id)
    if isinstance(found, str):
        answer = texts.PICKLE_READ.format(path=found)
    else:
        lines = [f"Error: {found.message}"] + ([f"Hint: {found.hint}"] if found.hint else [])
        answer = texts.PICKLE_REFUSED.format(error="\n    ".join(lines))
    return texts.PICKLED.format(repo=s.model.repo_id, answer=answer.strip("\n"), parameters=f"{s.parameters:,}")
