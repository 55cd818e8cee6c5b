"""The contrastive losses: positives close, negatives apart, each pair by itself."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor

from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs
from metriclab.registry import register

Cosine = Annotated[float, Ge(-1), Le(1)]


def squared_distance(similarity: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """Squared Euclidean distance of unit rows."""
    return 2 - 2 * similarity


def distance(similarity: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """Euclidean distance of unit rows, with subgradient 0 where they coincide."""
    squared = squared_distance(similarity)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0 * squared)


def mean_over(values: Float[Tensor, "b m"], chosen: Tensor) -> Term:
    """The mean of the chosen cells."""
    return Term(torch.where(chosen, values, 0).sum(1), chosen.sum(1))


def hadsell_terms(pairs: Pairs, margin: float) -> dict[str, Term]:
    """d^2 on positives, max(0, margin - d)^2 on negatives."""
    apart = (margin - distance(pairs.similarity)).clamp(min=0).square()
    return {
        "positives": mean_over(squared_distance(pairs.similarity), pairs.positive),
        "negatives": mean_over(apart, pairs.negative),
    }


def squared_margin_terms(pairs: Pairs, margin: float) -> dict[str, Term]:
    """d^2 on positives, max(0, margin^2 - d^2) on negatives."""
    squared = squared_distance(pairs.similarity)
    return {
        "positives": mean_over(squared, pairs.positive),
        "negatives": mean_over((margin**2 - squared).clamp(min=0), pairs.negative),
    }


def cosine_terms(pairs: Pairs, positive: float, negative: float) -> dict[str, Term]:
    """max(0, positive - s) on positives, max(0, s - negative) on negatives, each meant over its non-zero cells."""
    # What rounding alone leaves is a zero cell: counts must not depend on the order in which a product is summed.
    noise = 8 * torch.finfo(pairs.similarity.dtype).eps
    pull, push = positive - pairs.similarity, pairs.similarity - negative
    return {
        "positives": mean_over(pull, pairs.positive & ~(pull <= noise)),
        "negatives": mean_over(push, pairs.negative & ~(push <= noise)),
    }


@register("loss", "contrastive")
def contrastive(
    *,
    variant: Literal["hadsell", "squared-margin", "cosine"] = "hadsell",
    margin: Annotated[float, Gt(0), Le(2)] = 1.0,
    positive: Cosine = 1.0,
    negative: Cosine = 0.5,
) -> PairLoss:
    """The mean over positive pairs of what draws them together, plus the mean over negative pairs of what parts them.

    With d the Euclidean distance of unit rows and s their cosine, a positive pair and a negative pair cost

    - hadsell: d^2 and max(0, margin - d)^2, over all pairs;
    - squared-margin: d^2 and max(0, margin^2 - d^2), over all pairs;
    - cosine: max(0, positive - s) and max(0, s - negative), over the pairs that cost anything.

    Paper: Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006, equation 4 (without
    its factor 1/2); the cosine form as in Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020.

    Args:
        variant: which of the three costs.
        margin: distance up to which negatives are pushed, in (0, 2]; for hadsell and squared-margin.
        positive: cosine up to which positives are pulled; for cosine.
        negative: cosine down to which negatives are pushed; for cosine.
    """
    if variant == "hadsell":
        return PairLoss(partial(hadsell_terms, margin=margin))
    if variant == "squared-margin":
        return PairLoss(partial(squared_margin_terms, margin=margin))
    return PairLoss(partial(cosine_terms, positive=positive, negative=negative))
