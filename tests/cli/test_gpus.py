"""The catalogue of cards, and how names find them."""

from __future__ import annotations

import re

import pytest

from hubvram.errors import SettingError
from hubvram.gpus import CARDS, Card, catalogue, find, fits, guide_cards, resolve, smallest


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_has_a_source_and_a_size_near_its_label(card: Card) -> None:
    assert card.source
    assert card.name.endswith(f" {card.label_gb}GB")
    # A driver reports at most the label read as GiB, and never less than 93 % of the label read as GB.
    assert 0.93 * card.label_gb * 10**9 <= card.usable_bytes <= 1.02 * card.label_gb * 2**30
    assert re.fullmatch(r"\d+\.\d", card.compute_capability)


def test_no_two_cards_share_a_spelling() -> None:
    for card in CARDS:
        for spelling in (card.name, *card.aliases):
            assert find(spelling) is card


def test_the_guides_cards_smallest_first() -> None:
    assert [card.name for card in guide_cards()] == [
        "RTX 4060 8GB",
        "RTX 3060 12GB",
        "T4 16GB",
        "RTX 3090 24GB",
        "RTX 4090 24GB",
        "A100 40GB",
        "A6000 48GB",
        "A100 80GB",
        "H100 80GB",
    ]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("4090", "RTX 4090 24GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("a100 80", "A100 80GB"),
        ("tesla t4", "T4 16GB"),
        ("h100", "H100 80GB"),
        ("rtx3060", "RTX 3060 12GB"),
        ("gh200", "GH200 96GB"),
    ],
)
def test_spellings(typed: str, name: str) -> None:
    assert find(typed).name == name


def test_an_ambiguous_name_lists_the_candidates() -> None:
    with pytest.raises(SettingError, match="A100 40GB, A100 80GB") as caught:
        find("A100")
    assert caught.value.exit_code == 2


def test_a_mistyped_name_names_the_nearest() -> None:
    with pytest.raises(SettingError, match="'4009'") as caught:
        find("4009")
    assert caught.value.hint is not None
    assert "RTX 4090 24GB" in caught.value.hint


@pytest.mark.parametrize("typed", ["", "   ", "---", "zzzz"])
def test_a_name_that_is_none(typed: str) -> None:
    with pytest.raises(SettingError) as caught:
        find(typed)
    assert caught.value.hint is not None
    assert "hubvram gpus" in caught.value.hint


def test_resolve_takes_each_card_once_and_smallest_first() -> None:
    assert [card.name for card in resolve(["h100", "4090", "RTX 4090"])] == ["RTX 4090 24GB", "H100 80GB"]
    assert resolve(None) == resolve([]) == guide_cards()


def test_fits_to_the_byte() -> None:
    (card,) = resolve(["T4"])
    edge = 15360 * 2**20
    (exact,) = fits(edge, [card])
    (over,) = fits(edge + 1, [card], count=2)
    assert (exact.fits, exact.headroom_bytes, exact.count) == (True, 0, 1)
    assert (over.fits, over.headroom_bytes, over.count) == (False, -1, 2)


def test_smallest_is_the_first_that_fits() -> None:
    found = smallest(fits(20 * 2**30, guide_cards()))
    assert found is not None
    assert found.name == "RTX 3090 24GB"
    assert smallest(fits(10**12, guide_cards())) is None
    assert fits(None, guide_cards()) == ()


def test_a_card_without_source_is_refused() -> None:
    with pytest.raises(ValueError, match="source"):
        Card("X 8GB", 8, 8192, "1.0", "none", "")


def test_catalogue_is_plain() -> None:
    rows = catalogue()
    assert len(rows) == len(CARDS)
    assert all(set(row) == set(rows[0]) for row in rows)
