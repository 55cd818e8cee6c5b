"""The logistic loss: each pair by itself is classified as alike or not."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs
from metriclab.losses.contrastive import mean_over
from metriclab.registry import register


def logistic_terms(pairs: Pairs, temperature: float, bias: float) -> dict[str, Term]:
    """log(1 + e^-(s / t + b)) on positives, log(1 + e^(s / t + b)) on negatives."""
    return _classified(pairs, pairs.similarity / temperature + bias)


def _classified(pairs: Pairs, logits: Float[Tensor, "b m"]) -> dict[str, Term]:
    # By logsigmoid: torch's softplus(x) drops to x above 20, 2e-9 off.
    cost = -logsigmoid(torch.where(pairs.positive, logits, -logits))
    return {"positives": mean_over(cost, pairs.positive), "negatives": mean_over(cost, pairs.negative)}


class LearnedLogisticTerms(nn.Module):
    """`logistic_terms` whose temperature and bias are learned; the temperature by its logarithm, so it stays positive.

    Args:
        temperature: t to begin with.
        bias: b to begin with.
    """

    def __init__(self, temperature: float, bias: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, pairs: Pairs) -> dict[str, Term]:
        return _classified(pairs, pairs.similarity * (-self.log_temperature).exp() + self.bias)


@register("loss", "logistic")
def logistic(*, temperature: Annotated[float, Gt(0)] = 0.1, bias: float = 0.0, learnable: bool = False) -> PairLoss:
    """Each pair by itself classified as alike or not, by the sigmoid of s / t + b, with s the cosine of its rows.

    The mean over positive pairs of log(1 + e^-(s / t + b)), plus the mean over negative pairs of
    log(1 + e^(s / t + b)). Without positive pairs the first mean is 0, without negative pairs the second.

    Paper: Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023 (SigLIP), which sums over all pairs;
    with b = 0 the NT-Logistic loss of Chen et al., A Simple Framework for Contrastive Learning of Visual
    Representations, ICML 2020, table 2.

    Args:
        temperature: t, or what it is to begin with. SigLIP begins with 0.1.
        bias: b, or what it is to begin with; a pair is undecided at the cosine -b t. SigLIP begins with -10 because
            most of its pairs are negative; the two means weigh alike here, which needs no such start.
        learnable: whether t (by its logarithm) and b are trained with the network, as in SigLIP.
    """
    if learnable:
        return PairLoss(LearnedLogisticTerms(temperature, bias))
    return PairLoss(partial(logistic_terms, temperature=temperature, bias=bias))
