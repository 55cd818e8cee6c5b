"""Proxy-anchor: every proxy, in the role of an anchor, gathers the images of its class from the batch."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.call_loss import call_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.rows import Rows
from metriclab.core.settings import show_settings
from metriclab.losses.class_softmax import log_sums
from metriclab.registry import register


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
        >>> z, labels = torch.randn(6, 8, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> proxies = Proxies(8, labels.unique())
        >>> ProxyAnchor()(rows(z, labels), proxies.rows()).backward()
        >>> proxies.directions.grad.shape
        torch.Size([3, 8])
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
