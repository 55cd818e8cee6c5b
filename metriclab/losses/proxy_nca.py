"""Proxy-NCA: an anchor nearer to the proxy of its class than to those of the others."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Gt

from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs
from metriclab.losses.class_softmax import log_sums, softmax_terms
from metriclab.registry import register


def proxy_nca_terms(pairs: Pairs, temperature: float) -> dict[str, Term]:
    """-log (sum over positives of e^(-d^2 / t) / sum over negatives of the same), averaged over anchors with both."""
    own, others = log_sums(pairs, 2 * pairs.similarity / temperature)  # d^2 = 2 - 2 s; the 2 cancels
    counted = pairs.positive.any(1) & pairs.negative.any(1)
    return {"anchors": Term(torch.where(counted, others - own, 0), counted.long())}


def proxy_nca_plus_terms(pairs: Pairs, temperature: float) -> dict[str, Term]:
    """The same with the positives in the denominator too, averaged over anchors with a positive."""
    return softmax_terms(pairs, 2 * pairs.similarity / temperature)


@register("loss", "proxy-nca")
def proxy_nca(
    *, temperature: Annotated[float, Gt(0)] = 0.11, denominator: Literal["negatives", "all"] = "negatives"
) -> PairLoss:
    """Neighbourhood components analysis against proxies: nearer to the own class's than to the other classes'.

    For an anchor a, -log (sum over positives p of e^(-d_ap^2 / t) / sum over negatives n of e^(-d_an^2 / t)), with d
    the Euclidean distance of unit rows; then the mean over anchors with a positive and a negative, any other is not
    counted. Made for the memory `proxies`: with one a class the sum above has one part, with several an anchor need be
    near to one of them only. The cost may be negative, and its gradient does not fade where an anchor is right.

    ProxyNCA++ makes it a probability: the denominator is the sum over all proxies, the own class's too (`all`; then an
    anchor without negatives is counted, and costs 0), and t is low. That is `normalized-softmax` at t / 2. Its other
    changes are not the loss's: faster proxies (optimizer.groups), balanced batches, layers of the network.

    Paper: Movshovitz-Attias et al., No Fuss Distance Metric Learning using Proxies, ICCV 2017; Teh et al., ProxyNCA++:
    Revisiting and Revitalizing Proxy Neighborhood Component Analysis, ECCV 2020.

    Args:
        temperature: t; 1 is none at all, ProxyNCA++ takes 1/9.
        denominator: whom the own class is held against: "negatives", or "all" as in ProxyNCA++.
    """
    terms = proxy_nca_terms if denominator == "negatives" else proxy_nca_plus_terms
    return PairLoss(partial(terms, temperature=temperature))
