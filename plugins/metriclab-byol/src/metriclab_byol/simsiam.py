"""SimSiam."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import nn

from metriclab.api import Batch, Network, Objective, register
from metriclab_byol.prediction import (
    Outputs,
    agreement,
    check_views,
    make_predictor,
    output_std,
    predict,
)


@register("method", "simsiam")
class SimSiam(nn.Module):
    """A network predicts what it makes itself of another view of the image, whose gradient is stopped.

    The loss is minus the cosine of prediction and projection, averaged over both directions and over images: from 1 to
    -1. With more than two views it is the mean over all ordered pairs of different views. Logged is `output_std`, 1
    where the unit projections point everywhere and 0 after a collapse.

    Network and predictor see one view at a time, so that BatchNorm normalises each by itself, as the authors' code does
    (facebookresearch/simsiam, commit 39ac33e).

    Paper: Chen & He, Exploring Simple Siamese Representation Learning, CVPR 2021, arXiv 2011.10566, algorithm 1.

    Args:
        network: encoder and head; in the paper an MLP of three layers with BatchNorm on each, the last one too.
        predictor_hidden: width between the predictor's two layers, a quarter of z's in the paper; it gives a z.
        views_together: whether all views of one size go through both as one batch, which is faster where batches are
            small; BatchNorm then has the statistics of all of them at once, which is another gradient.

    Raises:
        RecipeError: at the first batch, where images have one view, or where there is one image and BatchNorm.
    """

    def __init__(
        self, network: Network, /, *, predictor_hidden: Annotated[int, Ge(1)] = 512, views_together: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.predictor = make_predictor(network, predictor_hidden)
        self.views_together = views_together

    def forward(self, batch: Batch) -> Outputs:
        check_views(batch, "simsiam")
        projections = [view.z for view in self.network.views(batch.views, together=self.views_together)]
        return predict(batch, projections, self.predictor, projections, self.views_together)

    def objective(self, local: Outputs, world: Outputs) -> Objective:
        # Over the rows of all ranks: the mean over ranks of their means would be another number on unequal ranks.
        return Objective(-agreement(world), {"output_std": output_std(world)})

    def after_step(self, world: Outputs, step: int) -> None:
        pass
