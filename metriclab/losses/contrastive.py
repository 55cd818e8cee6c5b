"""The contrastive losses: positives close, negatives apart, each pair by itself."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor

from metriclab.core.pointwise_pair_loss import LossAndGrad, PointwisePairLoss
from metriclab.registry import register

Cosine = Annotated[float, Ge(-1), Le(1)]


def hadsell_positive(similarity: Float[Tensor, "*cells"]) -> LossAndGrad:
    """d^2."""
    return LossAndGrad(2 - 2 * similarity, torch.full_like(similarity, -2))


def hadsell_negative(similarity: Float[Tensor, "*cells"], margin: float) -> LossAndGrad:
    """max(0, margin - d)^2, with subgradient 0 where the rows coincide."""
    distance = similarity.mul(-2).add_(2).clamp_(min=0).sqrt_()
    short = (margin - distance).clamp_(min=0)
    # The sign makes the grad 0 at distance 0, where it would be infinite; its bound keeps rounding from 0 / 0.
    grad = distance.sign().mul_(2).mul_(short).div_(distance.clamp_(min=torch.finfo(distance.dtype).tiny))
    return LossAndGrad(short.square_(), grad)


def squared_margin_negative(similarity: Float[Tensor, "*cells"], margin: float) -> LossAndGrad:
    """max(0, margin^2 - d^2)."""
    short = (2 * similarity + (margin**2 - 2)).clamp_(min=0)
    return LossAndGrad(short, 2 * short.sign())


def cosine_positive(similarity: Float[Tensor, "*cells"], positive: float) -> LossAndGrad:
    """max(0, positive - s)."""
    short = (positive - similarity).clamp_(min=0)
    return LossAndGrad(short, -short.sign())


def cosine_negative(similarity: Float[Tensor, "*cells"], negative: float) -> LossAndGrad:
    """max(0, s - negative)."""
    excess = (similarity - negative).clamp_(min=0)
    return LossAndGrad(excess, excess.sign())


@register("loss", "contrastive")
def contrastive(
    *,
    variant: Literal["hadsell", "squared-margin", "cosine"] = "hadsell",
    margin: Annotated[float, Gt(0), Le(2)] = 1.0,
    positive: Cosine = 1.0,
    negative: Cosine = 0.5,
) -> PointwisePairLoss:
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
        return PointwisePairLoss(hadsell_positive, partial(hadsell_negative, margin=margin))
    if variant == "squared-margin":
        return PointwisePairLoss(hadsell_positive, partial(squared_margin_negative, margin=margin))
    return PointwisePairLoss(
        partial(cosine_positive, positive=positive), partial(cosine_negative, negative=negative), nonzero_only=True
    )
