"""Methods outside PEFT: what is trained, exactly, and what the method's own optimizer saves."""

from __future__ import annotations

import pytest
from small_models import LLAMA_2_7B, LLAMA_32_1B, MISTRAL_7B, estimate, parameters

from hubvram.report.record import Estimate

WHOLE = ("galore", "q_galore", "apollo", "apollo_mini", "lomo", "adalomo")
LAYER_7B = 4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096
"""Parameters of a layer of Llama-2-7B."""


def figures(e: Estimate) -> tuple[int, int, int, int]:
    """Peak, weights, gradients and states at the peak."""
    assert e.peak_allocated_bytes is not None
    assert e.breakdown is not None
    b = e.breakdown
    return e.peak_allocated_bytes, b.weights_bytes, b.gradients_bytes, b.optimizer_bytes


@pytest.mark.parametrize("config", [LLAMA_2_7B, LLAMA_32_1B, MISTRAL_7B], ids=["llama-2", "llama-3.2", "mistral"])
@pytest.mark.parametrize("method", WHOLE)
def test_full_methods_train_everything(method: str, config: dict[str, object]) -> None:
    assert estimate(config, method).trainable_parameters == parameters(config)


@pytest.mark.parametrize("method", WHOLE)
def test_full_methods_need_less_than_full_fine_tuning(method: str) -> None:
    full, _, gradients, _ = figures(estimate(LLAMA_2_7B, "full"))
    peak, _, waiting, _ = figures(estimate(LLAMA_2_7B, method))
    assert gradients >= 2 * parameters(LLAMA_2_7B)
    assert waiting <= 2 * 2 * 32000 * 4096  # the tables' at most: every other has been used and dropped
    assert peak < 0.35 * full


def test_lomo_holds_weights_and_the_largest_weight_in_fp32() -> None:
    """At the start of backward the head (32000 x 4096) is updated through an fp32 gradient and an fp32 weight."""
    e = estimate(LLAMA_2_7B, "lomo", seq_len=128)
    peak, weights, _, states = figures(e)
    assert weights == pytest.approx(2 * parameters(LLAMA_2_7B), abs=2**20)
    assert states == 0
    assert peak - weights == pytest.approx(2 * 4 * 32000 * 4096, rel=0.1)
    assert e.reason is not None
    assert "optimizer lomo" in e.reason


LLAMA_31_8B = {
    **LLAMA_32_1B,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "head_dim": 128,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("method", "layers", "checkpointing", "expected"),
    [
        ("lomo", 2, True, 7_214_792_704),
        ("lomo", 2, False, 7_412_062_208),
        ("lomo", 4, True, 8_095_629_312),
        ("lomo", 4, False, 8_490_172_416),
        ("adalomo", 2, True, 9_317_197_824),
        ("adalomo", 4, False, 10_592_577_536),
    ],
)
def test_updates_during_backward_as_the_real_hooks(
    method: str, layers: int, checkpointing: bool, expected: int
) -> None:
    """lomo-optim 0.1.1's hooks on Llama-3.1-8B cut to some layers, real code on fake CUDA tensors, 512 tokens."""
    config = {**LLAMA_31_8B, "num_hidden_layers": layers}
    given = {"dtype": "bfloat16", "gradient_checkpointing": checkpointing, "seq_len": 512}
    e = estimate(config, method, keep_outputs=False, **given)
    assert e.peak_allocated_bytes == pytest.approx(expected, rel=2e-4)


def test_galore_states_are_low_rank() -> None:
    """Rank r of a 4096 x n matrix: two moments of r x n and a projection of 4096 x r, in bf16."""
    e = estimate(LLAMA_2_7B, "galore", dtype="bfloat16", peft={"galore_rank": 64})
    square = 3 * 64 * 4096  # moments 2 x 4096 x 64, projection 64 x 4096
    wide = 2 * 64 * 11008 + 64 * 4096  # the long side keeps its length
    plain = 2 * (2 * 32000 * 4096 + 65 * 4096)
    assert e.steady_bytes is not None
    assert e.loaded_bytes is not None
    held = e.steady_bytes - e.loaded_bytes - 2 * 8320 * 1024
    assert held == 2 * (32 * (4 * square + 3 * wide) + plain)


def test_galore_follows_the_optimizer_asked_for() -> None:
    layerwise = estimate(LLAMA_2_7B, "galore", dtype="bfloat16")
    whole = estimate(LLAMA_2_7B, "galore", dtype="bfloat16", optim="galore_adamw")
    low = estimate(LLAMA_2_7B, "galore", dtype="bfloat16", optim="galore_adamw_8bit")
    assert figures(whole)[0] - figures(layerwise)[0] > 1.5 * parameters(LLAMA_2_7B)
    assert low.steady_bytes is not None
    assert whole.steady_bytes is not None
    assert low.steady_bytes < whole.steady_bytes


