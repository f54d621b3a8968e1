"""`python -m hubvram.plan.optimizers.doc`: docs/optimizers.md, written from the catalogue itself."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from hubvram.plan import quantized
from hubvram.plan.optimizers import MODULES, per_parameter
from hubvram.plan.optimizers.base import Optimizer, Scratch, Trained
from hubvram.timeline.dtypes import BF16, F32, DType
from hubvram.timeline.peak import read
from hubvram.timeline.tracer import Tracer

SIDE = 4096
HEAD = """# Optimizers

What each optimizer keeps for a parameter and what a step makes in passing, under the names of
`TrainingArguments.optim` (and, where people pass them to Trainer themselves, of `torch.optim`). Written from
`hubvram/plan/optimizers` by `python -m hubvram.plan.optimizers.doc`; `hubvram optimizers` prints the same.

*State* is bytes per parameter on the GPU for a linear layer of 4096 x 4096 held in bf16 and in fp32. *Step* is what
the step makes beside weights, gradients and states for a model of 32 such layers, in bytes per parameter of the model:
a foreach step works on all parameters at once, a loop on one after the other. Optimizers that update *in backward*
drop each gradient as it arrives.
"""
COLUMNS = "| optim | state bf16 | fp32 | step bf16 | what | source |"
QUANTISED = """
# Quantised bases

How frozen weights are held where a repository stores them quantised (`quantization_config`) or `quantization=` asks
for it; bytes per weight of a 4096 x 4096 linear layer with the usual settings. bitsandbytes: nf4 and fp4 are the same
size, 0.5 + 4/64 bytes, or about 0.516 with double quantisation; LLM.int8 one byte and a scale a row.
Where the base stays packed, LoRA and the methods that PEFT has a layer for run on it; methods that train
the weights themselves are skipped.
"""


def step_bytes(optimizer: Optimizer, dtype: DType, layers: int = 32) -> float:
    """What one step makes, per parameter of a model of equal layers."""
    params = [Trained("weight", (SIDE, SIDE), dtype, layers, "linear")]
    tracer = Tracer()
    tracer.phase("optimizer")
    optimizer.step(Scratch(tracer), params)
    tracer.phase("end")
    return read(tracer).highs[0].bytes / (layers * SIDE * SIDE)


def state_bytes(optimizer: Optimizer, dtype: DType) -> float:
    """State bytes per parameter on the GPU."""
    return per_parameter(optimizer, dtype)


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") or "0"


def markdown() -> str:
    """The page."""
    lines = [HEAD]
    for module in MODULES:
        loaded = import_module(f"hubvram.plan.optimizers.{module}")
        text = (loaded.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").replace("``", "`")
        lines += [f"## {module}", "", text, "", COLUMNS, "|---" * 6 + "|"]
        for o in loaded.OPTIMIZERS:
            names = ", ".join(f"`{n}`" for n in (o.name, *o.aliases))
            what = o.per_parameter + (f" ({o.notes})" if o.notes else "")
            where = "in backward" if o.in_backward else _number(step_bytes(o, BF16))
            figures = f"{_number(state_bytes(o, BF16))} | {_number(state_bytes(o, F32))} | {where}"
            lines.append(f"| {names} | {figures} | {what} | {o.source} |")
        lines.append("")
    lines += [QUANTISED, "| quant_method | bytes per weight | trained on | source |", "|---|---|---|---|"]
    for name, form in quantized.FORMATS.items():
        if form.trained:
            continue
        size = sum(form.sizes(SIDE, SIDE, {}, BF16)) / SIDE**2
        how = form.untrainable or form.dequantised or "packed"
        lines.append(f"| `{name}` ({form.title}) | {_number(size)} | {how} | {form.source} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page to the path given, or to docs/optimizers.md."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/optimizers.md")
    path.write_text(markdown(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
