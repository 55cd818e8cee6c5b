"""A filter for learning without labels: leaves out negatives that look like the anchor's own class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le

from metriclab.core.pairs import Pairs
from metriclab.miners.choice import choose, kth_largest, noise
from metriclab.registry import register


@register("miner", "false-negatives")
@dataclass(frozen=True, kw_only=True)
class FalseNegatives:
    """Leaves out negatives that are probably of the anchor's class: the nearest ones, where they are very near.

    Where every image is a class of its own, as in `simclr`, images of one true class repel each other. An anchor's
    negatives are left out that are more similar to it than `threshold`, at most `k` of them and the nearest first.
    Negatives that tie with the next nearest after k stay, so collapsed embeddings keep what drives them apart.
    Positives all stay. An anchor of k negatives or fewer may lose them all, so let k be well below the batch size;
    k as large as the batch leaves the choice to the threshold, a threshold of -1 leaves it to k.

    Every view is counted and judged by itself, where the paper asks further views of the anchor's image too.

    Paper: Huynh et al., Boosting Contrastive Self-Supervised Learning with False Negative Cancellation, WACV 2022,
    the strategy of elimination.

    Args:
        threshold: cosine above which a negative may be left out.
        k: negatives of an anchor that may be left out.
    """

    threshold: Annotated[float, Ge(-1), Le(1)] = 0.7
    k: Annotated[int, Ge(1)] = 10

    def __call__(self, pairs: Pairs, /) -> Pairs:
        similarity = pairs.similarity.detach()
        next_after_k = kth_largest(torch.where(pairs.negative, similarity, -torch.inf), self.k + 1)
        lookalike = (similarity > self.threshold) & (similarity > next_after_k + noise(pairs))
        return choose(pairs, negative=~lookalike)
