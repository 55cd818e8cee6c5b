"""Losses made for proxies: an anchor among the proxies of all classes, or every proxy among the images of a batch."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.call_loss import call_loss, call_pair_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.rows import Rows
from metriclab.core.settings import show_settings
from metriclab.losses.class_softmax import log_sums, softmax_terms
from metriclab.registry import register


@register("loss", "proxy-nca")
class ProxyNCA(nn.Module):
    """Neighbourhood components analysis against proxies: nearer to the own class's than to the other classes'.

    For an anchor a, -log (sum over positives p of e^(-d_ap^2 / t) / sum over negatives n of e^(-d_an^2 / t)), with d
    the Euclidean distance of unit rows; then the mean over anchors with a positive and a negative, any other is not
    counted. Made for the memory `proxies`: with one a class the sum above has one part, with several an anchor need be
    near to one of them only. The loss may be negative, and its gradient does not fade where an anchor is right.

    ProxyNCA++ makes it a probability: the denominator is the sum over all proxies, the own class's too (`all`; then an
    anchor without negatives is counted, with a loss of 0), and t is low. That is `normalized-softmax` at t / 2. Its
    other changes are not the loss's: faster proxies (optimizer.groups), balanced batches, layers of the network.

    Paper: Movshovitz-Attias et al., No Fuss Distance Metric Learning using Proxies, ICCV 2017; Teh et al., ProxyNCA++:
    Revisiting and Revitalizing Proxy Neighborhood Component Analysis, ECCV 2020.

    Args:
        temperature: t; 1 is none at all, ProxyNCA++ takes 1/9.
        denominator: whom the own class is held against: "negatives", or "all" as in ProxyNCA++.

    Example:
        >>> from metriclab.memories import Proxies
        >>> batch, proxies = rows(torch.randn(6, 8), [0, 0, 1, 1, 2, 2]), Proxies(8, range(3))
        >>> ProxyNCA(denominator="all")(batch, proxies.rows()).backward()
    """

    pairwise = True
    needs_memory = True
    __call__ = call_pair_loss
    forward = stream_terms
    extra_repr = show_settings

    def __init__(
        self, *, temperature: Annotated[float, Gt(0)] = 0.11, denominator: Literal["negatives", "all"] = "negatives"
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.denominator: Literal["negatives", "all"] = denominator

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """-log (sum over positives of e^(-d^2 / t) / sum over the denominator of the same)."""
        logits = 2 * pairs.similarity / self.temperature  # d^2 = 2 - 2 s; the 2 cancels
        if self.denominator == "all":
            return softmax_terms(pairs, logits)
        own, others = log_sums(pairs, logits)
        counted = pairs.positive.any(1) & pairs.negative.any(1)
        return {"anchors": Term(torch.where(counted, others - own, 0), counted.long())}


@register("loss", "proxy-anchor")
class ProxyAnchor(nn.Module):
    """Each proxy draws the images of its class and repels the others, the hardest of them most.

    The mean over proxies p with an image of their class in the batch of log(1 + sum over those a of
    e^(-scale (s_ap - margin))), plus the mean over all proxies of log(1 + sum over the other images of
    e^(scale (s_ap + margin))). A proxy without images has no part in the first mean, but in the second; several proxies
    a class count each by itself, and each draws the whole class. Made for the memory `proxies`; any other references
    take the part of the proxies as well, rows of the batch itself included.

    Its means are over references, so it is called with the rows of all ranks. It takes no miner: its own weights choose
    the hard pairs.

    Paper: Kim et al., Proxy Anchor Loss for Deep Metric Learning, CVPR 2020, equation 4.

    Args:
        scale: sharpness (alpha): the higher, the more the hardest images count; the paper takes 32.
        margin: cosine (delta) by which images must be on their side of 0; the paper takes 0.1.

    Example:
        >>> from metriclab.memories import Proxies
        >>> batch, proxies = rows(torch.randn(6, 8), [0, 0, 1, 1, 2, 2]), Proxies(8, range(3))
        >>> ProxyAnchor()(batch, proxies.rows()).backward()
    """

    needs_memory = True
    __call__ = call_loss
    extra_repr = show_settings

    def __init__(self, *, scale: Annotated[float, Gt(0)] = 32.0, margin: Annotated[float, Ge(0), Le(1)] = 0.1) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin

    def forward(self, anchors: Rows, references: Rows) -> Float[Tensor, ""]:
        # The roles are exchanged: terms are averaged over their anchors, and streamed. Every rank has all of them, so
        # sum and count are both the number of ranks too large, and each rank returns the whole value.
        return stream_terms(self, references, anchors)

    def terms(self, pairs: Pairs) -> dict[str, Term]:
        """Of proxies against images: log(1 + sum e^(-scale (s - margin))) over positives, averaged over proxies that
        have some; log(1 + sum e^(scale (s + margin))) over negatives, averaged over all proxies."""
        s = pairs.similarity
        logits = self.scale * torch.where(pairs.positive, self.margin - s, s + self.margin)
        pull, push = (torch.logaddexp(one, torch.zeros_like(one)) for one in log_sums(pairs, logits))
        has_positive, known = pairs.positive.any(1), pairs.anchors.labels >= 0
        return {
            "positives": Term(torch.where(has_positive, pull, 0), has_positive.long()),
            "negatives": Term(torch.where(known, push, 0), known.long()),
        }
