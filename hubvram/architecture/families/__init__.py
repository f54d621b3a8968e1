"""One file per family of models; `FAMILIES` finds them.

To add a family: write ``families/NAME.py`` with a ``FAMILY = Family(...)`` and
list the module's name below. What several families share stands in the modules
with an underscore: `_decoder` (Llama's outline), `_variant` and `_windows` (of the
records in `variants`), `_rotary`, `_gpt`, `_older` (losses and norms of old code),
`_moe` and `_routers`, `_mamba`, `_encoder` (BERT's outline and classifiers),
`_seq2seq`, `_vision`, `_vision_towers` and `_vision_language`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture

Builder = Callable[[Config, Header], Architecture]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models that share a description."""

    name: str
    model_types: tuple[str, ...]
    """``model_type`` values of config.json that this family builds."""
    build: Builder
    source: str
    """Where the description was read: file and version."""
    examples: tuple[str, ...] = ()


MODULES: dict[str, tuple[str, ...]] = {
    "llama": (
        "llama",
        "mistral",
        "ministral",
        "ministral3",
        "qwen2",
        "qwen3",
        "phi3",
        "phi",
        "stablelm",
        "starcoder2",
        "gemma",
        "gemma2",
        "gemma3_text",
        "vaultgemma",
        "olmo",
        "olmo2",
        "olmo3",
        "cohere",
        "cohere2",
        "granite",
        "hyperclovax",
        "smollm3",
        "glm",
        "glm4",
        "nemotron",
        "exaone4",
        "seed_oss",
        "hunyuan_v1_dense",
        "ernie4_5",
        "arcee",
        "helium",
        "cwm",
        "jais2",
        "apertus",
        "internlm2",
        "exaone",
    ),
    "bert": ("bert", "roberta", "xlm-roberta", "camembert", "electra"),
    "distilbert": ("distilbert",),
    "wav2vec2": ("wav2vec2",),
    "clip": ("clip", "siglip"),
    "vit": ("vit", "deit", "dinov2"),
    "whisper": ("whisper",),
    "bart": ("bart", "mbart", "pegasus", "marian"),
    "t5": ("t5", "mt5", "umt5"),
    "modernbert": ("modernbert",),
    "deberta": ("deberta-v2",),
    "albert": ("albert",),
    "mpnet": ("mpnet",),
    "moe": (
        "mixtral",
        "qwen2_moe",
        "qwen3_moe",
        "olmoe",
        "glm4_moe",
        "dots1",
        "phimoe",
        "granitemoe",
        "granitemoeshared",
    ),
    "deepseek": ("deepseek_v2", "deepseek_v3"),
    "gpt_oss": ("gpt_oss",),
    "qwen3_next": ("qwen3_next",),
    "llama4": ("llama4", "llama4_text"),
    "mamba": ("mamba", "falcon_mamba"),
    "mamba2": ("mamba2",),
    "jamba": ("jamba",),
    "mistral3": ("mistral3",),
    "idefics3": ("idefics3", "smolvlm"),
    "llava": ("llava",),
    "gemma3": ("gemma3",),
    "qwen_vl": ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
    "gpt2": ("gpt2",),
    "gptj": ("gptj", "codegen"),
    "gpt_neox": ("gpt_neox",),
    "opt": ("opt",),
    "bloom": ("bloom",),
    "falcon": ("falcon", "RefinedWeb", "RefinedWebModel"),
    "gpt_bigcode": ("gpt_bigcode",),
    "gpt_neo": ("gpt_neo",),
    "mpt": ("mpt",),
    "qwen": ("qwen",),
    "baichuan": ("baichuan",),
    "chatglm": ("chatglm",),
}
"""Module name -> the model_types it builds. A test holds this against each module's own ``FAMILY``;
it stands here too so that one model needs one import."""


def find(model_type: str | None) -> Family | None:
    """The family that builds ``model_type``; None if no family does."""
    for module, types in MODULES.items():
        if model_type in types:
            family: Family = import_module(f"hubvram.architecture.families.{module}").FAMILY
            return family
    return None


def unknown() -> Family:
    """The description for a model that no family builds: its header alone."""
    family: Family = import_module("hubvram.architecture.families.generic").FAMILY
    return family


def families() -> Iterable[Family]:
    """Every family, imported."""
    for module in MODULES:
        yield import_module(f"hubvram.architecture.families.{module}").FAMILY


def catalogue() -> list[dict[str, Any]]:
    """For ``hubvram architectures``: plain values."""
    return [
        {
            "family": f.name,
            "model_types": list(f.model_types),
            "source": f.source,
            "examples": list(f.examples),
        }
        for f in families()
    ]
