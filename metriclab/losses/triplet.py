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

Negatives = Literal["all", "semihard", "hardest"]


@register("loss", "triplet")
class Triplet(nn.Module):
    """Each positive nearer to its anchor than negatives are, by a margin in squared distance.

    The mean over chosen triplets of max(0, d_ap^2 - d_an^2 + margin); soft, of log(1 + e^(d_ap^2 - d_an^2 + margin)).
    Chosen are, with `negatives`

    - all: all triplets;
    - semihard: for each positive pair the nearest negative that is farther away than the positive, if it is within
      the margin;
    - hardest: for each positive pair the anchor's nearest negative.

    Triplets whose hinge is 0 are not counted, as their number drowns the others late in training; without any triplet
    the loss is 0. Which negative to take depends on the positive, so it is chosen here and not by a miner.

    Paper: Schroff et al., FaceNet, CVPR 2015, section 3; Hermans et al., In Defense of the Triplet Loss for Person
    Re-Identification, 2017, for the soft form (its margin is 0) and the mean over triplets that are not 0.

    Args:
        margin: in squared distance of unit rows, which is at most 4.
        soft: a smooth loss that never vanishes, instead of the hinge.
        negatives: all, semihard or hardest.

    Example:
        >>> criterion = Triplet(negatives="semihard")
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(
        self, *, margin: Annotated[float, Ge(0)] = 0.2, soft: bool = False, negatives: Negatives = "all"
    ) -> None:
        super().__init__()
        self.margin, self.soft = margin, soft
        self.negatives: Negatives = negatives

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """The mean over chosen triplets of max(0, d_ap^2 - d_an^2 + margin), or of its soft form."""
        if self.negatives != "all":
            semihard = self.negatives == "semihard"
            return {"triplets": _with_one_negative(pairs, self.margin, self.soft, semihard=semihard)}
        if self.soft:
            count = pairs.positive.sum(1) * pairs.negative.sum(1)
            total = SoftTriplets.apply(pairs.similarity, pairs.positive, pairs.negative, 2.0, self.margin)
            return {"triplets": Term(total, count)}
        return {"triplets": _all_violating(pairs, self.margin)}


def _sorted_negatives(pairs: Pairs) -> Float[Tensor, "b m"]:
    return torch.where(pairs.negative, pairs.similarity, -torch.inf).sort(1).values


def _noise(pairs: Pairs) -> float:
    # Similarities this close are equal: a choice must not depend on the order in which a product is summed.
    return 8 * torch.finfo(pairs.similarity.dtype).eps


def _with_one_negative(pairs: Pairs, margin: float, soft: bool, *, semihard: bool) -> Term:
    """One negative for each positive pair: the nearest one, or the nearest that is farther than the positive."""
    ordered = _sorted_negatives(pairs)
    if semihard:
        nearer_than = (pairs.similarity - _noise(pairs)).detach().contiguous()
        place = torch.searchsorted(ordered.detach(), nearer_than) - 1
        negative = torch.where(place >= 0, ordered.gather(1, place.clamp(min=0)), -torch.inf)
    else:
        negative = ordered[:, -1:].expand_as(ordered)
    excess = 2 * (negative - pairs.similarity) + margin
    chosen = pairs.positive & ~(negative == -torch.inf)
    if semihard or not soft:
        chosen = chosen & ~(excess <= 0)
    excess = torch.where(chosen, excess, 0)
    loss = torch.logaddexp(excess, torch.zeros_like(excess)) if soft else excess
    return Term(torch.where(chosen, loss, 0).sum(1), chosen.sum(1))


def _all_violating(pairs: Pairs, margin: float) -> Term:
    """All triplets with a positive hinge. Sorted negatives and their suffix sums give a positive's sum at once.

    A positive p is violated by the negatives with s_n > s_p - margin / 2: k of them, the last k in ascending order,
    whose losses are k (margin - 2 s_p) + 2 sum of s_n together.
    """
    ordered = _sorted_negatives(pairs)
    border = (pairs.similarity - margin / 2).detach().contiguous()
    first = torch.searchsorted(ordered.detach(), border, right=True)
    violating = torch.where(pairs.positive, ordered.shape[1] - first, 0)
    finite = torch.where(ordered == -torch.inf, 0, ordered)
    suffix_sums = pad(finite.flip(1).cumsum(1).flip(1), (0, 1))
    loss = violating * (margin - 2 * pairs.similarity) + 2 * suffix_sums.gather(1, first)
    return Term(torch.where(pairs.positive, loss, 0).sum(1), violating.sum(1))
