"""The hardest negatives of each anchor, as many as asked for."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge

from metriclab.core.pairs import Pairs
from metriclab.core.protocols import Miner
from metriclab.miners.choice import choose, kth_largest, noise
from metriclab.registry import register


def hardest_negatives(pairs: Pairs, k: int) -> Pairs:
    """All positives, and negatives no farther than the kth nearest."""
    similarity = pairs.similarity.detach()
    kth = kth_largest(torch.where(pairs.negative, similarity, -torch.inf), k)
    return choose(pairs, negative=similarity >= kth - noise(pairs))


@register("miner", "top-k-negatives")
def top_k_negatives(*, k: Annotated[int, Ge(1)] = 10) -> Miner:
    """The k nearest negatives of each anchor, and all of its positives.

    Negatives that tie with the kth within rounding are chosen too, so that the order of rows cannot decide: of
    identical rows all are. An anchor with fewer negatives keeps them all, whether it has positives or not.

    Args:
        k: negatives an anchor keeps.
    """
    return partial(hardest_negatives, k=k)
