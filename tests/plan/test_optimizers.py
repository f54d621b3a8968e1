"""Optimizers: names, states, what a step makes, and where Trainer differs from a plain loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import LLAMA_2_7B, LLAMA_32_1B, SIMULATED, estimate

from hubvram.errors import SettingError
from hubvram.plan import optimizers
from hubvram.plan.optimizers import doc
from hubvram.plan.optimizers.base import Scratch, Trained, state_bytes
from hubvram.timeline.dtypes import BF16, F32, DType
from hubvram.timeline.peak import read
from hubvram.timeline.tracer import Tracer

OPTIMIZER_NAMES = """
adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adafactor adamw_anyprecision adamw_torch_4bit
adamw_torch_8bit ademamix sgd adagrad adamw_bnb_8bit adamw_8bit ademamix_8bit lion_8bit lion_32bit paged_adamw_32bit
paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit paged_lion_8bit rmsprop rmsprop_bnb
rmsprop_bnb_8bit rmsprop_bnb_32bit galore_adamw galore_adamw_8bit galore_adafactor galore_adamw_layerwise
galore_adamw_8bit_layerwise galore_adafactor_layerwise lomo adalomo grokadamw schedule_free_radam schedule_free_adamw
schedule_free_sgd apollo_adamw apollo_adamw_layerwise stable_adamw
""".split()
"""``OptimizerNames`` of transformers 5.23 ``training_args.py``."""

VOCABULARY, HIDDEN, INNER, LAYERS = 5000, 512, 1376, 3
LAYER = (
    ("q", (HIDDEN, HIDDEN)),
    ("k", (HIDDEN // 2, HIDDEN)),
    ("v", (HIDDEN // 2, HIDDEN)),
    ("o", (HIDDEN, HIDDEN)),
    ("gate", (INNER, HIDDEN)),
    ("up", (INNER, HIDDEN)),
    ("down", (HIDDEN, INNER)),
    ("norm1", (HIDDEN,)),
    ("norm2", (HIDDEN,)),
)
MEASURED = {
    # name: (states bf16, step bf16, states fp32, step fp32)
    "adamw_torch_fused": (55_309_312, 0, 110_603_264, 0),
    "adamw_torch": (55_293_952, 27_646_976, 110_587_904, 55_293_952),
    "nadam": (55_293_952, 27_646_976, 110_587_904, 55_293_952),
    "radam": (55_293_952, 27_646_976, 110_587_904, 55_293_952),
    "adamax": (55_293_952, 27_646_976, 110_587_904, 55_293_952),
    "amsgrad": (82_940_928, 27_646_976, 165_881_856, 55_293_952),
    "sgd": (0, 0, 0, 0),
    "sgd_momentum": (27_646_976, 0, 55_293_952, 0),
    "adagrad": (27_646_976, 55_293_952, 55_293_952, 110_587_904),
    "rmsprop": (27_646_976, 27_646_976, 55_293_952, 55_293_952),
    "adadelta": (55_293_952, 55_293_952, 110_587_904, 110_587_904),
    "asgd": (27_693_056, 27_646_976, 55_340_032, 55_293_952),
    "rprop": (55_293_952, 35_327_488, 110_587_904, 68_094_464),
    "muon": (37_894_144, 10_247_168, 75_788_288, 20_494_336),
    "adafactor": (186_880, 40_982_528, 186_880, 20_502_528),
    "adamw_8bit": (28_108_800, 0, 28_108_800, 0),
    "adamw_32bit": (110_587_904, 0, 110_587_904, 0),
    "lion_8bit": (14_054_400, 0, 14_054_400, 0),
    "lion_32bit": (55_293_952, 0, 55_293_952, 0),
    "ademamix_8bit": (42_156_544, 0, 42_156_544, 0),
    "ademamix_32bit": (165_881_856, 0, 165_881_856, 0),
    "rmsprop_bnb_8bit": (14_054_400, 0, 14_054_400, 0),
    "grokadamw": (0, 25_601_024, 0, 51_202_048),
    "schedule_free_adamw": (55_293_952, 27_646_976, 110_587_904, 55_293_952),
    "schedule_free_sgd": (27_646_976, 0, 55_293_952, 0),
}
"""Bytes that the real optimizers allocated on fake CUDA tensors for this model (torch 2.13, bitsandbytes 0.50,
transformers 5.23, grokadamw 0.1.2, schedulefree 1.4.1): states after a step, and the step's highest point over
its start with states in place. In blocks of 512 bytes."""
PROJECTED_STATES = {
    "galore_adamw": (32_339_968, 77_262_848),
    "galore_adamw_8bit": (17_614_848, 32_557_056),
    "galore_adafactor": (17_462_272, 17_462_272),
    "apollo_adamw": (32_350_720, 64_690_688),
}
"""The same for projections (galore-torch 1.0, apollo-torch 1.0.3): states in bf16 and fp32."""


def model(dt: DType) -> list[Trained]:
    """The parameters that were measured, equal layers together."""
    layers = [Trained(name, shape, dt, LAYERS, "linear" if len(shape) == 2 else "") for name, shape in LAYER]
    head = Trained("head", (VOCABULARY, HIDDEN), dt, 1, "head")
    return [Trained("embed", (VOCABULARY, HIDDEN), dt, 1, "embedding"), *layers, Trained("norm", (HIDDEN,), dt), head]


def step_peak(name: str, dt: DType) -> int:
    """Bytes that one step makes."""
    tracer = Tracer()
    tracer.phase("optimizer")
    optimizers.find(name).step(Scratch(tracer), model(dt))
    tracer.phase("end")
    timeline = read(tracer)
    assert timeline.ends[0] == 0, "something outlived the step"
    return timeline.highs[0].bytes


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_every_name_of_trainer_is_known(name: str) -> None:
    found = optimizers.find(name)
    assert name in (found.name, *found.aliases)
    assert found.source
    assert found.per_parameter


def test_names_are_unique() -> None:
    names = [n for o in optimizers.optimizers().values() for n in (o.name, *o.aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(SettingError, match="adamw_torch_fuse") as caught:
        optimizers.find("adamw_torch_fuse")
    assert caught.value.hint == "Did you mean adamw_torch_fused?"


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("dt", [BF16, F32], ids=["bf16", "fp32"])
def test_states_and_step_are_those_of_the_real_optimizer(name: str, dt: DType) -> None:
    states, step = MEASURED[name][:2] if dt is BF16 else MEASURED[name][2:]
    assert optimizers.state_total(optimizers.find(name), model(dt), trainer=False) == states
    assert step_peak(name, dt) == pytest.approx(step, abs=1024)


@pytest.mark.parametrize("name", PROJECTED_STATES)
def test_states_of_projections(name: str) -> None:
    bf16, fp32 = PROJECTED_STATES[name]
    assert optimizers.state_total(optimizers.find(name), model(BF16), trainer=False) == bf16
    assert optimizers.state_total(optimizers.find(name), model(F32), trainer=False) == fp32


def test_paged_states_are_in_host_memory() -> None:
    big, small = Trained("big", (400, 400), BF16), Trained("small", (300, 300), BF16)
    assert state_bytes(optimizers.find("paged_adamw_32bit"), big) == 0
    assert state_bytes(optimizers.find("paged_adamw_32bit"), small) == 2 * 300 * 300 * 4 // 512 * 512 + 2 * 512 * (
        300 * 300 * 4 % 512 > 0
    )
    # the absmax of an 8-bit state is no paged tensor: 160,000 / 256 = 625 values of 4 bytes, twice
    assert state_bytes(optimizers.find("paged_adamw_8bit"), big) == 2 * 2560


def test_eight_bit_states_start_at_4096_elements() -> None:
    adam = optimizers.find("adamw_bnb_8bit")
    assert state_bytes(adam, Trained("a", (4095,), BF16)) == 2 * 16384  # fp32
    assert state_bytes(adam, Trained("b", (4096,), BF16)) == 2 * 4096 + 2 * 512


@pytest.mark.parametrize(
    ("cell", "config", "optim", "tokens", "checkpointing", "expected"),
    [
        ("sim-5db802da5f", LLAMA_2_7B, "adafactor", 512, True, 29_079_504_896),
        ("sim-cf6ea335d2", LLAMA_32_1B, "adamw_bnb_8bit", 1024, True, 8_521_641_984),
        ("sim-cecdb28deb", LLAMA_32_1B, "sgd", 512, False, 6_010_980_352),
    ],
)
def test_full_fine_tuning_as_simulated(
    cell: str, config: dict[str, object], optim: str, tokens: int, checkpointing: bool, expected: int
) -> None:
    given = {"optim": optim, "seq_len": tokens, "gradient_checkpointing": checkpointing, "dtype": "bfloat16"}
    e = estimate(config, "full", stack=SIMULATED, **given)
    assert e.peak_allocated_bytes == pytest.approx(expected, rel=1e-4), cell


def test_trainer_keeps_states_of_embeddings_in_32_bits() -> None:
    """GlobalOptimManager override: assumed unless the stack says that the loop is a plain one."""
    plain = estimate(LLAMA_32_1B, "full", optim="adamw_bnb_8bit", stack=SIMULATED)
    trainer = estimate(LLAMA_32_1B, "full", optim="adamw_bnb_8bit")
    named = estimate(LLAMA_32_1B, "full", optim="adamw_bnb_8bit", stack={**SIMULATED, "accelerate": "1.15.0"})
    assert plain.steady_bytes is not None
    assert trainer.steady_bytes is not None
    n = 128256 * 2048
    assert trainer.steady_bytes - plain.steady_bytes == 8 * n - (2 * n + 2 * n // 256 * 4)
    assert named.steady_bytes == trainer.steady_bytes


def test_updates_in_backward_need_one_gpu_and_no_accumulation() -> None:
    for given in ({"gradient_accumulation_steps": 4}, {"num_gpus": 2}):
        e = estimate(LLAMA_32_1B, "full", optim="galore_adamw_layerwise", **given)
        assert e.status == "skipped"
        assert e.reason is not None
        assert "during backward" in e.reason


def test_layerwise_updates_leave_no_gradients() -> None:
    whole = estimate(LLAMA_2_7B, "full", optim="galore_adamw", dtype="bfloat16")
    layerwise = estimate(LLAMA_2_7B, "full", optim="galore_adamw_layerwise", dtype="bfloat16")
    assert whole.breakdown is not None
    assert layerwise.breakdown is not None
    assert whole.breakdown.gradients_bytes >= 2 * 6_738_415_616
    assert layerwise.breakdown.gradients_bytes <= 2 * 32000 * 4096  # one table at most
    assert whole.steady_bytes == layerwise.steady_bytes


def test_lora_fa_trains_b_only() -> None:
    """q_proj and v_proj of 16 layers: B is out x r."""
    e = estimate(LLAMA_32_1B, "lora", optim="lora_fa", peft={"r": 32}, stack={"peft": "0.17.0"})
    assert e.trainable_parameters == 16 * 32 * (2048 + 512)
    plain = estimate(LLAMA_32_1B, "lora", optim="adamw_torch", peft={"r": 32}, stack={"peft": "0.17.0"})
    newer = estimate(LLAMA_32_1B, "lora", optim="lora_fa", peft={"r": 32}, gradient_checkpointing=False)
    older = estimate(
        LLAMA_32_1B, "lora", optim="lora_fa", peft={"r": 32}, gradient_checkpointing=False, stack={"peft": "0.17.0"}
    )
    assert plain.trainable_parameters == 16 * 32 * (2048 + 512 + 2 * 2048)
    assert newer.peak_allocated_bytes is not None
    assert older.peak_allocated_bytes is not None
    # an fp32 copy of the input of q_proj and of v_proj in every layer is kept again
    assert newer.peak_allocated_bytes - older.peak_allocated_bytes > 0.9 * 16 * 2 * 2048 * 2048 * 4


def test_the_page_is_what_the_catalogue_says() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "optimizers.md"
    assert page.read_text(encoding="utf-8") == doc.markdown(), "run `python -m hubvram.plan.optimizers.doc`"


def test_the_page_names_every_optimizer() -> None:
    text = doc.markdown()
    for name in OPTIMIZER_NAMES:
        assert f"`{name}`" in text
