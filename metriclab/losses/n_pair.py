"""N-pair: NT-Xent at temperature 1, under its own name."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.call_loss import call_pair_loss
from metriclab.core.protocols import Miner
from metriclab.core.rows import Rows
from metriclab.losses.nt_xent import NTXent
from metriclab.registry import register


@register("loss", "n-pair")
class NPair(nn.Module):
    """Multi-class N-pair loss: the mean over positive pairs (a, p) of log(1 + sum over negatives n of e^(s_an - s_ap)).

    On unit rows this is `nt-xent` at temperature 1, and is computed by it; the paper works on rows of any length, held
    in check by a penalty, where cosines in [-1, 1] separate weakly: a lower temperature usually serves better. The
    paper's batch of N pairs is N anchors against N references; a whole batch against itself has twice the negatives.
    Without a positive pair it is 0; so is the loss of a positive pair without negatives.

    Paper: Sohn, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, NIPS 2016.

    Example:
        >>> criterion = NPair()
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss

    def __init__(self) -> None:
        super().__init__()
        self.nt_xent = NTXent(temperature=1.0)

    def forward(self, anchors: Rows, references: Rows, *, miner: Miner | None = None) -> Float[Tensor, ""]:
        return self.nt_xent(anchors, references, miner=miner)
