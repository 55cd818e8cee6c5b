"""ROADMAP: SupAP, and a calibration that makes the rankings of batches agree with that of the data set."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.api import Miner, Rows, build, call_pair_loss, register, show_settings
from metriclab_ranking.average_precision import SupAP

Cosine = Annotated[float, Ge(-1), Le(1)]


@register("loss", "roadmap")
class Roadmap(nn.Module):
    """`sup-ap`, and beside it a contrastive loss that gives all anchors one scale of cosines.

    (1 - calibration) x sup-ap + calibration x contrastive. The average precision of a batch does not see whether the
    cosines of one anchor are those of another; the second part pulls positives up to the cosine `positive` and pushes
    negatives down to `negative`, so that rankings of batches are those of the data set. It is the loss `contrastive`
    of the variant cosine: each of its two means is over the pairs with a loss, as in the authors' code.

    Ties, single positives, memory and time are those of `sup-ap`.

    Paper: Ramzi et al., Robust and Decomposable Average Precision for Image Retrieval, NeurIPS 2021, section 3.2.

    Args:
        calibration: lambda, the share of the contrastive part; the paper takes 0.5.
        positive: alpha, the cosine up to which positives are pulled; the paper takes 0.9.
        negative: beta, the cosine down to which negatives are pushed; the paper takes 0.6.
        temperature, rho, linear_from: of `sup-ap`.

    Example:
        >>> criterion = Roadmap()
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    pairwise = True
    __call__ = call_pair_loss
    extra_repr = show_settings

    def __init__(
        self,
        *,
        calibration: Annotated[float, Ge(0), Le(1)] = 0.5,
        positive: Cosine = 0.9,
        negative: Cosine = 0.6,
        temperature: Annotated[float, Gt(0)] = 0.01,
        rho: Annotated[float, Gt(0)] = 100.0,
        linear_from: Annotated[float, Ge(0), Le(2)] = 0.05,
    ) -> None:
        super().__init__()
        self.calibration, self.positive, self.negative = calibration, positive, negative
        self.temperature, self.rho, self.linear_from = temperature, rho, linear_from
        self.sup_ap = SupAP(temperature=temperature, rho=rho, linear_from=linear_from)
        self.contrastive: nn.Module = build(
            "loss", "contrastive", variant="cosine", positive=positive, negative=negative
        )

    def forward(self, anchors: Rows, references: Rows, *, miner: Miner | None = None) -> Float[Tensor, ""]:
        ranking = self.sup_ap(anchors, references, miner=miner)
        calibrating = self.contrastive(anchors, references, miner=miner)
        loss: Tensor = (1 - self.calibration) * ranking + self.calibration * calibrating
        return loss
