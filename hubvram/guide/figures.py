"""The figures of the seed guide, as it prints them.

Source: "LLM微调需要多少显存" ("how much GPU memory does fine-tuning an LLM need"), a guide in Chinese that
circulates as a blog post. It gives neither batch size nor sequence length, optimizer or checkpointing.
All sizes are in the guide's "GB".
"""

from __future__ import annotations

from dataclasses import dataclass

TITLE = "LLM微调需要多少显存"


@dataclass(frozen=True, slots=True)
class Figure:
    """A size as the guide prints it."""

    low: float
    high: float
    open_ended: bool = False
    """Printed with a plus sign: "at least"."""

    def __str__(self) -> str:
        """As printed: ``80+``, ``16``, ``10-12``."""
        if self.low != self.high:
            return f"{self.low:g}-{self.high:g}"
        return f"{self.low:g}{'+' if self.open_ended else ''}"


def exactly(gb: float) -> Figure:
    """One number."""
    return Figure(gb, gb)


def at_least(gb: float) -> Figure:
    """A number with a plus sign."""
    return Figure(gb, gb, open_ended=True)


@dataclass(frozen=True, slots=True)
class Model:
    """A row of the guide's main table, and the repo that stands for it."""

    name: str
    """As the guide writes it."""
    billions: float
    """Parameters as the guide counts them."""
    repo_id: str
    full: Figure
    """Full fine-tuning, FP16."""
    lora: Figure
    """LoRA, FP16."""
    qlora: Figure
    """QLoRA, 4-bit."""
    revision: str = "main"
    """Where the headers lie."""
    several_cards: tuple[str, ...] = ()
    """Methods for which the guide says that its figure takes several cards."""
    note: str = ""
    """Why this repo stands for the guide's name, where the two differ."""

    def figure(self, method: str) -> Figure:
        """The guide's figure for ``full``, ``lora`` or ``qlora``."""
        return {"full": self.full, "lora": self.lora, "qlora": self.qlora}[method]


MODELS: tuple[Model, ...] = (
    Model("LLaMA 7B", 7, "huggyllama/llama-7b", at_least(80), exactly(16), exactly(8)),
    Model(
        "LLaMA 13B",
        13,
        "meta-llama/Llama-2-13b-hf",
        at_least(160),
        exactly(24),
        Figure(10, 12),
        note="Llama 2, which has the shapes of the first LLaMA 13B",
    ),
    Model("LLaMA 30B", 30, "huggyllama/llama-30b", at_least(350), Figure(40, 48), Figure(20, 24)),
    Model(
        "LLaMA 70B",
        70,
        "meta-llama/Llama-2-70b-hf",
        at_least(800),
        Figure(80, 100),
        exactly(40),
        several_cards=("qlora",),
        note="Llama 2, as the first LLaMA has no 70B",
    ),
    Model("Mistral 7B", 7, "mistralai/Mistral-7B-v0.1", exactly(70), exactly(16), exactly(8)),
    Model(
        "GPT-J 6B",
        6,
        "EleutherAI/gpt-j-6b",
        exactly(60),
        exactly(14),
        exactly(8),
        revision="refs/pr/19",
        note="headers from the conversion pull request, see below",
    ),
)
"""In the guide's order."""


def rule(billions: float) -> float:
    """The guide's rule of thumb without its "training cache": billions x 2 x 2, in GB."""
    return billions * 2 * 2


@dataclass(frozen=True, slots=True)
class RuleExample:
    """An example that the guide works out with its rule."""

    model: str
    buffered: Figure
    """With the "training cache" added."""


RULE_EXAMPLES: tuple[RuleExample, ...] = (
    RuleExample("LLaMA 7B", Figure(40, 80)),
    RuleExample("LLaMA 70B", exactly(700)),
)

WEIGHTS_FP16: dict[str, float] = {"LLaMA 7B": 14, "LLaMA 13B": 26, "LLaMA 70B": 140}
"""What the guide says that the weights alone take in FP16, GB."""

FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Full fine-tuning", ("full",)),
    ("LoRA", ("lora",)),
    ("QLoRA", ("qlora",)),
    ("Prefix tuning / Adapter / P-Tuning v2", ("prefix_tuning", "adapter", "p_tuning_v2")),
)
"""The guide's four families of tuning, and the methods of `hubvram methods` in each."""

PRECISIONS: tuple[str, ...] = ("FP16", "BF16", "FP8", "INT8", "4-bit")
"""The guide's table of precisions."""
