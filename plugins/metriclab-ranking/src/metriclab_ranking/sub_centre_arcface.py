"""Sub-centre ArcFace: an image need be near to one of its class's centres alone."""

from __future__ import annotations

import math
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from torch import nn

from metriclab.api import Pairs, Term, build, call_pair_loss, register, show_settings, stream_terms
from metriclab_ranking.by_class import nearest_of_class


@register("loss", "sub-centre-arcface")
class SubCentreArcFace(nn.Module):
    """`arcface` over the nearest centre of each class. Made for the memory `proxies` with per_class above 1.

    The cosine to a class is that to the nearest of its proxies, for the own class and for the others; what follows is
    `arcface`. That loss over several proxies a class is another one: it adds up their e^(scale cosine), so that all of
    them are drawn, where here the nearest alone is, and the others are left to what differs: noisy labels, other looks.
    With per_class = 1 both are equal.

    Proxies at one cosine share the gradient in equal parts. An anchor without a positive is not counted, the loss of
    one without a negative is 0; over a batch or a ring in place of proxies, a class is as near as its nearest row.

    Paper: Deng et al., Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces, ECCV 2020.

    Args:
        scale: factor of the cosines; the paper takes 64.
        margin: angle in radians by which the own class must win; the paper takes 0.5.

    Example:
        >>> batch = rows(torch.randn(6, 8), [0, 0, 1, 1, 2, 2])
        >>> proxies = build("memory", "proxies", 8, torch.arange(3), per_class=3)
        >>> SubCentreArcFace(scale=30.0)(batch, proxies.rows()).backward()
    """

    pairwise = True
    needs_memory = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(
        self, *, scale: Annotated[float, Gt(0)] = 64.0, margin: Annotated[float, Ge(0), Lt(math.pi / 2)] = 0.5
    ) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.arcface: Any = build("loss", "arcface", scale=scale, margin=margin)

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """The terms of arcface, over classes."""
        terms: dict[str, Term] = self.arcface.terms(nearest_of_class(pairs))
        return terms
