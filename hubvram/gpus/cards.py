"""The cards, one record each.

``memory_mib`` is what the driver reports as total (``nvidia-smi``'s
"Memory-Usage" column, ``memory.total`` in its queries), not the label on the
box: an "80 GB" H100 has 81,559 MiB, a "24 GB" L4 has 23,034. Drivers since
510 count the few hundred MiB that they keep for themselves (``memory.reserved``)
inside that total; drivers before 510 left them out, so an older driver shows
somewhat less on the same card.

A source names where the figure was read. ``SMI`` stands for ``nvidia-smi``
listings that users of the card published; figures were taken only where
several independent listings agree.
"""

from __future__ import annotations

from dataclasses import dataclass

SMI = "published nvidia-smi listings, driver 510 or newer"
SMI_ECC_ON = "published nvidia-smi listings, driver 510 or newer, ECC on (as shipped)"
SMI_ECC_OFF = "published nvidia-smi listings, driver 510 or newer, ECC off (as shipped)"


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of GPU.

    Raises:
        ValueError: without a source, or with a size that is no card's.
    """

    name: str
    """As `hubvram gpus` and every report print it."""
    label_gb: int
    """What the box says: the order of the catalogue, never compared with an estimate."""
    memory_mib: int
    """Total memory that the driver reports, MiB."""
    compute_capability: str
    """As NVIDIA's list of CUDA GPUs gives it: decides which kernels there are."""
    generation: str
    source: str
    """Where memory_mib was read."""
    aliases: tuple[str, ...] = ()
    """Other spellings that `--gpu` takes, beside the name itself."""
    guide: bool = False
    """One of the cards that the seed guide speaks of: the default for "smallest card"."""

    def __post_init__(self) -> None:
        """Refuse a figure without a source."""
        if not self.source:
            raise ValueError(f"{self.name}: a card needs the source of its memory size")
        if self.memory_mib < 1024:
            raise ValueError(f"{self.name}: memory_mib is {self.memory_mib}")

    @property
    def usable_bytes(self) -> int:
        """Bytes that the driver reports as total."""
        return self.memory_mib * 2**20

    def to_dict(self) -> dict[str, object]:
        """A row of the catalogue, plain values."""
        return {
            "name": self.name,
            "label_gb": self.label_gb,
            "memory_mib": self.memory_mib,
            "memory_gib": round(self.memory_mib / 1024, 2),
            "compute_capability": self.compute_capability,
            "generation": self.generation,
            "guide": self.guide,
            "aliases": list(self.aliases),
            "source": self.source,
        }


