"""The pairs of the multi-similarity loss: those that the anchor's hardest pair of the other kind makes informative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from metriclab.core.pairs import Pairs
from metriclab.miners.choice import choose, farthest_similarity, nearest_similarity, noise
from metriclab.registry import register


@register("miner", "multi-similarity")
@dataclass(frozen=True, kw_only=True)
class MultiSimilarity:
    """Positives not clearly nearer than the nearest negative, and negatives not clearly farther than all positives.

    With s the cosine, a positive is chosen where s < (largest s of the anchor's negatives) + epsilon, a negative where
    s > (smallest s of its positives) - epsilon. Of an anchor without positives or without negatives no pair is chosen.
    So chosen are the hard and the semi-hard pairs (see `hard-pairs`) at a margin of 2 epsilon. The loss of this name
    still counts every anchor of known label, as in the paper.

    Paper: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, CVPR 2019,
    section 4.1.

    Args:
        epsilon: how much clearer a pair must be than the hardest of the other kind to be left out, as a cosine; the
            paper takes 0.1.
    """

    epsilon: Annotated[float, Ge(0), Le(2)] = 0.1

    def __call__(self, pairs: Pairs, /) -> Pairs:
        similarity, slack = pairs.similarity.detach(), self.epsilon + noise(pairs)
        return choose(
            pairs,
            positive=similarity < nearest_similarity(pairs, pairs.negative) + slack,
            negative=similarity > farthest_similarity(pairs, pairs.positive) - slack,
        )
