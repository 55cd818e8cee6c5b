"""SimSiam."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import nn

from metriclab.api import Batch, Network, Objective, register
from metriclab_byol.prediction import Outputs, agreement, make_predictor, output_std, predict, project


@register("method", "simsiam")
class SimSiam(nn.Module):
    """A network predicts what it makes itself of another view of the image, whose gradient is stopped.

    The loss is minus the cosine of prediction and projection, averaged over both directions and over images: from 1 to
    -1. With more than two views it is the mean over all ordered pairs of different views. Logged is `output_std`, 1
    where the unit projections point everywhere and 0 after a collapse.

    Paper: Chen & He, Exploring Simple Siamese Representation Learning, CVPR 2021, arXiv 2011.10566, algorithm 1.

    Args:
        network: encoder and head; in the paper an MLP of three layers with BatchNorm on each, the last one too.
        predictor_hidden: width between the predictor's two layers, a quarter of z's in the paper; it gives a z.

    Raises:
        RecipeError: at the first batch, where images have one view.
    """

    def __init__(self, network: Network, /, *, predictor_hidden: Annotated[int, Ge(1)] = 512) -> None:
        super().__init__()
        self.network = network
        self.predictor = make_predictor(network, predictor_hidden)

    def forward(self, batch: Batch) -> Outputs:
        projections = project(self.network, batch, "simsiam")
        return predict(batch, projections, self.predictor, targets=projections)

    def objective(self, local: Outputs, world: Outputs) -> Objective:
        # Over the rows of all ranks: the mean over ranks of their means would be another number on unequal ranks.
        return Objective(-agreement(world), {"output_std": output_std(world)})

    def after_step(self, world: Outputs, step: int) -> None:
        pass
