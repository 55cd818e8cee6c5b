"""Circle loss for metriclab."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from metriclab.api import PairLoss, Pairs, Term, register

__all__ = ["circle"]


@register("loss", "circle")
def circle(*, margin: Annotated[float, Ge(0), Le(1)] = 0.25, scale: Annotated[float, Gt(0)] = 256.0) -> PairLoss:
    """Positives and negatives of an anchor pulled each at its own pace: the further from its optimum, the harder.

    The mean is over anchors that have both. The paces are constants to the gradient, as in the paper.

    Paper: Sun et al., Circle Loss: A Unified Perspective of Pair Similarity Optimization, CVPR 2020, equations 5 and 6.

    Args:
        margin: m: positives aim above 1 - m, negatives below m; 0.25 for faces, 0.4 for fine-grained retrieval.
        scale: gamma; 256 for faces, 80 for fine-grained retrieval.
    """

    return PairLoss(partial(circle_terms, margin=margin, scale=scale))


def circle_terms(pairs: Pairs, margin: float, scale: float) -> dict[str, Term]:
    """log(1 + sum of exp over negatives x sum of exp over positives), for each anchor that has both."""
    s = pairs.similarity
    pull = scale * (1 + margin - s).clamp(min=0).detach() * (1 - margin - s)
    push = scale * (s + margin).clamp(min=0).detach() * (s - margin)
    both = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    # log(1 + exp(x)) by logsigmoid: torch's softplus drops to x above 20, 2e-9 off.
    loss = -logsigmoid(-_log_sum(pull, pairs.positive) - _log_sum(push, pairs.negative))
    return {"circle": Term(loss.where(both, 0.0), both.long())}


def _log_sum(logits: Float[Tensor, "b m"], chosen: Bool[Tensor, "b m"]) -> Float[Tensor, "b"]:
    return logits.masked_fill(~chosen, -torch.inf).logsumexp(dim=1)
