"""Writes ``docs/methods.md`` from the catalogue: ``python -m hubvram.plan.methods.doc [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hubvram.plan.methods import methods
from hubvram.plan.methods.base import Method
from hubvram.plan.methods.tuner import QUANT_WORDS, TunerPlan

GROUPS = {
    "full": "Whole model",
    "selective": "Parts of the model",
    "lora": "LoRA and its forms",
    "reparametrised": "Other changes of linear layers",
    "bottleneck": "Bottleneck adapters",
    "prompt": "Prompts and prefixes",
    "optimizer": "Methods that live in the optimizer",
    "reference": "For comparison",
}
"""Titles of the groups, in the order of the page."""

HEAD = """# Fine-tuning methods

Written by `python -m hubvram.plan.methods.doc` from the catalogue; `hubvram methods` prints the same.
Trainable parameters are what PEFT 0.21 counts (`get_nb_trainable_parameters`), to the unit:
`tests/plan/test_methods_counts.py` holds every PEFT type against PEFT itself on 25 model families
(`tools/peft_counts.py` makes the table). Config keys are PEFT's, with PEFT's defaults, but for: `r` = 16 for LoRA and
its forms; `num_virtual_tokens` = 20; `encoder_hidden_size` = 128 for `p_tuning`; `adapter_len` = 10 and
`adapter_layers` = 30 for `adaption_prompt`; one token for `trainable_tokens` (PEFT asks for these).

What a method costs beside its parameters follows PEFT's own layers, op by op:

- Adapters are fp32 on a 16-bit base (`autocast_adapter_dtype`): each target keeps an fp32 copy of its input.
  Adaption prompts, AdaMSS and LN tuning stay in the base's dtype; prompts are fp32 on every base.
- Methods that make a whole weight at every pass (LoHa, LoKr, FourierFT, WaveFT, HRA, MiSS bat, HiRA, GLoRA, PEANuT,
  SHiRA, Super-Tuning) keep it, or tensors of its size, for backward: per target, rank hardly matters.
- Frozen tensors that counts do not show: the shared random pair of VeRA and PVeRA, the bases of RandLoRA, singular
  vectors (PSOFT, OSF, TinyLoRA), indices (SHiRA, Super-Tuning, Uni-LoRA), the originals behind LN tuning and
  `modules_to_save`. Permutations of BOFT and the factors of FRoD stay on the CPU and are copied over at each pass.
- AdaLoRA's orthogonality term gives every A and B a gradient before the model's own backward begins. Its
  `update_and_allocate`, which a training loop has to call itself, keeps three more fp32 copies of A, B and E: they
  are not counted.
- Prompt methods lengthen the sequence, labels and logits; prefix methods put keys and values into every layer's
  cache, which makes sdpa take a mask and its memory-efficient kernel. PEFT refuses prefixes together with gradient
  checkpointing: they are estimated without it.
- Quantised bases: where PEFT has a layer for them. The others are skipped with that reason.
- CPT's second loss, and the mixing of adapters that are trained already (X-LoRA), are not modelled.
"""


def page() -> str:
    """The whole page."""
    by_group: dict[str, list[Method]] = {}
    for method in methods().values():
        by_group.setdefault(method.group, []).append(method)
    parts = [HEAD]
    for group in (*GROUPS, *(g for g in by_group if g not in GROUPS)):
        members = by_group.get(group)
        if not members:
            continue
        parts.append(f"\n## {GROUPS.get(group, group)}\n\n")
        parts.append("| method | | PEFT type | trains | trainable parameters | source |\n|---|---|---|---|---|---|\n")
        for m in members:
            cells = (f"`{m.name}`", m.title, m.peft_type or "", m.trains, m.formula, m.source)
            parts.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |\n")
    parts.append("\n## Quantised bases\n\nBeside LoRA and its forms, PEFT has layers for:\n\n")
    parts.append("| method | bases |\n|---|---|\n")
    for name, packed in sorted(_packed()):
        parts.append(f"| `{name}` | {', '.join(QUANT_WORDS[p].split(' ', 1)[1] for p in packed)} |\n")
    parts.append("\n## Config keys\n\n| method | keys and defaults |\n|---|---|\n")
    for m in methods().values():
        if m.keys:
            keys = ", ".join(f"`{k}={v!r}`" for k, v in m.keys.items())
            parts.append(f"| `{m.name}` | {keys} |\n")
    return "".join(parts)


def _packed() -> list[tuple[str, tuple[str, ...]]]:
    known = {m.peft_type: m.name for m in methods().values() if m.peft_type}
    found = []
    todo: list[type[TunerPlan]] = [TunerPlan]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if cls.packed and cls.peft_type in known:
            found.append((known[cls.peft_type], cls.packed))
    return found


def main(argv: Sequence[str]) -> int:
    """Write the page, or say whether it is as written (``--check``)."""
    path = Path(__file__).resolve().parents[3] / "docs" / "methods.md"
    text = page()
    if "--check" in argv:
        return 0 if path.read_text(encoding="utf-8") == text else 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
