"""Normalised softmax: classification by cosine."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from annotated_types import Gt

from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs
from metriclab.losses.class_softmax import softmax_terms
from metriclab.registry import register


def normalized_softmax_terms(pairs: Pairs, temperature: float) -> dict[str, Term]:
    """The cross entropy of s / t."""
    return softmax_terms(pairs, pairs.similarity / temperature)


@register("loss", "normalized-softmax")
def normalized_softmax(*, temperature: Annotated[float, Gt(0)] = 0.05) -> PairLoss:
    """Classification by cosine: the cross entropy of s / t over the classes. Made for the memory `proxies`.

    For an anchor a, -log (sum over positives p of e^(s_ap / t) / sum over positives and negatives o of e^(s_ao / t));
    then the mean over anchors with a positive. With one proxy a class that is the usual cross entropy. With several
    the probabilities of a class's proxies add up, so an anchor need be near to one of them only; the same holds for
    rows of a batch or of a ring. An anchor without a positive is not counted, one without a negative costs 0.

    Paper: Zhai & Wu, Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019.

    Args:
        temperature: t; the paper takes 0.05.
    """
    return PairLoss(partial(normalized_softmax_terms, temperature=temperature))
