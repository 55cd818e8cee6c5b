"""Normalised softmax: classification by cosine."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import nn

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import Term, stream_terms
from metriclab.core.pairs import Pairs
from metriclab.core.settings import show_settings
from metriclab.losses.class_softmax import softmax_terms
from metriclab.registry import register


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
        >>> z, labels = torch.randn(6, 8, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> proxies = Proxies(8, labels.unique())
        >>> NormalizedSoftmax(temperature=0.1)(rows(z, labels), proxies.rows()).backward()
        >>> proxies.directions.grad.shape
        torch.Size([3, 8])
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
