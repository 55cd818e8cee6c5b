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

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import PairLoss, Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.pointwise_pair_loss import LossAndGrad, stream_pointwise
from metriclab.core.protocols import Miner
from metriclab.core.rows import Rows
from metriclab.core.settings import show_settings
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
    """The same losses with a learned temperature and bias; the temperature by its logarithm, so it stays positive.

    Args:
        temperature: t to begin with.
        bias: b to begin with.
    """

    def __init__(self, temperature: float, bias: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def logged_values(self) -> dict[str, Tensor]:
        """Temperature and bias as they are now."""
        return {"temperature": self.log_temperature.detach().exp(), "bias": self.bias.detach()}

    def forward(self, pairs: Pairs) -> dict[str, Term]:
        logits = pairs.similarity * (-self.log_temperature).exp() + self.bias
        loss = -logsigmoid(torch.where(pairs.positive, logits, -logits))
        masks = {"positives": pairs.positive, "negatives": pairs.negative}
        return {name: Term(torch.where(mask, loss, 0).sum(1), mask.sum(1)) for name, mask in masks.items()}


@register("loss", "logistic")
class Logistic(nn.Module):
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
        learnable: whether t (by its logarithm) and b are trained with the network, as in SigLIP. Their parameters are
            those of `terms`; give them to the optimizer.

    Example:
        >>> criterion = Logistic(temperature=0.2, learnable=True)
        >>> criterion(torch.randn(6, 8), [0, 0, 1, 1, 2, 2]).backward()
        >>> sorted(dict(criterion.named_parameters()))
        ['terms.bias', 'terms.log_temperature']
    """

    pairwise = True
    __call__ = call_pair_loss
    extra_repr = show_settings

    def __init__(
        self, *, temperature: Annotated[float, Gt(0)] = 0.1, bias: float = 0.0, learnable: bool = False
    ) -> None:
        super().__init__()
        self.learnable = learnable
        self.terms = LearnedLogisticTerms(temperature, bias) if learnable else None
        self.temperature, self.bias = temperature, bias

    @property
    def temperature(self) -> float:
        """t, as it is now."""
        return self._temperature if self.terms is None else self.terms.log_temperature.detach().exp().item()

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._temperature = value
        if self.terms is not None:
            self.terms.log_temperature.data.fill_(math.log(value))

    @property
    def bias(self) -> float:
        """b, as it is now."""
        return self._bias if self.terms is None else self.terms.bias.item()

    @bias.setter
    def bias(self, value: float) -> None:
        self._bias = value
        if self.terms is not None:
            self.terms.bias.data.fill_(value)

    def forward(self, anchors: Rows, references: Rows, *, miner: Miner | None = None) -> Float[Tensor, ""]:
        if self.terms is not None:
            return stream_terms(PairLoss(self.terms), anchors, references, miner=miner)
        pull = partial(logistic_positive, temperature=self.temperature, bias=self.bias)
        push = partial(logistic_negative, temperature=self.temperature, bias=self.bias)
        return stream_pointwise(anchors, references, miner, pull, push)