def test_q_galore_holds_linear_weights_as_bytes() -> None:
    """One byte, and a scale and a zero point of 2 bytes for 256; tables and norms stay in bf16."""
    e = estimate(LLAMA_2_7B, "q_galore", dtype="bfloat16")
    linear = 32 * (LAYER_7B - 2 * 4096)
    rest = parameters(LLAMA_2_7B) - linear
    assert e.loaded_bytes == linear + 2 * 2 * linear // 256 + 2 * rest + 2 * 512  # and two rotary buffers


def test_lisa_trains_k_layers_and_everything_outside() -> None:
    outside = parameters(LLAMA_2_7B, layers=0)
    assert estimate(LLAMA_2_7B, "lisa").trainable_parameters == outside + 2 * LAYER_7B
    four = estimate(LLAMA_2_7B, "lisa", peft={"lisa_activated_layers": 4})
    assert four.trainable_parameters == outside + 4 * LAYER_7B


def test_badam_trains_a_layer_with_fp32_copies() -> None:
    e = estimate(LLAMA_2_7B, "badam", dtype="bfloat16")
    assert e.trainable_parameters == LAYER_7B
    assert e.steady_bytes is not None
    assert e.loaded_bytes is not None
    assert e.steady_bytes - e.loaded_bytes - 2 * 8320 * 1024 == 12 * LAYER_7B
    last = estimate(LLAMA_2_7B, "badam", dtype="bfloat16", gradient_checkpointing=False, peft={"badam_start_block": 31})
    first = estimate(LLAMA_2_7B, "badam", dtype="bfloat16", gradient_checkpointing=False)
    assert figures(first)[0] > figures(last)[0]  # backward has to reach it


def test_spectrum_trains_half_of_each_kind() -> None:
    tables = 2 * 32000 * 4096
    assert estimate(LLAMA_2_7B, "spectrum").trainable_parameters == tables + 16 * LAYER_7B
    quarter = estimate(LLAMA_2_7B, "spectrum", peft={"spectrum_top_fraction": 0.25})
    assert quarter.trainable_parameters == tables + 8 * LAYER_7B


def test_llama_pro_adds_layers_and_trains_them() -> None:
    full = estimate(LLAMA_2_7B, "full", dtype="bfloat16")
    e = estimate(LLAMA_2_7B, "llama_pro", dtype="bfloat16")
    assert e.trainable_parameters == 8 * LAYER_7B
    assert e.loaded_bytes is not None
    assert full.loaded_bytes is not None
    assert e.loaded_bytes - full.loaded_bytes == 2 * 8 * LAYER_7B
    odd = estimate(LLAMA_2_7B, "llama_pro", peft={"num_new_layers": 5})
    assert odd.status == "skipped"
    assert odd.reason is not None
    assert "32 layers cannot be divided into 5" in odd.reason


def test_relora_is_lora_between_merges() -> None:
    lora = estimate(LLAMA_2_7B, "lora", peft={"r": 8, "target_modules": ["q_proj"]})
    relora = estimate(LLAMA_2_7B, "relora", peft={"r": 8, "target_modules": ["q_proj"], "relora_steps": 200})
    assert relora.trainable_parameters == lora.trainable_parameters == 32 * 8 * (4096 + 4096)
    assert relora.peak_allocated_bytes == lora.peak_allocated_bytes


def test_forms_of_lora_with_other_sizes() -> None:
    """Worked out for q_proj and v_proj of 16 layers (2048 in; 2048 and 512 out), r = 16."""
    plain = estimate(LLAMA_32_1B, "lora")
    assert plain.trainable_parameters == 16 * 16 * (2 * 2048 + 2048 + 512)
    assert estimate(LLAMA_32_1B, "lora_fa").trainable_parameters == 16 * 16 * (2048 + 512)
    halved = estimate(LLAMA_32_1B, "bdlora")  # B of both is block-diagonal in two blocks
    assert halved.trainable_parameters == 16 * 16 * (2 * 2048 + (2048 + 512) // 2)
    refused = estimate(LLAMA_32_1B, "qalora")
    assert refused.status == "skipped"
    assert "GPTQ" in (refused.reason or "")
    pooled = estimate(LLAMA_32_1B, "qalora", quantization={"quant_method": "gptq", "bits": 4})
    assert pooled.trainable_parameters == 16 * 16 * (2 * 2048 // 16 + 2048 + 512)
