"""Finding a card by what people type, and holding an estimate against cards."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from hubvram.errors import SettingError
from hubvram.gpus.cards import CARDS, Card
from hubvram.report.record import GpuFit

_BRANDS = re.compile(r"nvidia|geforce|tesla|quadro")
_NOISE = re.compile(r"[^a-z0-9]+")


def _plain(text: str) -> str:
    """Lower case, brand names and punctuation dropped: "NVIDIA A100-SXM4-80GB" -> "a100sxm480gb"."""
    return _NOISE.sub("", _BRANDS.sub("", text.lower()))


def _spellings(card: Card) -> set[str]:
    return {_plain(card.name), *(_plain(alias) for alias in card.aliases)}


def find(name: str) -> Card:
    """The card meant by ``name``.

    A spelling in the registry wins; else the one card whose spellings contain
    what was typed.

    Raises:
        SettingError: if no card or several are meant; the hint names the nearest.
    """
    wanted = _plain(name)
    if not wanted:
        raise SettingError(f"gpu is {name!r}: it must be the name of a card.", hint="`hubvram gpus` lists the names.")
    for card in CARDS:
        if wanted in _spellings(card):
            return card
    close = [card for card in CARDS if any(wanted in spelling for spelling in _spellings(card))]
    if len(close) == 1:
        return close[0]
    if close:
        names = ", ".join(card.name for card in close)
        raise SettingError(f"gpu {name!r} may be any of: {names}.", hint="Give one of these names.")
    spelled = {spelling: card.name for card in CARDS for spelling in _spellings(card)}
    near = difflib.get_close_matches(wanted, spelled, n=3, cutoff=0.5)
    names = ", ".join(dict.fromkeys(spelled[spelling] for spelling in near))
    hint = f"Nearest: {names}. `hubvram gpus` lists all." if names else "`hubvram gpus` lists the names."
    raise SettingError(f"gpu {name!r} is not in the catalogue.", hint=hint)


def _by_size(cards: Iterable[Card]) -> tuple[Card, ...]:
    """Smallest label first; within a label the registry's order (the H100's 81,559 MiB are no less than an A100)."""
    return tuple(sorted(dict.fromkeys(cards), key=lambda card: (card.label_gb, CARDS.index(card))))


def guide_cards() -> tuple[Card, ...]:
    """The seed guide's cards, smallest first."""
    return _by_size(card for card in CARDS if card.guide)


def resolve(names: Sequence[str] | None) -> tuple[Card, ...]:
    """Cards for names as typed, smallest first and each once; the guide's cards where none is given.

    Raises:
        SettingError: from :func:`find`.
    """
    if not names:
        return guide_cards()
    return _by_size(find(name) for name in names)


def fits(total_bytes: int | None, cards: Iterable[Card], *, count: int = 1) -> tuple[GpuFit, ...]:
    """What each card says to ``total_bytes`` per card (what nvidia-smi would show).

    ``count`` is how many cards the run uses, each holding ``total_bytes``.
    Without a figure (a skipped method) there is nothing to compare: an empty tuple.
    """
    if total_bytes is None:
        return ()
    return tuple(
        GpuFit(
            name=card.name,
            count=count,
            usable_bytes=card.usable_bytes,
            fits=total_bytes <= card.usable_bytes,
            headroom_bytes=card.usable_bytes - total_bytes,
        )
        for card in cards
    )


def smallest(gpus: Iterable[GpuFit]) -> GpuFit | None:
    """The first card that fits (:func:`fits` keeps the order, smallest first), None where none does."""
    return next((gpu for gpu in gpus if gpu.fits), None)


def catalogue() -> list[dict[str, object]]:
    """Every card as a row of plain values, smallest first."""
    return [card.to_dict() for card in _by_size(CARDS)]
