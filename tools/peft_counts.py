"""Trainable parameters as PEFT itself counts them, for every PEFT type on small models of many families.

Writes ``fixtures/peft_counts.json`` (and, with ``--keys``, ``hubvram/plan/methods/peft_keys.py``).
Needs transformers, peft, torch and scikit-learn, which the project itself does not:

    python tools/peft_counts.py            # about two minutes on a CPU
    python tools/peft_counts.py --keys
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import pathlib
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "fixtures" / "peft_counts.json"
KEYS = ROOT / "hubvram" / "plan" / "methods" / "peft_keys.py"

H, F, L, A, KV, V = 128, 192, 3, 4, 2, 300
BASE = {
    "hidden_size": H,
    "intermediate_size": F,
    "num_hidden_layers": L,
    "num_attention_heads": A,
    "num_key_value_heads": KV,
    "vocab_size": V,
    "max_position_embeddings": 128,
}
NO_KV = {k: v for k, v in BASE.items() if k != "num_key_value_heads"}
MODELS = {
    "llama": BASE,
    "mistral": BASE,
    "qwen2": BASE,
    "qwen3": {**BASE, "head_dim": 32},
    "gemma": {**BASE, "head_dim": 32, "pad_token_id": 0},
    "gemma2": {**BASE, "head_dim": 32, "pad_token_id": 0},
    "gemma3_text": {**BASE, "head_dim": 32, "pad_token_id": 0},
    "phi": {**BASE, "num_key_value_heads": A},
    "phi3": {**BASE, "pad_token_id": 0},
    "stablelm": BASE,
    "starcoder2": BASE,
    "olmo2": {**BASE, "pad_token_id": 0},
    "cohere": {**BASE, "pad_token_id": 0},
    "granite": {**BASE, "pad_token_id": 0},
    "gpt_neox": NO_KV,
    "opt": {
        "hidden_size": H,
        "ffn_dim": F,
        "num_hidden_layers": L,
        "num_attention_heads": A,
        "vocab_size": V,
        "word_embed_proj_dim": H,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
    },
    "gpt2": {"n_embd": H, "n_layer": L, "n_head": A, "vocab_size": V, "n_positions": 128},
    "gptj": {"n_embd": H, "n_layer": L, "n_head": A, "vocab_size": V, "n_positions": 128, "rotary_dim": 16},
    "bloom": {"hidden_size": H, "n_layer": L, "n_head": A, "vocab_size": V},
    "falcon": {
        "hidden_size": H,
        "num_hidden_layers": L,
        "num_attention_heads": A,
        "vocab_size": V,
        "multi_query": True,
        "new_decoder_architecture": False,
        "alibi": False,
        "parallel_attn": True,
        "bias": False,
    },
    "mpt": {"d_model": H, "n_layers": L, "n_heads": A, "vocab_size": V, "max_seq_len": 128, "expansion_ratio": 2},
    "bert": {**NO_KV, "num_labels": 3},
    "roberta": {**NO_KV, "num_labels": 3, "pad_token_id": 1},
    "t5": {"d_model": H, "d_ff": F, "num_layers": L, "num_heads": A, "d_kv": 32, "vocab_size": V},
    "bart": {
        "d_model": H,
        "encoder_ffn_dim": F,
        "decoder_ffn_dim": F,
        "encoder_layers": L,
        "decoder_layers": L,
        "encoder_attention_heads": A,
        "decoder_attention_heads": A,
        "vocab_size": V,
        "max_position_embeddings": 128,
    },
}
TASK = {"bert": "SEQ_CLS", "roberta": "SEQ_CLS", "t5": "SEQ_2_SEQ_LM", "bart": "SEQ_2_SEQ_LM"}

NEEDED = {
    "PROMPT_TUNING": {"num_virtual_tokens": 20},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 20},
    "P_TUNING": {"num_virtual_tokens": 20, "encoder_hidden_size": 128},
    "PREFIX_TUNING": {"num_virtual_tokens": 20},
    "CARTRIDGE": {"num_virtual_tokens": 20},
    "CPT": {"cpt_token_ids": [0, 1, 2]},
    "LORA": {"r": 16},
    "ADALORA": {"total_step": 100},
    "TRAINABLE_TOKENS": {"token_indices": [0, 5]},
    "ADAPTION_PROMPT": {"adapter_len": 10, "adapter_layers": 2},
    "C3A": {"block_size": 32},
    "ADAMSS": {"r": 16},
    "FROD": {"progressbar": False},
    "VBLORA": {"vector_length": 32},
}
"""What PEFT insists on, or what makes the default fit so small a model."""

SECOND = {
    "LORA": [
        {"r": 8, "target_modules": "all-linear"},
        {"r": 8, "use_dora": True},
        {"r": 4, "bias": "all"},
        {"r": 8, "layers_to_transform": [1], "target_modules": "FIRST"},
        {"r": 8, "target_modules": "REGEX"},
        {"r": 8, "init_lora_weights": "mica"},
        {"r": 8, "lora_bias": True},
        {"r": 8, "target_modules": "all-linear", "exclude_modules": "FIRST"},
        {"r": 8, "rank_pattern": {"PATTERN": 2}},
        {"r": 8, "trainable_token_indices": [0, 3]},
        {"r": 8, "modules_to_save": ["HEAD"]},
        {"r": 8, "kasa_config": "KASA"},
    ],
    "ADALORA": [{"total_step": 100, "init_r": 6, "target_modules": "all-linear"}],
    "ADAMSS": [{"r": 8, "num_subspaces": 3}],
    "ADAPTION_PROMPT": [{"adapter_len": 5, "adapter_layers": 3}],
    "BEFT": [{"target_modules": "all-linear"}],
    "BOFT": [{"boft_block_size": 8, "target_modules": "all-linear"}, {"boft_block_num": 16, "boft_block_size": 0}],
    "C3A": [{"block_size": 16, "target_modules": "all-linear"}],
    "CARTRIDGE": [{"num_virtual_tokens": 8, "num_frozen_tokens": 2}],
    "CPT": [{"cpt_token_ids": [1, 2, 3, 4]}],
    "DEFT": [{"r": 4, "target_modules": "all-linear"}, {"r": 16, "para": True}],
    "DELORA": [{"r": 4, "target_modules": "all-linear"}],
    "FOURIERFT": [{"n_frequency": 500, "target_modules": "all-linear"}],
    "FROD": [{"sparse_rate": 0.02, "progressbar": False}],
    "GLORA": [{"r": 4, "target_modules": "all-linear"}, {"config_A_B": "vector", "config_D_E": "vector"}],
    "GRALORA": [{"r": 16, "gralora_k": 4, "target_modules": "all-linear"}, {"r": 8, "hybrid_r": 4}],
    "HIRA": [{"r": 8, "target_modules": "all-linear"}],
    "HRA": [{"r": 4, "target_modules": "all-linear"}],
    "IA3": [{"target_modules": "FIRST", "feedforward_modules": []}],
    "LILY": [{"r": 8, "stride_A": 2, "target_modules": "FIRST"}],
    "LN_TUNING": [{"target_modules": "all-linear"}],
    "LOHA": [{"r": 4, "target_modules": "all-linear"}],
    "LOKR": [{"r": 4, "decompose_both": True, "decompose_factor": 4, "target_modules": "all-linear"}, {"r": 64}],
    "MISS": [{"r": 32, "init_weights": "bat"}, {"r": 32, "init_weights": "mini", "mini_r": 8}],
    "MULTITASK_PROMPT_TUNING": [{"num_virtual_tokens": 10, "num_tasks": 3, "num_ranks": 2}],
    "OFT": [{"oft_block_size": 48, "target_modules": "all-linear"}, {"r": 16, "oft_block_size": 0}],
    "OSF": [{"effective_rank": 100}, {"effective_rank": 0.25}],
    "P_TUNING": [
        {"num_virtual_tokens": 10, "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 32},
        {"num_virtual_tokens": 10, "encoder_hidden_size": None},
    ],
    "PEANUT": [{"r": 8, "depth": 2, "target_modules": "all-linear"}],
    "POLY": [{"r": 4, "n_tasks": 3, "n_skills": 2, "n_splits": 2}],
    "PREFIX_TUNING": [{"num_virtual_tokens": 10, "prefix_projection": True, "encoder_hidden_size": 64}],
    "PROMPT_TUNING": [{"num_virtual_tokens": 7}],
    "PSOFT": [{"r": 16, "psoft_orth": False}, {"r": 16, "psoft_mag_a": False, "target_modules": "all-linear"}],
    "PVERA": [{"r": 64, "target_modules": "all-linear"}],
    "RANDLORA": [{"r": 20, "target_modules": "all-linear"}],
    "ROAD": [{"variant": "road_4", "group_size": 32, "target_modules": "all-linear"}, {"variant": "road_2"}],
    "SHADOW": [{"r": 4}],
    "SHIRA": [{"r": 8, "target_modules": "all-linear"}],
    "SUPERTUNING": [{"sparsity": 0.9}, {"sparsity": 0.95, "r": 4, "lora_alpha": 4}],
    "TINYLORA": [{"u": 16, "weight_tying": 0.5, "target_modules": "all-linear"}],
    "TRAINABLE_TOKENS": [{"token_indices": [1, 2, 3]}],
    "UNILORA": [{"theta_d_length": 100, "target_modules": "all-linear"}],
    "VBLORA": [{"r": 2, "num_vectors": 50, "vector_length": 64}],
    "VERA": [{"r": 64, "target_modules": "all-linear"}],
    "WAVEFT": [
        {"n_frequency": 300, "target_modules": "all-linear"},
        {"n_frequency": 300, "proportional_parameters": True},
    ],
}


def plain(value: object) -> object:
    """A config value as JSON has it."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set):
        return sorted(value)
    if dataclasses.is_dataclass(value):
        return None
    return value


