"""The pairs of the multi-similarity loss: those that the anchor's hardest pair of the other kind makes informative."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from annotated_types import Ge, Le

from metriclab.core.pairs import Pairs
from metriclab.core.protocols import Miner
from metriclab.miners.choice import choose, farthest, nearest, noise
from metriclab.registry import register


def informative_pairs(pairs: Pairs, epsilon: float) -> Pairs:
    """Positives with s < max over negatives + epsilon, negatives with s > min over positives - epsilon."""
    similarity, slack = pairs.similarity.detach(), epsilon + noise(pairs)
    return choose(
        pairs,
        positive=similarity < nearest(pairs, pairs.negative) + slack,
        negative=similarity > farthest(pairs, pairs.positive) - slack,
    )


@register("miner", "multi-similarity")
def multi_similarity(*, epsilon: Annotated[float, Ge(0), Le(2)] = 0.1) -> Miner:
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
    return partial(informative_pairs, epsilon=epsilon)
