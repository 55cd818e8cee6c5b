"""ArcFace: a softmax over classes in which the own class starts at a disadvantage in angle."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.settings import show_settings
from metriclab.losses.class_softmax import softmax_terms
from metriclab.registry import register


def widened(similarity: Float[Tensor, "b m"], margin: float) -> Float[Tensor, "b m"]:
    """cos(theta + margin) of the angle theta whose cosine is given; s - margin sin(margin) beyond theta + margin = pi.

    No arc cosine is taken. Its derivative, like that of the sine, is infinite at s = 1 and -1; an angle so small that
    rounding alone may have made it counts as 0, with subgradient 0, as the distance of rows that coincide has.
    """
    squared_sine = (1 - similarity) * (1 + similarity)  # unlike 1 - s^2, exact to rounding near s = 1
    apart = squared_sine > 8 * torch.finfo(similarity.dtype).eps
    sine = torch.where(apart, torch.where(apart, squared_sine, 1).sqrt(), 0 * squared_sine)
    turned = similarity * math.cos(margin) - sine * math.sin(margin)
    return torch.where(similarity > -math.cos(margin), turned, similarity - margin * math.sin(margin))


@register("loss", "arcface")
class ArcFace(nn.Module):
    """Additive angular margin loss: `normalized-softmax` at t = 1 / scale with the angle to the own class widened.

    With e^(scale cos(theta_ap + margin)) for a positive p and e^(scale cos(theta_an)) for a negative n, -log of the
    share that an anchor's positives have in the sum; then the mean over anchors with a positive. Made for the memory
    `proxies`; several proxies a class are added up. An anchor without a positive is not counted, the loss of one
    without a negative is 0.

    Where theta + margin exceeds pi its cosine would rise again and drive the anchor on towards the far side. As in
    the authors' code, s - margin sin(margin) stands for it there: it falls on with the angle. The loss makes a small
    step at that angle. (Their "easy margin", a margin for angles under 90 degrees alone, is not offered.)

    Paper: Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019, equation 3.

    Args:
        scale: factor of the cosines, 1 / t; the paper takes 64.
        margin: angle in radians by which the own class must win, up to a right angle; the paper takes 0.5.

    Example:
        >>> from metriclab.memories import Proxies
        >>> z, labels = torch.randn(6, 8, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> proxies = Proxies(8, labels.unique())
        >>> ArcFace(scale=30.0)(rows(z, labels), proxies.rows()).backward()
        >>> proxies.directions.grad.shape
        torch.Size([3, 8])
    """

    pairwise = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(
        self, *, scale: Annotated[float, Gt(0)] = 64.0, margin: Annotated[float, Ge(0), Lt(math.pi / 2)] = 0.5
    ) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """The cross entropy of scale cos(theta + margin) on positives and scale cos(theta) on negatives."""
        s = pairs.similarity
        return softmax_terms(pairs, self.scale * torch.where(pairs.positive, widened(s, self.margin), s))