def build(name: str):  # noqa: ANN201 - a transformers model
    """A small model with real weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.CONFIG_MAPPING[name](**MODELS[name])
    task = TASK.get(name, "CAUSAL_LM")
    cls = {
        "CAUSAL_LM": transformers.AutoModelForCausalLM,
        "SEQ_CLS": transformers.AutoModelForSequenceClassification,
        "SEQ_2_SEQ_LM": transformers.AutoModelForSeq2SeqLM,
    }[task]
    return cls.from_config(config), task


def filled(given: dict, peft_type: str, name: str, names: list[str], head: str | None) -> dict | None:
    """Placeholders of `SECOND` for one model; None where they have no meaning."""
    first = names[:1]
    out = {}
    for key, value in given.items():
        if value == "FIRST":
            value = first
        elif value == "REGEX":
            value = rf".*\.[02]\..*\.{first[0]}" if first else None
        elif value == ["HEAD"]:
            value = [head] if head else None
        elif key == "rank_pattern":
            value = {f"{first[0]}": 2} if first else None
        if (value is None and given[key] is not None) or (value == [] and given[key] == "FIRST"):
            return None
        out[key] = value
    return out


def count(name: str, peft_type: str, config_class, given: dict, dtype: str) -> int | str:  # noqa: ANN001
    """``get_nb_trainable_parameters``, or the error's text."""
    import peft
    import torch
    from peft.tuners.lora import config as lora_config

    model, task = build(name)
    model = model.to(getattr(torch, dtype))
    values = dict(given)
    if values.get("kasa_config") == "KASA":
        values["kasa_config"] = lora_config.KasaConfig()
    try:
        fields = {f.name for f in dataclasses.fields(config_class)}
        if peft_type == "CPT" or "task_type" in fields:
            values["task_type"] = task
        wrapped = peft.get_peft_model(model, config_class(**values))
        return int(wrapped.get_nb_trainable_parameters()[0])
    except Exception as error:  # noqa: BLE001 - what PEFT refuses is part of the table
        return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"


