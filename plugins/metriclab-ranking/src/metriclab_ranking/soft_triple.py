"""SoftTriple: several centres a class, each image near to those that are like it, and no more centres than needed."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.api import (
    Miner,
    PairLoss,
    Pairs,
    Rows,
    Term,
    build,
    call_pair_loss,
    register,
    show_settings,
    stream_terms,
)
from metriclab_ranking.by_class import softly_nearest_of_class


@register("loss", "soft-triple")
class SoftTriple(nn.Module):
    """`cosface` over softly chosen centres of each class, which are drawn together. For `proxies` with per_class.

    The cosine to a class is the mean of the cosines s to its proxies, weighed by e^(s / centre_temperature): the own
    class's, lowered by `margin`, is held against those of the others in a softmax of factor `scale`. To it is added
    `merging` / 2 times the mean Euclidean distance of two proxies of one class, so that those not needed coincide.

    Proxies that coincide have a distance of 0 and the subgradient 0 (the paper's code adds 1e-5 below the root
    instead). With one proxy a class it is `cosface`, and nothing is merged. An anchor without a positive is not
    counted, the loss of one without a negative is 0.

    Paper: Qian et al., SoftTriple Loss: Deep Metric Learning Without Triplet Sampling, ICCV 2019, equations 6 to 8.

    Args:
        scale: lambda, factor of the cosines; the paper takes 20.
        centre_temperature: gamma: the lower, the more the nearest centre of a class stands for it; the paper takes 0.1.
        margin: delta, cosine by which the own class must win; the paper takes 0.01.
        merging: tau, how much the centres of a class draw each other; the paper takes 0.2.

    Example:
        >>> batch = rows(torch.randn(6, 8), [0, 0, 1, 1, 2, 2])
        >>> proxies = build("memory", "proxies", 8, torch.arange(3), per_class=3)
        >>> SoftTriple()(batch, proxies.rows()).backward()
    """

    pairwise = True
    needs_memory = True
    __call__ = call_pair_loss
    extra_repr = show_settings

    def __init__(
        self,
        *,
        scale: Annotated[float, Gt(0)] = 20.0,
        centre_temperature: Annotated[float, Gt(0)] = 0.1,
        margin: Annotated[float, Ge(0), Le(2)] = 0.01,
        merging: Annotated[float, Ge(0)] = 0.2,
    ) -> None:
        super().__init__()
        self.scale, self.centre_temperature, self.margin, self.merging = scale, centre_temperature, margin, merging
        self.cosface: Any = build("loss", "cosface", scale=scale, margin=margin)
        self.distances = PairLoss(distance_terms)

    def forward(self, anchors: Rows, references: Rows, *, miner: Miner | None = None) -> Float[Tensor, ""]:
        classifying = stream_terms(self, anchors, references, miner=miner)
        # Every rank has all references on both sides, and returns the whole of this mean.
        return classifying + self.merging / 2 * self.distances(references, references)

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """The terms of cosface, over classes."""
        terms: dict[str, Term] = self.cosface.terms(softly_nearest_of_class(pairs, self.centre_temperature))
        return terms


def distance_terms(pairs: Pairs) -> dict[str, Term]:
    """The Euclidean distance of positive pairs, averaged over them."""
    squared = 2 - 2 * pairs.similarity
    # Rows that coincide but for rounding have no direction: the gradient of the root would be that of the rounding.
    apart = pairs.positive & ~(squared <= 16 * torch.finfo(squared.dtype).eps)
    distance = torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
    return {"distances": Term(distance.sum(1), pairs.positive.sum(1))}
