"""The contrastive losses: positives close, negatives apart, each pair by itself."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pointwise_pair_loss import LossAndGrad, PointwiseLoss, stream_pointwise
from metriclab.core.protocols import Miner
from metriclab.core.rows import Rows
from metriclab.core.settings import show_settings
from metriclab.registry import register

Cosine = Annotated[float, Ge(-1), Le(1)]
Variant = Literal["hadsell", "squared-margin", "cosine"]


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
class Contrastive(nn.Module):
    """The mean over positive pairs of what draws them together, plus the mean over negative pairs of what parts them.

    With d the Euclidean distance of unit rows and s their cosine, the losses of a positive and of a negative pair are

    - hadsell: d^2 and max(0, margin - d)^2, averaged over all pairs;
    - squared-margin: d^2 and max(0, margin^2 - d^2), averaged over all pairs;
    - cosine: max(0, positive - s) and max(0, s - negative), averaged over the pairs where they are not 0.

    Without positive pairs the first mean is 0, without negative pairs the second.

    With `mean_over = "anchors"` the losses of an anchor's pairs are added up and averaged over the anchors of known
    label: an anchor with many positives, or many costly negatives, weighs more. The cosine form of this has the
    gradient of the code for Wang et al. (msight-tech/research-xbm, commit 82f603a), where a negative above the
    threshold costs s itself, which is `negative` more.

    Paper: Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006, equation 4 (without
    its factor 1/2); the cosine form as in Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020, equation 1
    for `mean_over = "anchors"`.

    Args:
        variant: which of the three.
        margin: distance up to which negatives are pushed, in (0, 2]; for hadsell and squared-margin.
        positive: cosine up to which positives are pulled; for cosine.
        negative: cosine down to which negatives are pushed; for cosine.
        mean_over: what sums are divided by: the number of pairs, of positive and of negative ones apart, or of anchors.

    Example:
        >>> criterion = Contrastive(variant="cosine", negative=0.3)
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss
    extra_repr = show_settings

    def __init__(
        self,
        *,
        variant: Variant = "hadsell",
        margin: Annotated[float, Gt(0), Le(2)] = 1.0,
        positive: Cosine = 1.0,
        negative: Cosine = 0.5,
        mean_over: Literal["pairs", "anchors"] = "pairs",
    ) -> None:
        super().__init__()
        self.variant: Variant = variant
        self.mean_over: Literal["pairs", "anchors"] = mean_over
        self.margin, self.positive, self.negative = margin, positive, negative

    def forward(self, anchors: Rows, references: Rows, *, miner: Miner | None = None) -> Float[Tensor, ""]:
        pull, push = self._pull_and_push()
        cosine, per_anchor = self.variant == "cosine", self.mean_over == "anchors"
        return stream_pointwise(anchors, references, miner, pull, push, nonzero_only=cosine, per_anchor=per_anchor)

    def _pull_and_push(self) -> tuple[PointwiseLoss, PointwiseLoss]:
        if self.variant == "cosine":
            return partial(cosine_positive, positive=self.positive), partial(cosine_negative, negative=self.negative)
        push = hadsell_negative if self.variant == "hadsell" else squared_margin_negative
        return hadsell_positive, partial(push, margin=self.margin)
