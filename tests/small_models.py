"""Configs of real models as far as the estimator reads them, and a short way to an estimate."""

from __future__ import annotations

from typing import Any

from hubvram import estimator
from hubvram.plan.settings import Settings
from hubvram.report.record import Estimate
from hubvram.snapshot.records import Snapshot, TensorInfo

LLAMA_32_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
LLAMA_2_7B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}
MISTRAL_7B: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-05,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
QWEN_25_05B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
    "vocab_size": 151936,
}
SIMULATED = {"transformers": "5.23.0", "peft": "0.21.2", "torch": "2.13.0"}
"""The stack of the simulated truth: a plain training loop."""


def snapshot(config: dict[str, Any], tensors: tuple[TensorInfo, ...] = ()) -> Snapshot:
    """A repository of which only the config matters."""
    return Snapshot("org/model", "main", "0" * 40, "https://hub.example", "hub", config, tensors)


def estimate(config: dict[str, Any], method: str, tensors: tuple[TensorInfo, ...] = (), **given: Any) -> Estimate:
    """One estimate."""
    _, [e] = estimator.estimate(snapshot(config, tensors), Settings.from_kwargs(**given), [method])
    return e


def parameters(config: dict[str, Any], *, layers: int | None = None, outside: bool = True) -> int:
    """Parameters of a Llama-like model without biases, worked out from its sizes."""
    h, f = config["hidden_size"], config["intermediate_size"]
    kv = h // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = 2 * h * h + 2 * h * kv + 3 * h * f + 2 * h
    count = config["num_hidden_layers"] if layers is None else layers
    tables = config["vocab_size"] * h * (1 if config["tie_word_embeddings"] else 2)
    return layer * count + (tables + h if outside else 0)
