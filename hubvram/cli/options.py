"""Options that several commands share: the same words and the same meaning everywhere."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from hubvram.cli.output import Output, keep_secret
from hubvram.errors import SettingError
from hubvram.plan.settings import (
    ATTN_IMPLEMENTATIONS,
    DTYPES,
    MIXED_PRECISION,
    OFFLOADS,
    QUANTIZATION_DEFAULTS,
    STRATEGIES,
    Settings,
)
from hubvram.report.formats import NAMES as FORMATS
from hubvram.report.text import UNITS

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

CONTEXT = {"auto_envvar_prefix": "HUBVRAM", "show_default": True, "max_content_width": 100}
"""Context settings of every command: ``--batch-size`` is ``HUBVRAM_BATCH_SIZE`` in all of them."""

_PEFT_HOUSEKEEPING = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "parent_library",
        "peft_type",
        "peft_version",
        "revision",
        "task_type",
    }
)
"""Keys of an adapter_config.json that say where it came from and nothing of its size."""


def _stack(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Decorators applied so that the first stands first in the help."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _complete_method(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from hubvram.plan.methods import names

    return [name for name in names() if name.startswith(incomplete)]


def _complete_gpu(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from hubvram.gpus import CARDS

    return [card.name for card in CARDS if card.name.lower().startswith(incomplete.lower())]


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--format --json --unit -q -v``, handed to the command as one ``output``."""

    @functools.wraps(function)
    def with_output(
        *args: Any,
        format_: str,
        json_: bool,
        unit: str,
        quiet: bool,
        verbose: int,
        **kwargs: Any,
    ) -> Any:
        output = Output("json" if json_ else format_, unit, quiet=quiet, verbose=verbose)
        return function(*args, output=output, **kwargs)

    return _stack(
        click.option(
            "-f", "--format", "format_", type=click.Choice(FORMATS), default="table", help="Output format, on stdout."
        ),
        click.option("--json", "json_", is_flag=True, help="The same as --format json."),
        click.option(
            "--unit",
            type=click.Choice(tuple(UNITS), case_sensitive=False),
            metavar=f"[{'|'.join(UNITS)}]",
            default="GiB",
            help="Unit of the tables; JSON, CSV and TSV are always in bytes.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="No warnings, hints or progress on stderr."),
        click.option("-v", "--verbose", count=True, help="Log requests on stderr; -vv: the libraries' log too."),
    )(with_output)


class HubOptions:
    """Where to look and how: the options of every command that may ask the Hub."""

    def __init__(self, values: dict[str, Any], output: Output) -> None:
        self.endpoint: str | None = values.pop("endpoint")
        self.db: str | None = values.pop("db")
        self.offline: bool = values.pop("offline")
        self.refresh: bool = values.pop("refresh")
        self.timeout: float | None = values.pop("timeout")
        self.allow_conversion_pr: bool = values.pop("allow_conversion_pr")
        self.variant: str | None = values.pop("variant", None)
        self.file: str | None = values.pop("file", None)
        self.token: str | bool | None = values.pop("token")
        if values.pop("no_token"):
            self.token = False
        elif isinstance(self.token, str):
            keep_secret(self.token)
            output.warning("--token leaves the token in the shell's history and the process list: use HF_TOKEN.")

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of `hubvram.client.Client`."""
        return {
            "endpoint": self.endpoint,
            "db": self.db,
            "offline": self.offline,
            "refresh": self.refresh,
            "token": self.token,
            "timeout": self.timeout,
            "allow_conversion_pr": self.allow_conversion_pr,
            "variant": self.variant,
            "file": self.file,
        }


class _Seconds(click.FloatRange):
    """A time that ends: NaN and infinity, which Python's float takes, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


db_option = click.option(
    "--db",
    metavar="URL",
    envvar="HUBVRAM_DB",
    help="Cache: a path or a SQLAlchemy URL. Default: hubvram.db in the user's cache folder.",
)
endpoint_option = click.option(
    "--endpoint", metavar="URL", help="Hub to ask, a mirror for example. Default: HF_ENDPOINT, or huggingface.co."
)
hub_options: Decorator[Any] = _stack(
    endpoint_option,
    db_option,
    click.option(
        "--offline", is_flag=True, help="Ask nobody, answer from the cache whatever its age. [HF_HUB_OFFLINE]"
    ),
    click.option("--refresh", is_flag=True, help="Ask the Hub even where the cache has a fresh answer."),
    click.option(
        "--timeout",
        type=_Seconds(min=0, min_open=True),
        metavar="SECONDS",
        help="What everything asked of the Hub may take together. Default: no limit.",
    ),
    click.option(
        "--allow-conversion-pr",
        is_flag=True,
        help="Where a repo has no safetensors, take the Hub bot's open pull request with their conversion.",
    ),
    # No HUBVRAM_TOKEN beside HF_TOKEN: one place for a secret is enough.
    click.option("--token", metavar="TOKEN", allow_from_autoenv=False, help="Better: HF_TOKEN, or `hf auth login`."),
    click.option("--no-token", is_flag=True, help="Ask as nobody, even where a token is stored."),
)
selection_options: Decorator[Any] = _stack(
    click.option("--variant", metavar="NAME", help="Variant of the weights: fp16 reads model.fp16.safetensors."),
    click.option(
        "--file",
        metavar="PATH",
        help="Weights file, index or folder of the repo to read instead of what transformers would load.",
    ),
)
revision_option = click.option("--revision", metavar="REF", help="Branch, tag, commit or refs/pr/N. Default: main.")

_flag = functools.partial(click.option, default=None)
setting_options: Decorator[Any] = _stack(
    click.option(
        "-m",
        "--method",
        "methods",
        multiple=True,
        metavar="NAME",
        shell_complete=_complete_method,
        help="Method of `hubvram methods`; repeatable. Default: every one (in tables the usual ones).",
    ),
    _flag("--batch-size", type=int, metavar="N", help="Samples per device and step. Default: 1."),
    _flag("--seq-len", type=int, metavar="N", help="Tokens per sample. Default: 2048, cut to the model's maximum."),
    _flag("--source-len", type=int, metavar="N", help="Encoder tokens of an encoder-decoder. Default: as --seq-len."),
    _flag("--image-tokens", type=int, metavar="N", help="Image tokens per sample of a vision-language model."),
    _flag("--dtype", type=click.Choice(DTYPES), help="dtype that the base is loaded in. Default: auto, as stored."),
    _flag("--mixed-precision", type=click.Choice(MIXED_PRECISION), help="Autocast, as in accelerate. Default: no."),
    _flag("--optim", metavar="NAME", help="Name of `hubvram optimizers`. Default: adamw_torch_fused."),
    _flag(
        "--gradient-checkpointing/--no-gradient-checkpointing",
        help="Recompute each layer in the backward pass. Default: on.",
    ),
    _flag("--attn-implementation", type=click.Choice(ATTN_IMPLEMENTATIONS), help="Default: sdpa."),
    _flag("--padding/--no-padding", help="Whether batches carry a padding mask. Default: off."),
    _flag("--max-grad-norm", type=float, metavar="X", help="Gradient clipping; 0 = off. Default: 1.0."),
    _flag("--gradient-accumulation-steps", type=int, metavar="N", help="Default: 1."),
    _flag("--use-liger-kernel/--no-use-liger-kernel", help="Fused kernels of Liger. Default: off."),
    _flag(
        "--keep-outputs/--no-keep-outputs",
        help="Whether the loop holds the logits in backward, as a hand-written one does. Default: if not clipping.",
    ),
    _flag("--peft-config", type=click.Path(dir_okay=False), metavar="FILE", help="A PEFT adapter_config.json."),
    _flag("--r", type=int, metavar="N", help="Rank. Default: 16."),
    _flag("--lora-alpha", type=float, metavar="X"),
    _flag("--lora-dropout", type=float, metavar="X"),
    _flag("--target-modules", metavar="NAMES", help="Comma-separated, a regex, or all-linear. Default: PEFT's own."),
    _flag("--num-virtual-tokens", type=int, metavar="N", help="For the prompt and prefix methods."),
    _flag("--bnb-4bit-quant-type", type=click.Choice(("nf4", "fp4")), help="Default: nf4."),
    _flag("--bnb-4bit-use-double-quant/--no-bnb-4bit-use-double-quant", help="Default: on."),
    _flag("--bnb-4bit-compute-dtype", type=click.Choice(DTYPES[1:]), help="Default: bfloat16."),
    _flag(
        "--prepare-kbit/--no-prepare-kbit",
        help="Whether prepare_model_for_kbit_training runs on a quantised base. Default: on.",
    ),
    _flag("--stack", metavar="LIB=VERSION,...", help="Libraries whose behaviour to assume. Default: newest known."),
    _flag("--num-gpus", type=int, metavar="N", help="GPUs of the run; figures are per GPU. Default: 1."),
    _flag("--strategy", type=click.Choice(STRATEGIES), help="How N GPUs share the model. Default: ddp."),
    _flag("--offload", type=click.Choice(OFFLOADS), help="What is held in host memory. Default: none."),
)


def _cards(text: str, **more: Any) -> Decorator[Any]:
    return click.option("--gpu", "gpus", multiple=True, metavar="NAME", shell_complete=_complete_gpu, help=text, **more)


gpu_option = _cards("Card of `hubvram gpus`; repeatable. Default: the smallest of the guide's cards.")
card_option = _cards("Card of `hubvram gpus` to fit on; repeatable.", required=True)
stock_option = _cards("Card at hand, of `hubvram gpus`; repeatable. Default: the guide's cards.")

_PLAIN = (
    "batch_size",
    "seq_len",
    "source_len",
    "image_tokens",
    "dtype",
    "mixed_precision",
    "optim",
    "gradient_checkpointing",
    "attn_implementation",
    "padding",
    "max_grad_norm",
    "gradient_accumulation_steps",
    "use_liger_kernel",
    "keep_outputs",
    "num_gpus",
    "strategy",
    "offload",
)
_PEFT = ("r", "lora_alpha", "lora_dropout", "target_modules", "num_virtual_tokens")
_QUANTIZATION = {
    "bnb_4bit_quant_type": "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant": "bnb_4bit_use_double_quant",
    "bnb_4bit_compute_dtype": "bnb_4bit_compute_dtype",
    "prepare_kbit": "prepare_model_for_kbit_training",
}
assert set(_QUANTIZATION.values()) == set(QUANTIZATION_DEFAULTS)  # noqa: S101 - the two must not drift apart


def take_settings(values: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Settings and methods out of a command's options (removed from ``values``).

    Returns:
        Keyword arguments of :class:`Settings`, checked, and the methods asked
        for (None for every one).

    Raises:
        SettingError: on a value that is no setting's.
    """
    methods = tuple(values.pop("methods"))
    settings = {name: values.pop(name) for name in _PLAIN}
    quantization = {key: values.pop(option) for option, key in _QUANTIZATION.items()}
    peft_file, peft_method = read_peft_config(values.pop("peft_config"))
    flags = {name: values.pop(name) for name in _PEFT}
    if flags["target_modules"] is not None:
        flags["target_modules"] = _targets(flags["target_modules"])
    stack = values.pop("stack")
    settings["peft"] = peft_file | {key: value for key, value in flags.items() if value is not None}
    settings["quantization"] = {key: value for key, value in quantization.items() if value is not None}
    settings["stack"] = parse_stack(stack) if stack else {}
    given = {key: value for key, value in settings.items() if value is not None and value != {}}
    Settings.from_kwargs(**given)
    if not methods and peft_method:
        methods = (peft_method,)
    return given, methods or None


def parse_stack(text: str) -> dict[str, str]:
    """``transformers=4.48,peft=0.13`` as a mapping.

    Raises:
        SettingError: on an entry without a library or a version.
    """
    stack: dict[str, str] = {}
    for entry in text.split(","):
        library, equals, version = (part.strip() for part in entry.partition("="))
        version = version.lstrip("=")
        if not (library and equals and version):
            raise SettingError(
                f"stack has the entry {entry.strip()!r}.",
                hint="Write library=version, as in transformers=4.48,peft=0.13.",
            )
        stack[library] = version
    return stack


def read_peft_config(path: str | None) -> tuple[dict[str, Any], str | None]:
    """What an adapter_config.json says of the adapter, and the method that it is of.

    Keys that are empty there (PEFT writes every key of its class) and those
    that only say where the adapter came from are left out.

    Raises:
        SettingError: if the file cannot be read or is no JSON object.
    """
    if path is None:
        return {}, None
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"peft config {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise SettingError(f"peft config {path} is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise SettingError(f"peft config {path} is not a JSON object.", hint="Give PEFT's adapter_config.json.")
    config = {
        key: value
        for key, value in data.items()
        if key not in _PEFT_HOUSEKEEPING and value is not None and value != {} and value != []
    }
    return config, _peft_method(data)


def _peft_method(data: Mapping[str, Any]) -> str | None:
    """The catalogue's name for the config's ``peft_type``."""
    kind = data.get("peft_type")
    if not isinstance(kind, str):
        return None
    if kind == "LORA" and data.get("use_dora"):
        return "dora"
    if kind == "LORA" and data.get("use_rslora"):
        return "rslora"
    return kind.lower()


def _targets(text: str) -> str | list[str]:
    """A list, or the one word or regex that PEFT takes as it is."""
    if text == "all-linear" or any(char in text for char in "\\^$*+?()[]|"):
        return text
    return [name.strip() for name in text.split(",") if name.strip()]
