"""The hardest negatives of each anchor, as many as asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge

from metriclab.core.pairs import Pairs
from metriclab.miners.choice import choose, kth_largest, noise
from metriclab.registry import register


@register("miner", "top-k-negatives")
@dataclass(frozen=True, kw_only=True)
class TopKNegatives:
    """The k nearest negatives of each anchor, and all of its positives.

    Negatives that tie with the kth within rounding are chosen too, so that the order of rows cannot decide: of
    identical rows all are. An anchor with fewer negatives keeps them all, whether it has positives or not.

    Args:
        k: negatives an anchor keeps.
    """

    k: Annotated[int, Ge(1)] = 10

    def __call__(self, pairs: Pairs, /) -> Pairs:
        similarity = pairs.similarity.detach()
        kth = kth_largest(torch.where(pairs.negative, similarity, -torch.inf), self.k)
        return choose(pairs, negative=similarity >= kth - noise(pairs))
