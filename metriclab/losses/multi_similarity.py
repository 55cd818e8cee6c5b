"""The multi-similarity loss: an anchor's hardest pairs weigh most, positives and negatives each on their own scale."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.settings import show_settings
from metriclab.registry import register


@register("loss", "multi-similarity")
class MultiSimilarity(nn.Module):
    """Soft maxima over an anchor's positives and over its negatives, so that its hardest pairs weigh most.

    The mean over anchors of log(1 + sum over positives p of e^(-alpha (s_ap - base))) / alpha + log(1 + sum over
    negatives n of e^(beta (s_an - base))) / beta. An anchor without positives has the second part alone, without
    negatives the first; every anchor of known label counts, also one whose pairs a miner has all left out. The choice
    of pairs that the paper combines it with is a miner of its own and not included.

    Paper: Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, CVPR 2019.

    Args:
        alpha: sharpness on positives: the higher, the more the farthest one counts; the paper takes 2.
        beta: sharpness on negatives: the higher, the more the nearest one counts; the paper takes 50.
        base: cosine that pairs are measured from (lambda): positives below it and negatives above it weigh most.

    Example:
        >>> criterion = MultiSimilarity(beta=40.0)
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(
        self,
        *,
        alpha: Annotated[float, Gt(0)] = 2.0,
        beta: Annotated[float, Gt(0)] = 50.0,
        base: Annotated[float, Ge(-1), Le(1)] = 0.5,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.base = alpha, beta, base

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """log(1 + sum e^(-alpha (s - base))) / alpha over positives, the like of it over negatives, for each anchor."""
        above = pairs.similarity - self.base
        pull = _log_one_plus_sum(-self.alpha * above, pairs.positive) / self.alpha
        push = _log_one_plus_sum(self.beta * above, pairs.negative) / self.beta
        # By label and not by pairs: what a miner takes away has no loss, it does not give the others more of it.
        return {"anchors": Term(pull + push, (pairs.anchors.labels >= 0).long())}


def _log_one_plus_sum(logits: Float[Tensor, "b m"], chosen: Bool[Tensor, "b m"]) -> Float[Tensor, "b"]:
    # Not -inf: a row where none is chosen would have NaNs on the way to its zero gradient.
    lowest = torch.finfo(logits.dtype).min
    log_sum = logits.masked_fill(~chosen, lowest).logsumexp(1)
    return torch.logaddexp(log_sum, torch.zeros_like(log_sum))