def counts() -> None:
    """Write the fixture."""
    import peft.utils.constants as constants
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    models = {}
    rows = []
    for name in MODELS:
        model, task = build(name)
        config = json.loads(json.dumps(model.config.to_dict(), default=str))
        models[name] = {
            "config": {k: v for k, v in config.items() if v is not None and not k.startswith("_")},
            "tensors": {k: list(t.shape) for k, t in model.state_dict().items()},
            "task": task,
            "parameters": model.num_parameters(),
        }
        linear = [n for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")]
        default = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(name)
        names = list(default) if isinstance(default, list) else []
        if not names:
            names = [next(n.rsplit(".", 1)[-1] for n in linear if "." in n)]
        out = model.get_output_embeddings()
        head = next((n for n, m in model.named_modules() if m is out and out is not None), None)
        for peft_type, config_class in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items(), key=lambda kv: kv[0].value):
            kind = peft_type.value
            if kind == "XLORA":
                continue
            for given in [NEEDED.get(kind, {}), *SECOND.get(kind, [])]:
                values = filled(given, kind, name, names, head)
                if values is None:
                    continue
                for dtype in ("float32", "bfloat16") if kind in ("ADALORA", "LN_TUNING") else ("float32",):
                    result = count(name, kind, config_class, values, dtype)
                    row = {"model": name, "peft_type": kind, "config": values, "dtype": dtype}
                    row["error" if isinstance(result, str) else "trainable"] = result
                    rows.append(row)
        print(name, len(rows), flush=True)
    FIXTURE.write_text(dump({"peft": "0.21.2", "transformers": "5.23.0", "models": models, "rows": rows}))


