"""CosFace: a softmax over classes in which the own class starts at a disadvantage in cosine."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le

from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs
from metriclab.losses.class_softmax import softmax_terms
from metriclab.registry import register


def cosface_terms(pairs: Pairs, scale: float, margin: float) -> dict[str, Term]:
    """The cross entropy of scale (s - margin) on positives and scale s on negatives."""
    s = pairs.similarity
    return softmax_terms(pairs, scale * torch.where(pairs.positive, s - margin, s))


@register("loss", "cosface")
def cosface(*, scale: Annotated[float, Gt(0)] = 64.0, margin: Annotated[float, Ge(0), Le(2)] = 0.35) -> PairLoss:
    """Large margin cosine loss: `normalized-softmax` at t = 1 / scale with the cosine of the own class lowered.

    With e^(scale (s_ap - margin)) for a positive p and e^(scale s_an) for a negative n, -log of the share that an
    anchor's positives have in the sum; then the mean over anchors with a positive. Made for the memory `proxies`;
    several proxies a class are added up. An anchor without a positive is not counted, one without a negative costs 0.

    Paper: Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018, equation 4.

    Args:
        scale: factor of the cosines, 1 / t; the paper takes 64.
        margin: cosine by which the own class must win; the paper takes 0.35.
    """
    return PairLoss(partial(cosface_terms, scale=scale, margin=margin))
