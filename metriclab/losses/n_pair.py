"""N-pair: NT-Xent at temperature 1, under its own name."""

from __future__ import annotations

from metriclab.losses.nt_xent import NTXent
from metriclab.registry import register


@register("loss", "n-pair")
def n_pair() -> NTXent:
    """Multi-class N-pair loss: the mean over positive pairs (a, p) of log(1 + sum over negatives n of e^(s_an - s_ap)).

    On unit rows this is `nt-xent` at temperature 1, and is computed by it; the paper works on rows of any length, held
    in check by a penalty, where cosines in [-1, 1] separate weakly: a lower temperature usually serves better. The
    paper's batch of N pairs is N anchors against N references; a whole batch against itself has twice the negatives.
    Without a positive pair it is 0; a positive pair without negatives costs 0.

    Paper: Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016.
    """
    return NTXent(temperature=1.0)