def dump(data: dict) -> str:
    """One model and one row a line."""
    lines = ["{", f' "peft": {json.dumps(data["peft"])}, "transformers": {json.dumps(data["transformers"])},']
    lines.append(' "models": {')
    compact = {k: json.dumps(v, separators=(",", ":")) for k, v in data["models"].items()}
    lines.append(",\n".join(f"  {json.dumps(k)}: {v}" for k, v in compact.items()))
    lines.append(' },\n "rows": [')
    lines.append(",\n".join("  " + json.dumps(r, separators=(",", ":")) for r in data["rows"]))
    lines.append(" ]\n}\n")
    return "\n".join(lines)


def keys() -> None:
    """Write the table of config keys and defaults."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    base = {f.name for f in dataclasses.fields(peft.PeftConfig)}
    own = {
        "target_r",
        "init_r",
        "tinit",
        "tfinal",
        "deltaT",
        "beta1",
        "beta2",
        "orth_reg_weight",
        "total_step",
        "rank_pattern",
    }
    out = [
        '"""Config keys of every PEFT type with their defaults, read from the config classes of peft 0.21.',
        "",
        "Written by ``tools/peft_counts.py --keys``: facts, not code.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Mapping",
        "from typing import Any",
        "",
        "# fmt: off",
        "KEYS: Mapping[str, Mapping[str, Any]] = {",
    ]
    for peft_type, config_class in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items(), key=lambda kv: kv[0].value):
        name = peft_type.value
        items = []
        for f in dataclasses.fields(config_class):
            if f.name in base or (name == "ADALORA" and f.name not in own):
                continue
            value = f.default
            if value is dataclasses.MISSING:
                value = f.default_factory() if f.default_factory is not dataclasses.MISSING else None
            items.append(f'"{f.name}": {plain(value)!r}'.replace("'", '"'))
        out.append(f'    "{name}": {{')
        line = "       "
        for item in items:
            if len(line) + len(item) + 2 > 116:
                out.append(line)
                line = "       "
            line += f" {item},"
        if line.strip():
            out.append(line)
        out.append("    },")
    out += ["}", "# fmt: on"]
    KEYS.write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", action="store_true", help="write the table of config keys instead")
    if parser.parse_args().keys:
        keys()
    else:
        counts()
