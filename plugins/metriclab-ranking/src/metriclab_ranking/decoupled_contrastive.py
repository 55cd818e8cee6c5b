"""Decoupled contrastive learning: NT-Xent without the positive in its denominator."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.api import Miner, PairLoss, Pairs, Rows, Term, call_pair_loss, register, show_settings, stream_terms


@register("loss", "decoupled-contrastive")
class DecoupledContrastive(nn.Module):
    """Each positive drawn and all negatives pushed, where how hard does not depend on the positive (DCL).

    The mean over positive pairs (a, p), of anchors with a negative, of -w s_ap / t + log sum over negatives n of
    e^(s_an / t): `nt-xent` without the positive in the denominator. There a positive that is near takes the gradient
    from the negatives of its anchor, most of all in small batches. An anchor's other positives are in no denominator.

    w is 1; with `weighting` it is 2 - e^(s_ap / weighting) / the mean of that over all positive pairs (DCLW), and a
    constant to the gradient: the nearest positives are drawn least, or pushed off where w is below 0. That mean is
    over the rows of all ranks, so the loss is then called with all rows on each rank.

    The loss may be negative, and a positive is drawn however near it is. Positives at one cosine have equal gradients.
    A single positive pair in all has w = 1. With no negative an anchor is not counted. Memory is O(N D).

    Paper: Yeh et al., Decoupled Contrastive Learning, ECCV 2022, equations 5 to 7.

    Args:
        temperature: t; the paper takes 0.1 on ImageNet and 0.07 on CIFAR.
        weighting: sigma of the weights, or none for w = 1; the paper takes 0.5.

    Example:
        >>> criterion = DecoupledContrastive(temperature=0.1)
        >>> criterion(torch.randn(8, 8, requires_grad=True), [0, 1, 2, 3, 0, 1, 2, 3]).backward()
    """

    __call__ = call_pair_loss
    extra_repr = show_settings

    def __init__(
        self,
        *,
        temperature: Annotated[float, Gt(0)] = 0.1,
        weighting: Annotated[float, Ge(0.05)] | None = None,
    ) -> None:
        super().__init__()
        self.temperature, self.weighting = temperature, weighting
        self.pairwise = weighting is None

    def forward(self, anchors: Rows, references: Rows, *, miner: Miner | None = None) -> Float[Tensor, ""]:
        mean = None
        if self.weighting is not None:
            with torch.no_grad():
                mean = PairLoss(partial(closeness_terms, sigma=self.weighting))(anchors, references, miner=miner)
        terms = partial(self.weighted_terms, mean=mean)
        return stream_terms(PairLoss(terms), anchors, references, miner=miner)

    def weighted_terms(self, pairs: Pairs, mean: Float[Tensor, ""] | None) -> dict[str, Term]:
        """-w s_ap / t + log sum e^(s_an / t), averaged over the positive pairs of anchors with a negative."""
        logits = pairs.similarity / self.temperature
        lowest = torch.finfo(logits.dtype).min  # not -inf: a row without negatives would have a NaN gradient
        negatives = logits.masked_fill(~pairs.negative, lowest).logsumexp(1, keepdim=True)
        drawn = logits
        if mean is not None and self.weighting is not None:
            average = mean + (mean == 0)  # no pair at all
            drawn = (2 - _closeness(pairs.similarity.detach(), self.weighting) / average) * logits
        counted = pairs.positive & pairs.negative.any(1, keepdim=True)
        return {"pairs": Term(torch.where(counted, negatives - drawn, 0).sum(1), counted.sum(1))}


def closeness_terms(pairs: Pairs, sigma: float) -> dict[str, Term]:
    """e^(s / sigma), but for a factor, averaged over the positive pairs of anchors with a negative."""
    counted = pairs.positive & pairs.negative.any(1, keepdim=True)
    return {"pairs": Term(torch.where(counted, _closeness(pairs.similarity, sigma), 0).sum(1), counted.sum(1))}


def _closeness(similarity: Float[Tensor, "b m"], sigma: float) -> Float[Tensor, "b m"]:
    return ((similarity - 1) / sigma).exp()
