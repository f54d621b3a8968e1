"""The prose of ``docs/guide.md``; every figure in it is put in when the page is written."""

from __future__ import annotations

INTRO = """
# The seed guide beside hubvram

<!-- Made by `python -m hubvram.guide`: change the texts in hubvram/guide, not here. -->

hubvram grew out of a guide in Chinese, "{title}" (how much GPU memory does fine-tuning an LLM need). It
gives one figure per model and method, without batch size, sequence length, optimizer or checkpointing. Here
each of its figures stands beside what hubvram computes, with the settings that explain the difference.

GB are 1,000,000,000 bytes, as in the guide's own arithmetic (7 billion parameters at two bytes are its 14 GB). A
card holds more than its name says in this unit: an {card} has {card_gb} GB. *total* is what `nvidia-smi` would
show, with the CUDA context and what PyTorch's allocator keeps; *peak* is what
`torch.cuda.max_memory_allocated()` would report.
"""

MAIN = """
## The main table

Batch 1, {tokens} tokens, gradient checkpointing on, SDPA, LoRA with r = 16. Full fine-tuning stands here twice:
with everything in FP16, and as AMP (`fp16=True` of the Trainer on FP32 weights): the guide does not say which it
means, and they lie far apart. *off by* is hubvram's total against the guide's figure, or against the nearer end of
its range. The card is the smallest of the guide's that takes the run; where none does, the fewest cards that do,
sharded.
"""

REACHED = """
## What the guide's figures presuppose

The guide's figure, read as a limit. For full fine-tuning: the dearest recipe that fits under it with one sample of
{short} tokens, and the cheapest that does not. For LoRA and QLoRA: the first recipe that fits, beginning with the
one that the guide names. Then the largest batch of {short} tokens that stays under the figure, with gradient
checkpointing and without. A range counts by its upper end.
"""

PER_PARAMETER = """
## Bytes per parameter

What decides full fine-tuning is not the batch but how many bytes each parameter takes: its weight, its gradient,
the optimizer's states, and what an optimizer step needs in passing. For {name}, at the peak of a step with one
sample of {tokens} tokens, bytes per parameter:
"""

COMMANDS = "The recipes as commands:"

RULE = """
## The rule of thumb

The guide's rule is GB = billions of parameters × 2 × 2, plus a "training cache": two bytes for the weight, two for
the gradient. That is what a run with plain SGD holds. The last four columns are totals, GB.
"""

CACHE = """
What the guide calls cache is for the most part the optimizer's states, and those grow with the model, not with the
data. In {name}'s AMP row the states are {states} GB, and what depends on the batch (activations and temporary) is
{batch} GB at the peak.
"""

WEIGHTS = "## Weights alone"

FAMILIES = """
## The four families of tuning

{name}, FP16 base (QLoRA: NF4), batch 1, {tokens} tokens, checkpointing on, each method with its defaults:
"""

PRECISIONS = """
## The precisions

{name}, batch 1, {tokens} tokens, checkpointing on; *loaded* is base and adapter after loading, *full* and *LoRA* are
totals in GB. FP8 here is accelerate's: matrix products are done in FP8, the weights are held in 16 bits. Weights in
INT8 or 4 bits cannot be trained themselves, so they carry LoRA.
"""

SEVERAL = """
## Several cards

{name}, batch 1 per card, {tokens} tokens, checkpointing on. Sharding divides weights, gradients and states by the
number of cards; the activations of a card's own batch, the layer that is gathered and NCCL's buffers are not
divided. ZeRO-3 stands for AMP: DeepSpeed keeps FP32 weights beside the FP16 ones and shards both.
"""

PICKLED = """
## GPT-J and repos without safetensors

`{repo}` publishes no safetensors on its main branch. {answer}

The Hub's conversion bot has an open pull request with the same weights as safetensors. hubvram takes its headers where
the user allows it, and only the bot's:

    hubvram {repo} --allow-conversion-pr

The rows above are from the headers of that pull request ({parameters} parameters).
"""

PICKLE_REFUSED = """
Asked for it, hubvram says:

    {error}
"""

PICKLE_READ = """
What it has is a PyTorch pickle, `{path}`: hubvram reads the list of tensors in it and never unpickles it.
"""

OWN = """
## A number for your own case

The rows above are examples. For a model, a card and settings of your own:

    hubvram org/name --batch-size 4 --seq-len 1024 --gpu 4090
    hubvram org/name -m lora -m qlora --explain
    hubvram org/name --rule-of-thumb

The first says which methods fit; `--explain` takes each figure apart, down to the tensors alive at the peak;
`--rule-of-thumb` puts the guide's figure beside. How far the estimates are from measured runs stands in
[accuracy.md](accuracy.md).
"""

LARGEST = """
Beside the weights the largest thing at the peak of `{method}` are {count} tensors of {shape} in {dtype}, {size} GB in
all: {why}.
"""
