"""Cards and what they hold: one record per card, and what fits on it."""

from __future__ import annotations

from hubvram.gpus.cards import CARDS, Card
from hubvram.gpus.match import catalogue, find, fits, guide_cards, resolve, smallest

__all__ = ["CARDS", "Card", "catalogue", "find", "fits", "guide_cards", "resolve", "smallest"]
