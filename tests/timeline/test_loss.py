"""The loss of causal models: what stacks before 4.50 copy when they shift logits."""

from __future__ import annotations

import pytest
from small_models import LLAMA_32_1B, estimate


def end_of_loss(batch: int, tokens: int, transformers: str) -> int:
    """The peak of LoRA training with one layer: the logits of 128,256 classes decide it."""
    e = estimate(
        {**LLAMA_32_1B, "num_hidden_layers": 1},
        "lora",
        batch_size=batch,
        seq_len=tokens,
        dtype="bfloat16",
        mixed_precision="no",
        gradient_checkpointing=False,
        stack={"transformers": transformers},
    )
    assert e.peak_allocated_bytes is not None
    return e.peak_allocated_bytes


@pytest.mark.parametrize("batch", [1, 2])
def test_only_a_batch_of_several_is_copied(batch: int) -> None:
    """4.48 holds 16-bit logits, their fp32 copy, the shifted copy and log-softmax: 14 bytes a logit, 12 from 4.50 on.

    ``logits[..., :-1, :]`` of a batch of one is contiguous: nothing is copied, and backward's bytes are the peak.
    """
    tokens, vocab = 1024, 128_256
    more = end_of_loss(batch, tokens, "4.48") - end_of_loss(batch, tokens, "4.50")
    per_logit = more / (batch * tokens * vocab)
    assert per_logit == pytest.approx(2.0 if batch > 1 else 0.0, abs=0.05)
