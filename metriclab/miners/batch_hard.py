"""Batch-hard: one positive and one negative an anchor."""

from __future__ import annotations

from functools import partial
from typing import Literal

from metriclab.core.pairs import Pairs
from metriclab.core.protocols import Miner
from metriclab.miners.choice import choose, farthest, nearest, noise
from metriclab.registry import register

Positive = Literal["farthest", "nearest"]


def batch_hard_pairs(pairs: Pairs, positive: Positive) -> Pairs:
    """The farthest or nearest positives, and the nearest negatives."""
    similarity, close = pairs.similarity.detach(), noise(pairs)
    if positive == "farthest":
        positives = similarity <= farthest(pairs, pairs.positive) + close
    else:
        positives = similarity >= nearest(pairs, pairs.positive) - close
    return choose(pairs, positive=positives, negative=similarity >= nearest(pairs, pairs.negative) - close)


@register("miner", "batch-hard")
def batch_hard(*, positive: Positive = "farthest") -> Miner:
    """Each anchor's farthest positive and its nearest negative.

    Pairs that tie with them within rounding are chosen too, as the order of rows must not decide. An anchor without
    positives still has its nearest negative, one without negatives its positive.

    Paper: Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, 2017; Xuan et al., Improved
    Embeddings with Easy Positive Triplet Mining, WACV 2020, for the nearest positive.

    Args:
        positive: farthest, or nearest, which lets a class keep its shape.
    """
    return partial(batch_hard_pairs, positive=positive)
