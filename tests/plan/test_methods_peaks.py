"""Peaks of every method against PEFT's own code on fake CUDA tensors: cells of the simulated truth, as literals.

Each cell: bf16, one sample of 512 tokens, torch AdamW (foreach), sdpa, no checkpointing, clipping at 1.0;
transformers 5.23, peft 0.21, torch 2.13. The ids are those of the truth table.
"""

from __future__ import annotations

from typing import Any

import pytest

from hubvram.architecture import families
from hubvram.architecture.config import Config
from hubvram.architecture.header import Header
from hubvram.plan import methods, optimizers
from hubvram.plan.plan import Plan
from hubvram.plan.settings import Settings
from hubvram.plan.stacks import Stack
from hubvram.timeline.dtypes import BY_NAME
from hubvram.timeline.peak import read
from hubvram.timeline.phases import trace

CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "facebook/opt-1.3b": {
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0,
        "do_layer_norm_before": True,
        "dropout": 0.1,
        "ffn_dim": 8192,
        "hidden_size": 2048,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": 32,
        "num_hidden_layers": 24,
        "vocab_size": 50272,
        "word_embed_proj_dim": 2048,
    },
    "meta-llama/Llama-3.2-1B": {
        "architectures": ["LlamaForCausalLM"],
        "attention_dropout": 0.0,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    },
    "mistralai/Mistral-7B-v0.1": {
        "architectures": ["MistralForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "openai-community/gpt2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "vocab_size": 50257,
    },
}

CELLS: list[tuple[str, str, str, dict[str, Any], int, int]] = [
    ("sim-f7752d9a00", "meta-llama/Llama-3.2-1B", "adalora", {}, 1278368, 4141103104),
    ("sim-3bbe349fb6", "Qwen/Qwen2.5-0.5B", "adalora", {}, 811632, 2591326208),
    ("sim-166fc50b2f", "openai-community/gpt2", "bitfit", {}, 102144, 793367040),
    ("sim-3753a9e2c6", "facebook/opt-1.3b", "bitfit", {}, 542720, 3517150208),
    ("sim-e695a7e130", "meta-llama/Llama-3.2-1B", "boft", {}, 303104, 4770019328),
    ("sim-d9333f6520", "Qwen/Qwen2.5-0.5B", "boft", {}, 196608, 2716549120),
    ("sim-0d4d3f2a59", "meta-llama/Llama-3.2-1B", "dora", {"lora_alpha": 32, "r": 16}, 1744896, 4181217280),
    ("sim-9dbd23aff0", "Qwen/Qwen2.5-0.5B", "dora", {"lora_alpha": 32, "r": 16}, 1105920, 2615320576),
    ("sim-e724496d63", "meta-llama/Llama-3.2-1B", "fourierft", {}, 32000, 4348409856),
    ("sim-7151f4eedc", "Qwen/Qwen2.5-0.5B", "fourierft", {}, 48000, 2610475008),
    ("sim-f8d34e5081", "meta-llama/Llama-3.2-1B", "hra", {}, 524288, 9525377024),
    ("sim-6b2ae3338d", "Qwen/Qwen2.5-0.5B", "hra", {}, 344064, 4091351040),
    ("sim-06de8593bb", "Qwen/Qwen2.5-0.5B", "ia3", {}, 141312, 2703106048),
    ("sim-3b3841d0c3", "openai-community/gpt2", "ia3", {}, 64512, 896999936),
    ("sim-a20270bf63", "meta-llama/Llama-3.2-1B", "ln_tuning", {}, 67584, 3968313344),
    ("sim-02e6d98cff", "Qwen/Qwen2.5-0.5B", "ln_tuning", {}, 21504, 2454811648),
    ("sim-900f32c944", "facebook/opt-1.3b", "loha", {"r": 8}, 3145728, 4523705344),
    ("sim-05ede1df8a", "mistralai/Mistral-7B-v0.1", "loha", {"r": 8}, 6815744, 20200474624),
    ("sim-368673622f", "facebook/opt-1.3b", "lokr", {"r": 8}, 98304, 4487922688),
    ("sim-9f80c9e86d", "meta-llama/Llama-3.2-1B", "miss", {}, 2621440, 3934353408),
    ("sim-cf74b960cb", "Qwen/Qwen2.5-0.5B", "miss", {}, 1572864, 2461773824),
    ("sim-73c3ca8554", "meta-llama/Llama-3.2-1B", "oft", {}, 1015808, 4078401536),
    ("sim-c5e79d0af2", "Qwen/Qwen2.5-0.5B", "oft", {}, 666624, 2554908672),
    ("sim-fa1f1cc84b", "meta-llama/Llama-3.2-1B", "p_tuning", {"num_virtual_tokens": 20}, 583936, 3965346816),
    ("sim-f96c5503ab", "mistralai/Mistral-7B-v0.1", "p_tuning", {"num_virtual_tokens": 20}, 1151232, 17101162496),
    ("sim-e3524380d7", "meta-llama/Llama-3.2-1B", "prefix_tuning", {"num_virtual_tokens": 20}, 327680, 3964500480),
    ("sim-ee77b6d425", "Qwen/Qwen2.5-0.5B", "prefix_tuning", {"num_virtual_tokens": 20}, 122880, 2490921472),
    ("sim-ef2dc49bb1", "openai-community/gpt2", "prompt_tuning", {"num_virtual_tokens": 20}, 15360, 814161408),
    ("sim-3bf3bf134d", "mistralai/Mistral-7B-v0.1", "prompt_tuning", {"num_virtual_tokens": 20}, 81920, 17087982592),
    ("sim-af426d3405", "meta-llama/Llama-3.2-1B", "randlora", {}, 2269184, 4294244352),
    ("sim-18f0526d6c", "Qwen/Qwen2.5-0.5B", "randlora", {}, 638976, 2573299712),
    ("sim-dfa193e717", "meta-llama/Llama-3.2-1B", "vera", {}, 49152, 4004149248),
    ("sim-36fbc226c5", "Qwen/Qwen2.5-0.5B", "vera", {}, 36864, 2514382848),
]


