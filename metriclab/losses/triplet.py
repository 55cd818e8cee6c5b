"""The triplet loss, over all triplets or over chosen negatives, without ever forming b x m x m triplets."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.settings import show_settings
from metriclab.core.soft_triplets import SoftTriplets
from metriclab.registry import register

Negatives = Literal["all", "semihard", "semihard-or-farthest", "hardest"]


@register("loss", "triplet")
class Triplet(nn.Module):
    """Each positive nearer to its anchor than negatives are, by a margin in distance.

    The mean over chosen triplets of max(0, D_ap - D_an + margin); soft, of log(1 + e^(D_ap - D_an + margin)). D is the
    squared distance of FaceNet, or with `squared = false` the distance of Hermans et al. Chosen are, with `negatives`

    - all: all triplets;
    - semihard: for each positive pair the nearest negative that is farther away than the positive, if it is within
      the margin;
    - semihard-or-farthest: the same, and where every negative is nearer than the positive the farthest one, as much
      code for FaceNet does;
    - hardest: for each positive pair the anchor's nearest negative.

    Triplets whose hinge is 0 are not counted, as their number drowns the others late in training; without any triplet
    the loss is 0. Which negative to take depends on the positive, so it is chosen here and not by a miner.

    Paper: Schroff et al., FaceNet, CVPR 2015, section 3; Hermans et al., In Defense of the Triplet Loss for Person
    Re-Identification, 2017, for the distance that is not squared, the soft form (its margin is 0) and the mean over
    triplets that are not 0.

    Args:
        margin: in squared distance of unit rows, which is at most 4, or in distance, which is at most 2.
        soft: a smooth loss that never vanishes, instead of the hinge.
        squared: whether distances are squared.
        negatives: all, semihard, semihard-or-farthest or hardest.

    Example:
        >>> criterion = Triplet(negatives="semihard")
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(
        self,
        *,
        margin: Annotated[float, Ge(0)] = 0.2,
        soft: bool = False,
        squared: bool = True,
        negatives: Negatives = "all",
    ) -> None:
        super().__init__()
        self.margin, self.soft, self.squared = margin, soft, squared
        self.negatives: Negatives = negatives

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """The mean over chosen triplets of max(0, D_ap - D_an + margin), or of its soft form."""
        # Closeness is -D but for a constant, and rises with similarity: orders and choices are those of similarities.
        closeness = 2 * pairs.similarity if self.squared else -_distance(pairs.similarity)
        if self.negatives != "all":
            return {"triplets": self._with_one_negative(pairs, closeness)}
        if self.soft:
            count = pairs.positive.sum(1) * pairs.negative.sum(1)
            return {"triplets": Term(SoftTriplets.apply(closeness, pairs.positive, pairs.negative, self.margin), count)}
        return {"triplets": _all_violating(pairs, closeness, self.margin)}

    def _with_one_negative(self, pairs: Pairs, closeness: Float[Tensor, "b m"]) -> Term:
        """One negative for each positive pair: the nearest one, or the nearest that is farther than the positive."""
        if self.negatives == "hardest":
            negative = _masked(closeness, pairs).amax(1, keepdim=True).expand_as(closeness)
        else:
            negative = _semihard(pairs, closeness, farthest=self.negatives == "semihard-or-farthest")
        excess = negative - closeness + self.margin
        chosen = pairs.positive & ~(negative == -torch.inf)
        if self.negatives != "hardest" or not self.soft:
            chosen = chosen & ~(excess <= 0)
        excess = torch.where(chosen, excess, 0)
        loss = torch.logaddexp(excess, torch.zeros_like(excess)) if self.soft else excess
        return Term(torch.where(chosen, loss, 0).sum(1), chosen.sum(1))


def _distance(similarity: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """Of unit rows; its gradient is 0 where they coincide, where it has none."""
    squared = 2 - 2 * similarity
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), squared * 0)


def _masked(closeness: Float[Tensor, "b m"], pairs: Pairs) -> Float[Tensor, "b m"]:
    return torch.where(pairs.negative, closeness, -torch.inf)


def _semihard(pairs: Pairs, closeness: Float[Tensor, "b m"], *, farthest: bool) -> Float[Tensor, "b m"]:
    """The closeness of each pair's negative, -inf for none."""
    order = torch.where(pairs.negative, pairs.similarity, -torch.inf).detach().sort(1)
    # Similarities this close are equal: a choice must not depend on the order in which a product is summed.
    noise = 8 * torch.finfo(order.values.dtype).eps
    place = torch.searchsorted(order.values, (pairs.similarity - noise).detach().contiguous()) - 1
    if farthest:
        first = (~pairs.negative).sum(1, keepdim=True)  # those that are no negatives come before
        place = torch.maximum(place, first).clamp(max=order.values.shape[1] - 1)
    ordered = _masked(closeness, pairs).gather(1, order.indices)
    return torch.where(place >= 0, ordered.gather(1, place.clamp(min=0)), -torch.inf)


def _all_violating(pairs: Pairs, closeness: Float[Tensor, "b m"], margin: float) -> Term:
    """All triplets with a positive hinge. Sorted negatives and their suffix sums give a positive's sum at once.

    A positive p is violated by the negatives with c_n > c_p - margin: k of them, the last k in ascending order, whose
    losses are k (margin - c_p) + sum of c_n together.
    """
    ordered = _masked(closeness, pairs).sort(1).values
    first = torch.searchsorted(ordered.detach(), (closeness - margin).detach().contiguous(), right=True)
    violating = torch.where(pairs.positive, ordered.shape[1] - first, 0)
    finite = torch.where(ordered == -torch.inf, 0, ordered)
    suffix_sums = pad(finite.flip(1).cumsum(1).flip(1), (0, 1))
    loss = violating * (margin - closeness) + suffix_sums.gather(1, first)
    return Term(torch.where(pairs.positive, loss, 0).sum(1), violating.sum(1))
