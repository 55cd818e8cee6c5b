"""Losses that classify by cosine: a softmax over the references of an anchor, of its own class and of the others."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.settings import show_settings
from metriclab.registry import register


def log_sums(pairs: Pairs, logits: Float[Tensor, "b m"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The logarithm of the sum of e^logit over an anchor's positives, and that over its negatives.

    A sum over none is 0; its logarithm comes as the lowest finite number, about, with zero gradient.
    """
    # Not -inf: a row where none is chosen would have NaNs on the way to its zero gradient.
    lowest = torch.finfo(logits.dtype).min
    own = logits.masked_fill(~pairs.positive, lowest).logsumexp(1)
    others = logits.masked_fill(~pairs.negative, lowest).logsumexp(1)
    return own, others


def softmax_terms(pairs: Pairs, logits: Float[Tensor, "b m"]) -> dict[str, Term]:
    """-log (sum over positives of e^logit / sum over positives and negatives), averaged over anchors with a positive.

    With one reference a class this is the cross entropy of the classes. With several, the probability of a class is
    the sum of those of its references: an anchor need be near to one of them only.
    """
    own, others = log_sums(pairs, logits)
    behind = others - own
    loss = torch.logaddexp(behind, torch.zeros_like(behind))
    counted = pairs.positive.any(1)
    return {"anchors": Term(torch.where(counted, loss, 0), counted.long())}


@register("loss", "normalized-softmax")
class NormalizedSoftmax(nn.Module):
    """Classification by cosine: the cross entropy of s / t over the classes. Made for the memory `proxies`.

    For an anchor a, -log (sum over positives p of e^(s_ap / t) / sum over positives and negatives o of e^(s_ao / t));
    then the mean over anchors with a positive. With one proxy a class that is the usual cross entropy. With several
    the probabilities of a class's proxies add up, so an anchor need be near to one of them only; the same holds for
    rows of a batch or of a ring. An anchor without a positive is not counted, the loss of one without a negative is 0.

    Paper: Zhai & Wu, Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019.

    Args:
        temperature: t; the paper takes 0.05.

    Example:
        >>> from metriclab.memories import Proxies
        >>> batch, proxies = rows(torch.randn(6, 8), [0, 0, 1, 1, 2, 2]), Proxies(8, range(3))
        >>> NormalizedSoftmax(temperature=0.1)(batch, proxies.rows()).backward()
    """

    pairwise = True
    needs_memory = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(self, *, temperature: Annotated[float, Gt(0)] = 0.05) -> None:
        super().__init__()
        self.temperature = temperature

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """The cross entropy of s / t."""
        return softmax_terms(pairs, pairs.similarity / self.temperature)


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
        >>> batch, proxies = rows(torch.randn(6, 8), [0, 0, 1, 1, 2, 2]), Proxies(8, range(3))
        >>> CosFace(scale=30.0)(batch, proxies.rows()).backward()
    """

    pairwise = True
    needs_memory = True
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
        >>> batch, proxies = rows(torch.randn(6, 8), [0, 0, 1, 1, 2, 2]), Proxies(8, range(3))
        >>> ArcFace(scale=30.0)(batch, proxies.rows()).backward()
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

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """The cross entropy of scale cos(theta + margin) on positives and scale cos(theta) on negatives."""
        s = pairs.similarity
        return softmax_terms(pairs, self.scale * torch.where(pairs.positive, widened(s, self.margin), s))