def traced(repo: str, method: str, peft: dict[str, Any], **more: Any) -> tuple[Plan, Any, Any]:
    config = CONFIGS[repo]
    family = families.find(config["model_type"])
    assert family is not None
    values = {"seq_len": 512, "dtype": "bfloat16", "optim": "adamw_torch", "gradient_checkpointing": False, **more}
    settings = Settings(peft=peft, **values)
    plan = Plan(
        family.build(Config(config), Header([])),
        methods.find(method),
        settings,
        base_dtype=BY_NAME[settings.dtype],
        optimizer=optimizers.find(settings.optim),
        stack=Stack.parse({}),
        tokens=512,
        source_tokens=512,
    )
    tracer, net = trace(plan)
    return plan, read(tracer), net


@pytest.mark.parametrize(("cell", "repo", "method", "peft", "trainable", "peak"), CELLS)
def test_peak(cell: str, repo: str, method: str, peft: dict[str, Any], trainable: int, peak: int) -> None:
    plan, timeline, _ = traced(repo, method, peft)
    assert plan.trainable_parameters() == trainable, cell
    assert timeline.peak.bytes == pytest.approx(peak, rel=0.0005), cell


@pytest.mark.parametrize("method", methods.names())
@pytest.mark.parametrize("checkpointing", [True, False])
def test_everything_is_freed_and_every_gradient_arrives(method: str, checkpointing: bool) -> None:
    from hubvram.plan.methods.base import Skip

    try:
        plan, timeline, net = traced("openai-community/gpt2", method, {}, gradient_checkpointing=checkpointing)
    except Skip:
        return
    assert timeline.ends[-1] == 0
    assert {p.name for p in net.params if p.node is not None and p.node.expected > 0} <= plan.method.idle


def test_a_shadow_runs_beside_the_decoder() -> None:
    """6 layers of 1024 x 2816, 8 heads, 4 of keys, 1000 tokens in the table; two samples of 256 tokens.

    PEFT's own code on fake CUDA tensors (peft 0.21.2): 351.2 MiB with checkpointing, 428.3 MiB without.
    """
    config = {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
    }
    family = families.find("llama")
    assert family is not None
    arch = family.build(Config(config), Header([]))
    for checkpointing, mebibytes in ((True, 351.2), (False, 428.3)):
        settings = Settings(
            batch_size=2, seq_len=256, dtype="bfloat16", optim="adamw_torch", gradient_checkpointing=checkpointing
        )
        plan = Plan(
            arch,
            methods.find("shadow"),
            settings,
            base_dtype=BY_NAME["bfloat16"],
            optimizer=optimizers.find(settings.optim),
            stack=Stack.parse({}),
            tokens=256,
            source_tokens=256,
        )
        tracer, _ = trace(plan)
        assert read(tracer).peak.bytes / 2**20 == pytest.approx(mebibytes, abs=0.1)


def test_prefixes_turn_checkpointing_off_and_say_so() -> None:
    plan, _, _ = traced("openai-community/gpt2", "prefix_tuning", {}, gradient_checkpointing=True)
    assert not plan.checkpointing
    assert plan.method.no_checkpointing is not None


def test_virtual_tokens_lengthen_the_logits() -> None:
    # 3 x 4 bytes per logit at the start of backward: log-probabilities and two gradients
    vocab = CONFIGS["meta-llama/Llama-3.2-1B"]["vocab_size"]
    peaks = [
        traced("meta-llama/Llama-3.2-1B", "prompt_tuning", {"num_virtual_tokens": n})[1].peak.bytes for n in (20, 120)
    ]
    assert peaks[1] - peaks[0] > 100 * vocab * 12


def test_a_quantised_base_without_a_layer_is_skipped() -> None:
    from hubvram.plan.methods.base import Skip

    with pytest.raises(Skip, match="4-bit"):
        traced("meta-llama/Llama-3.2-1B", "loha", {}, quantization={"load_in_4bit": True})


def test_an_unknown_key_names_the_nearest() -> None:
    from hubvram.errors import SettingError

    with pytest.raises(SettingError) as raised:
        traced("meta-llama/Llama-3.2-1B", "vera", {"vera_dropuot": 0.1})
    assert "vera_dropout" in (raised.value.hint or "")
