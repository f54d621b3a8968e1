"""Options become settings: the names of TrainingArguments, PEFT and bitsandbytes, and a PEFT config file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hubvram.cli.options import CONTEXT, parse_stack, read_peft_config, setting_options, take_settings
from hubvram.errors import SettingError
from hubvram.plan.settings import Settings


def taken(*arguments: str, **environment: str) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """What a command makes of the setting options."""
    found: list[Any] = []

    @click.command(context_settings=CONTEXT)
    @setting_options
    def probe(**options: Any) -> None:
        found.append(take_settings(options))
        assert options == {}

    result = CliRunner().invoke(probe, list(arguments), env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]  # type: ignore[no-any-return]


def test_nothing_given_is_every_default() -> None:
    settings, methods = taken()
    assert settings == {}
    assert methods is None


def test_every_flag_reaches_its_setting() -> None:
    settings, methods = taken(
        *"-m lora --method qlora --batch-size 4 --seq-len 512 --source-len 128 --image-tokens 576".split(),
        *"--dtype float16".split(),
        *"--mixed-precision bf16 --optim sgd --no-gradient-checkpointing --attn-implementation eager --padding".split(),
        *"--max-grad-norm 0".split(),
        *"--gradient-accumulation-steps 8 --use-liger-kernel --keep-outputs --num-gpus 2 --strategy zero2".split(),
        *"--offload optimizer --stack transformers=4.48,peft=0.13 --r 8 --lora-alpha 32 --lora-dropout 0.1".split(),
        *"--target-modules q_proj,v_proj --num-virtual-tokens 20 --bnb-4bit-quant-type fp4".split(),
        *"--no-bnb-4bit-use-double-quant --bnb-4bit-compute-dtype float16 --no-prepare-kbit".split(),
    )
    assert methods == ("lora", "qlora")
    assert settings == {
        "batch_size": 4,
        "seq_len": 512,
        "source_len": 128,
        "image_tokens": 576,
        "dtype": "float16",
        "mixed_precision": "bf16",
        "optim": "sgd",
        "gradient_checkpointing": False,
        "attn_implementation": "eager",
        "padding": True,
        "max_grad_norm": 0.0,
        "gradient_accumulation_steps": 8,
        "use_liger_kernel": True,
        "keep_outputs": True,
        "num_gpus": 2,
        "strategy": "zero2",
        "offload": "optimizer",
        "stack": {"transformers": "4.48", "peft": "0.13"},
        "peft": {
            "r": 8,
            "lora_alpha": 32,
            "lora_dropout": 0.1,
            "target_modules": ["q_proj", "v_proj"],
            "num_virtual_tokens": 20,
        },
        "quantization": {
            "bnb_4bit_quant_type": "fp4",
            "bnb_4bit_use_double_quant": False,
            "bnb_4bit_compute_dtype": "float16",
            "prepare_model_for_kbit_training": False,
        },
    }
    Settings.from_kwargs(**settings)


def test_every_setting_has_a_flag() -> None:
    flagged = {param.name for param in setting_options(lambda: None).__click_params__}
    assert set(Settings().to_dict()) - {"peft", "quantization"} <= flagged


def test_variables_stand_for_flags_and_flags_win() -> None:
    settings, methods = taken(
        "--batch-size",
        "2",
        HUBVRAM_BATCH_SIZE="8",
        HUBVRAM_SEQ_LEN="64",
        HUBVRAM_METHODS="full lora",
        HUBVRAM_GRADIENT_CHECKPOINTING="0",
    )
    assert settings == {"batch_size": 2, "seq_len": 64, "gradient_checkpointing": False}
    assert methods == ("full", "lora")


@pytest.mark.parametrize(
    ("typed", "value"),
    [("all-linear", "all-linear"), (r".*\.(q|v)_proj$", r".*\.(q|v)_proj$"), ("q, v,", ["q", "v"]), ("q", ["q"])],
)
def test_target_modules(typed: str, value: object) -> None:
    assert taken("--target-modules", typed)[0]["peft"] == {"target_modules": value}


def test_peft_config_is_merged_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    written = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/base",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": 64,
        "lora_alpha": 128,
        "target_modules": ["q_proj"],
        "layers_to_transform": None,
        "rank_pattern": {},
        "use_dora": False,
    }
    file.write_text(json.dumps(written))
    settings, methods = taken("--peft-config", str(file), "--r", "8")
    assert settings["peft"] == {"r": 8, "lora_alpha": 128, "target_modules": ["q_proj"], "use_dora": False}
    assert methods == ("lora",)
    assert taken("--peft-config", str(file), "-m", "qlora")[1] == ("qlora",)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"peft_type": "LORA", "use_dora": True}, "dora"),
        ({"peft_type": "LORA", "use_rslora": True}, "rslora"),
        ({"peft_type": "IA3"}, "ia3"),
        ({"r": 4}, None),
    ],
)
def test_peft_type_names_the_method(tmp_path: Path, config: dict[str, object], method: str | None) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(config))
    assert read_peft_config(str(file))[1] == method


@pytest.mark.parametrize("text", ["{", "[]", "3", ""])
def test_a_peft_config_that_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(text)
    with pytest.raises(SettingError, match=r"c\.json"):
        read_peft_config(str(file))


def test_a_peft_config_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No such file"):
        read_peft_config(str(tmp_path / "none.json"))


def test_stack() -> None:
    assert parse_stack("transformers=4.48, peft==0.13") == {"transformers": "4.48", "peft": "0.13"}
    for bad in ("transformers", "=4", "torch=", "a=1,,"):
        with pytest.raises(SettingError, match="stack"):
            parse_stack(bad)
