"""Recall at k that can be differentiated."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, MinLen
from torch import nn

from metriclab.api import Pairs, Term, call_pair_loss, register, show_settings, stream_terms
from metriclab_ranking.average_precision import sigmoid_step
from metriclab_ranking.soft_ranks import soft_ranks, sum_by_anchor

_K = [1, 2, 4, 8, 16]


@register("loss", "recall-at-k")
class RecallAtK(nn.Module):
    """One minus a smooth recall at k, the mean over several k and over anchors with a positive.

    A positive of rank r counts as found by the sigmoid of (k - r) / count_temperature; its rank is 1 + the sum over the
    anchor's other references j of the sigmoid of (s_j - s_i) / rank_temperature. What an anchor has found, at most k,
    is divided by min(k, P) of its P positives. An anchor is no reference of its own (in the authors' code it is ranked
    too, and each rank is larger by 1).

    A rank of k counts half, so the loss does not reach 0: with a single positive at rank 1 and k = 1 it is 1/2. Two
    references at one cosine count half before each other and are parted with the largest gradient, positives too. Where
    more than k are found, that k gives no gradient. An anchor without a positive is not counted. Memory and time are
    those of `smooth-ap`, for all k together.

    The mixup of similarities of the paper is not included.

    Paper: Patel et al., Recall@k Surrogate Loss with Large Batches and Similarity Mixup, CVPR 2022.

    Args:
        k: the numbers of references looked at; the paper takes 1, 2, 4, 8 and 16.
        rank_temperature: of the sigmoid that counts ranks; the paper takes 0.01.
        count_temperature: of the sigmoid that counts what is found; the paper takes 1.

    Example:
        >>> criterion = RecallAtK(k=[1, 2])
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(
        self,
        *,
        k: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = _K,
        rank_temperature: Annotated[float, Gt(0)] = 0.01,
        count_temperature: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        super().__init__()
        self.k, self.rank_temperature, self.count_temperature = k, rank_temperature, count_temperature

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """One minus the share of positives that are found, averaged over k."""
        step = partial(sigmoid_step, temperature=self.rank_temperature)
        anchors, among_positives, among_negatives = soft_ranks(pairs, step, step)
        rank, positives = 1 + among_positives + among_negatives, pairs.positive.sum(1)
        recalls = []
        for k in self.k:
            found = sum_by_anchor(((k - rank) / self.count_temperature).sigmoid(), anchors, pairs)
            recalls.append(found.clamp(max=k) / positives.clamp(min=1, max=k))
        counted = positives > 0
        missed = 1 - torch.stack(recalls).mean(0)
        return {"anchors": Term(torch.where(counted, missed, 0), counted.long())}
