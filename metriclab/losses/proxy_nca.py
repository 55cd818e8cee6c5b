"""Proxy-NCA: an anchor nearer to the proxy of its class than to those of the others."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import nn

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
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
        >>> z, labels = torch.randn(6, 8, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> proxies = Proxies(8, labels.unique())
        >>> ProxyNCA(denominator="all")(rows(z, labels), proxies.rows()).backward()
        >>> proxies.directions.grad.shape
        torch.Size([3, 8])
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
