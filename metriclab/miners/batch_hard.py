"""Batch-hard: one positive and one negative an anchor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metriclab.core.pairs import Pairs
from metriclab.miners.choice import choose, farthest_similarity, nearest_similarity, noise
from metriclab.registry import register

Positive = Literal["farthest", "nearest"]


@register("miner", "batch-hard")
@dataclass(frozen=True, kw_only=True)
class BatchHard:
    """Each anchor's farthest positive and its nearest negative.

    Pairs that tie with them within rounding are chosen too, as the order of rows must not decide. An anchor without
    positives still has its nearest negative, one without negatives its positive.

    Paper: Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, 2017; Xuan et al., Improved
    Embeddings with Easy Positive Triplet Mining, WACV 2020, for the nearest positive.

    Args:
        positive: farthest, or nearest, which lets a class keep its shape.
    """

    positive: Positive = "farthest"

    def __call__(self, pairs: Pairs, /) -> Pairs:
        similarity, close = pairs.similarity.detach(), noise(pairs)
        if self.positive == "farthest":
            positives = similarity <= farthest_similarity(pairs, pairs.positive) + close
        else:
            positives = similarity >= nearest_similarity(pairs, pairs.positive) - close
        negatives = similarity >= nearest_similarity(pairs, pairs.negative) - close
        return choose(pairs, positive=positives, negative=negatives)
