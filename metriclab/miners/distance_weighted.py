"""Distance-weighted sampling: negatives from all distances alike, where uniform draws would give far ones alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int64
from torch import Tensor

from metriclab.core.pairs import Pairs
from metriclab.core.random import pair_uniform
from metriclab.miners.choice import choose, kth_largest
from metriclab.registry import register


def log_density(squared: Float[Tensor, "b m"], width: int) -> Float[Tensor, "b m"]:
    """Logarithm of q(d) = d^(n - 2) (1 - d^2 / 4)^((n - 3) / 2), the distances of uniform points on the sphere."""
    return (width - 2) / 2 * squared.log() + (width - 3) / 2 * (1 - squared / 4).log()


def gumbel(seed: int, anchors: Int64[Tensor, "b"], references: Int64[Tensor, "m"]) -> Float[Tensor, "b m"]:
    """Standard Gumbel noise, each number a pure function of the seed and of both rows' ids."""
    uniform = pair_uniform(seed, anchors, references)
    return -(-(-uniform.clamp(min=2.0**-25)).log1p()).log()  # clamped, as the noise of 0 is infinite


@register("miner", "distance-weighted")
@dataclass(frozen=True, kw_only=True)
class DistanceWeighted:
    """Negatives drawn so that all distances are about equally frequent, and all positives.

    Between points of the unit sphere in n dimensions a distance d has a density in proportion to
    q(d) = d^(n - 2) (1 - d^2 / 4)^((n - 3) / 2), nearly all of it around sqrt(2). Each anchor draws k of its negatives,
    without replacement, with probabilities in proportion to 1 / q(d). An anchor with fewer in reach keeps those.

    A draw depends on the seed and on the identities of both rows alone: no matter in which order, on which rank, or in
    which tile a pair is met, and new in every step.

    Paper: Wu et al., Sampling Matters in Deep Embedding Learning, ICCV 2017, section 4.

    Args:
        k: negatives an anchor keeps; the paper draws as many as it has positives, with replacement.
        cutoff: distance below which a negative is as likely as one at it, lest the nearest be drawn always; the paper
            takes 0.5.
        reach: distance from which on a negative is never drawn; at most 1.9, as towards 2 the weights grow to infinity.
        seed: of the draws.
    """

    k: Annotated[int, Ge(1)] = 1
    cutoff: Annotated[float, Ge(0.01), Le(1.4)] = 0.5
    reach: Annotated[float, Gt(0), Le(1.9)] = 1.4
    seed: Annotated[int, Ge(0), Lt(2**62)] = 0

    def __call__(self, pairs: Pairs, /) -> Pairs:
        squared = 2 - 2 * pairs.similarity.detach()
        possible = pairs.negative & (squared < self.reach**2)
        # Sorting log weight + Gumbel noise is drawing without replacement (Vieira 2014; Kool et al., ICML 2019).
        log_weights = -log_density(squared.clamp(self.cutoff**2), pairs.embedding_dim)
        keys = gumbel(self.seed, pairs.anchors.ids, pairs.references.ids) + log_weights
        keys = torch.where(possible, keys, -torch.inf)
        return choose(pairs, negative=possible & (keys >= kth_largest(keys, self.k)))
