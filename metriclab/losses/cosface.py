"""CosFace: a softmax over classes in which the own class starts at a disadvantage in cosine."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import nn

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.settings import show_settings
from metriclab.losses.class_softmax import softmax_terms
from metriclab.registry import register


@register("loss", "cosface")
class CosFace(nn.Module):
    """Large margin cosine loss: `normalized-softmax` at t = 1 / scale with the cosine of the own class lowered.

    With e^(scale (s_ap - margin)) for a positive p and e^(scale s_an) for a negative n, -log of the share that an
    anchor's positives have in the sum; then the mean over anchors with a positive. Made for the memory `proxies`;
    several proxies a class are added up. An anchor without a positive is not counted, the loss of one without a
    negative is 0.

    Paper: Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018, equation 4.

    Args:
        scale: factor of the cosines, 1 / t; the paper takes 64.
        margin: cosine by which the own class must win; the paper takes 0.35.

    Example:
        >>> from metriclab.memories import Proxies
        >>> z, labels = torch.randn(6, 8, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> proxies = Proxies(8, labels.unique())
        >>> CosFace(scale=30.0)(rows(z, labels), proxies.rows()).backward()
        >>> proxies.directions.grad.shape
        torch.Size([3, 8])
    """

    pairwise = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(self, *, scale: Annotated[float, Gt(0)] = 64.0, margin: Annotated[float, Ge(0), Le(2)] = 0.35) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """The cross entropy of scale (s - margin) on positives and scale s on negatives."""
        s = pairs.similarity
        return softmax_terms(pairs, self.scale * torch.where(pairs.positive, s - self.margin, s))