CARDS: tuple[Card, ...] = (
    # The seed guide's cards, and an 8 GB one below them.
    Card("RTX 4060 8GB", 8, 8188, "8.9", "Ada", SMI, ("RTX 4060", "4060"), guide=True),
    Card("RTX 3060 12GB", 12, 12288, "8.6", "Ampere", SMI, ("RTX 3060", "3060"), guide=True),
    Card("T4 16GB", 16, 15360, "7.5", "Turing", SMI_ECC_ON, ("T4", "Tesla T4"), guide=True),
    Card("RTX 3090 24GB", 24, 24576, "8.6", "Ampere", SMI, ("RTX 3090", "3090"), guide=True),
    Card("RTX 4090 24GB", 24, 24564, "8.9", "Ada", SMI, ("RTX 4090", "4090"), guide=True),
    Card("A6000 48GB", 48, 49140, "8.6", "Ampere", SMI_ECC_OFF, ("RTX A6000", "A6000"), guide=True),
    Card(
        "A100 40GB",
        40,
        40960,
        "8.0",
        "Ampere",
        SMI_ECC_ON,
        ("A100-40GB", "A100 SXM4 40GB", "A100 PCIe 40GB"),
        guide=True,
    ),
    Card(
        "A100 80GB",
        80,
        81920,
        "8.0",
        "Ampere",
        SMI_ECC_ON,
        ("A100-80GB", "A100 SXM4 80GB", "A100 80GB PCIe"),
        guide=True,
    ),
    Card(
        "H100 80GB",
        80,
        81559,
        "9.0",
        "Hopper",
        SMI_ECC_ON,
        ("H100", "H100 SXM", "H100 PCIe", "H100 80GB HBM3", "H800"),
        guide=True,
    ),
    # Others that people fine-tune on.
    Card("RTX 2080 Ti 11GB", 11, 11264, "7.5", "Turing", SMI, ("RTX 2080 Ti", "2080 Ti")),
    Card("GTX 1080 Ti 11GB", 11, 11264, "6.1", "Pascal", SMI, ("GTX 1080 Ti", "1080 Ti")),
    Card("RTX 3080 10GB", 10, 10240, "8.6", "Ampere", SMI, ("RTX 3080", "3080")),
    Card("RTX 4060 Ti 16GB", 16, 16380, "8.9", "Ada", SMI, ("RTX 4060 Ti", "4060 Ti")),
    Card("RTX 4070 12GB", 12, 12282, "8.9", "Ada", SMI, ("RTX 4070", "4070", "RTX 4070 Super", "RTX 4070 Ti")),
    Card("RTX 4080 16GB", 16, 16376, "8.9", "Ada", SMI, ("RTX 4080", "4080")),
    Card("RTX 5070 Ti 16GB", 16, 16303, "12.0", "Blackwell", SMI, ("RTX 5070 Ti", "5070 Ti")),
    Card("RTX 5080 16GB", 16, 16303, "12.0", "Blackwell", SMI, ("RTX 5080", "5080")),
    Card("RTX 5090 32GB", 32, 32607, "12.0", "Blackwell", SMI, ("RTX 5090", "5090")),
    Card("TITAN RTX 24GB", 24, 24576, "7.5", "Turing", SMI, ("TITAN RTX",)),
    Card("RTX A2000 12GB", 12, 12282, "8.6", "Ampere", SMI_ECC_OFF, ("RTX A2000", "A2000")),
    Card("RTX A4000 16GB", 16, 16376, "8.6", "Ampere", SMI_ECC_OFF, ("RTX A4000", "A4000")),
    Card("RTX A5000 24GB", 24, 24564, "8.6", "Ampere", SMI_ECC_OFF, ("RTX A5000", "A5000")),
    Card("RTX 6000 Ada 48GB", 48, 49140, "8.9", "Ada", SMI_ECC_OFF, ("RTX 6000 Ada", "6000 Ada")),
    Card("RTX PRO 6000 96GB", 96, 97887, "12.0", "Blackwell", SMI, ("RTX PRO 6000", "PRO 6000")),
    Card("L4 24GB", 24, 23034, "8.9", "Ada", SMI_ECC_ON, ("L4",)),
    Card("A10 24GB", 24, 23028, "8.6", "Ampere", SMI_ECC_ON, ("A10", "A10G")),
    Card("A30 24GB", 24, 24576, "8.0", "Ampere", SMI_ECC_ON, ("A30",)),
    Card("A40 48GB", 48, 46068, "8.6", "Ampere", SMI_ECC_ON, ("A40",)),
    Card("L40S 48GB", 48, 46068, "8.9", "Ada", SMI_ECC_ON, ("L40S",)),
    Card("V100 32GB", 32, 32768, "7.0", "Volta", SMI_ECC_ON, ("V100-32GB", "V100 SXM2 32GB")),
    Card("H100 NVL 94GB", 94, 95830, "9.0", "Hopper", SMI_ECC_ON, ("H100 NVL",)),
    Card("H20 96GB", 96, 97871, "9.0", "Hopper", SMI_ECC_ON, ("H20",)),
    Card("GH200 96GB", 96, 97871, "9.0", "Hopper", SMI_ECC_ON, ("GH200",)),
    Card("H200 141GB", 141, 143771, "9.0", "Hopper", SMI_ECC_ON, ("H200", "H200 NVL")),
    Card("B200 180GB", 180, 183359, "10.0", "Blackwell", SMI_ECC_ON, ("B200",)),
)
"""The registry, in each size the older or cheaper card first.

To add a card, add a record; `tests/cli/test_gpus.py` checks them all.
"""
