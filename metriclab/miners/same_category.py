"""Negatives of the anchor's own category: the hard ones that a coarser label names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metriclab.core.pairs import Pairs
from metriclab.miners.choice import choose
from metriclab.registry import register


@register("miner", "same-category")
@dataclass(frozen=True, kw_only=True)
class SameCategory:
    """Keeps the negatives of the anchor's category, and all positives.

    What tells a shirt from a bag is soon learned; what tells it from other shirts is what a gallery of shirts is ranked
    by. An anchor of unknown category keeps all of its negatives, and so does every anchor where no row has a category.
    """

    needs: ClassVar[tuple[str, ...]] = ("categories",)

    def __call__(self, pairs: Pairs, /) -> Pairs:
        own, others = pairs.anchors.categories, pairs.references.categories
        if own is None or others is None:
            return pairs
        return choose(pairs, negative=(own[:, None] == others) | (own < 0)[:, None])
