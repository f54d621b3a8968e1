"""How much of a file to ask for, so that its header comes in one request and little else with it.

The header of a safetensors file grows with its tensors: some 115 bytes each.
Their number is known exactly from an index, roughly from the config. A guess
that is too small costs one more request, one that is too large costs bytes;
nothing else depends on it. The figures were taken from the headers of 100
published models (tests/hub/test_requests.py holds them to the fixtures).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

BLIND = 100_000
"""Where nothing is known. The headers of 97 % of the thousand most used models fit."""
ADAPTER = 65_536
"""A LoRA on all seven matrices of 32 layers has 448 tensors: 60 kB."""
_FOLDERS: Mapping[str, int] = {"unet": 225_000, "vae": 32_000, "text_encoder": 64_000, "text_encoder_2": 64_000}
"""Of pipelines: Stable Diffusion 1.5 and XL, whose second text encoder has 63 kB, their unets 84 and 223 kB."""
_SLACK = 4_096
_LARGEST = 2_000_000
_PER_NAMED_TENSOR = 88
"""Bytes of an entry besides the name: dtype, shape, offsets with eleven digits, punctuation."""
_PER_LAYER_RMS = 1_500
"""A layer of a Llama-like decoder: 9 to 12 tensors."""
_PER_LAYER_OTHER = 2_450
"""A layer with biases and LayerNorms: up to 21 tensors."""
_PER_EXPERT_LINEAR = 130
_PER_QUANTISED_LINEAR: Mapping[str, int] = {"gptq": 520, "awq": 330, "bitsandbytes": 680}
_PER_QUANTISED_LINEAR_OTHER = 330
_UNSTATED_TOWER = 24
"""Layers of a vision or audio tower whose config leaves the number to the class."""
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "depth", "encoder_layers")
_EXPERT_KEYS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
_INDEX_TO_HEADER = 1.46
"""Bytes of all headers per byte of the index: 1.30 to 1.45 seen."""
_UNEVEN = 1.3
_SHARE_FLOOR = 40_000


def from_folder(folder: str) -> int:
    """Bytes that hold the header of a pipeline's component, by the name of its folder."""
    return _FOLDERS.get(folder.rpartition("/")[2], BLIND)


def from_names(names: Iterable[str]) -> int:
    """Bytes that hold the header of a shard with these tensors."""
    return 256 + sum(len(n) + _PER_NAMED_TENSOR for n in names)


def from_index_size(index_size: int | None, shards: int) -> int:
    """Bytes that hold the header of each of several shards, known only by the size of their index."""
    if index_size is None:
        return BLIND
    total = int(index_size * _INDEX_TO_HEADER) + 512
    if shards <= 3:
        return total
    return min(total, max(int(total / shards * _UNEVEN), _SHARE_FLOOR))


def from_config(config: Mapping[str, Any]) -> int:
    """Bytes that hold the header of a model's only file, as far as its config tells."""
    guess = _tower(config, config.get("quantization_config"), 0)
    return min(guess + _SLACK, _LARGEST) if guess else BLIND


def _tower(config: Mapping[str, Any], quantised: Any, depth: int) -> int:
    layers = next((config[k] for k in _LAYER_KEYS if _is_count(config.get(k))), 0)
    decoder = next((config[k] for k in ("num_decoder_layers", "decoder_layers") if _is_count(config.get(k))), None)
    if decoder is not None:
        layers += decoder
    elif config.get("is_encoder_decoder") is True:
        layers *= 2
    experts = next((config[k] for k in _EXPERT_KEYS if _is_count(config.get(k))), 0)
    per_layer = _PER_LAYER_RMS if "rms_norm_eps" in config else _PER_LAYER_OTHER
    linears = 4 + 3 * max(1, experts)
    per_layer += 3 * experts * _PER_EXPERT_LINEAR
    if isinstance(quantised, Mapping):
        method = str(quantised.get("quant_method", ""))
        per_layer += linears * _PER_QUANTISED_LINEAR.get(method, _PER_QUANTISED_LINEAR_OTHER)
    guess = layers * per_layer
    if depth < 2:
        for key, inner in config.items():
            if key.endswith("_config") and key != "quantization_config" and isinstance(inner, Mapping):
                part = _tower(inner, quantised if "text" in key else None, depth + 1)
                tower = any(word in key for word in ("vision", "audio", "text"))
                guess += part or (_UNSTATED_TOWER * _PER_LAYER_OTHER if tower else 0)
    return int(guess)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 100_000
