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
from metriclab.core.pointwise_pair_loss import LossAndGrad, PointwisePairLoss
from metriclab.core.protocols import Loss
from metriclab.registry import register


def logistic_positive(similarity: Float[Tensor, "*cells"], temperature: float, bias: float) -> LossAndGrad:
    """log(1 + e^-(s / t + b))."""
    logits = similarity / temperature + bias
    # By logsigmoid: torch's softplus(x) drops to x above 20, 2e-9 off.
    return LossAndGrad(-logsigmoid(logits), (-logits).sigmoid() / -temperature)


def logistic_negative(similarity: Float[Tensor, "*cells"], temperature: float, bias: float) -> LossAndGrad:
    """log(1 + e^(s / t + b))."""
    logits = similarity / temperature + bias
    return LossAndGrad(-logsigmoid(-logits), logits.sigmoid() / temperature)


class LearnedLogisticTerms(nn.Module):
    """The same costs with a learned temperature and bias; the temperature by its logarithm, so it stays positive.

    Args:
        temperature: t to begin with.
        bias: b to begin with.
    """

    def __init__(self, temperature: float, bias: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, pairs: Pairs) -> dict[str, Term]:
        logits = pairs.similarity * (-self.log_temperature).exp() + self.bias
        cost = -logsigmoid(torch.where(pairs.positive, logits, -logits))
        masks = {"positives": pairs.positive, "negatives": pairs.negative}
        return {name: Term(torch.where(mask, cost, 0).sum(1), mask.sum(1)) for name, mask in masks.items()}


@register("loss", "logistic")
def logistic(*, temperature: Annotated[float, Gt(0)] = 0.1, bias: float = 0.0, learnable: bool = False) -> Loss:
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
    return PointwisePairLoss(
        partial(logistic_positive, temperature=temperature, bias=bias),
        partial(logistic_negative, temperature=temperature, bias=bias),
    )
