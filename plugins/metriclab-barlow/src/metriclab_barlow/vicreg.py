"""VICReg."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.api import Batch, Network, Objective, register
from metriclab_barlow.embeddings import centred, embed_views, off_diagonal, spread

EPSILON = 1e-4
"""Added to a variance before its root, as in the paper: a constant dimension has a finite gradient."""


@register("method", "vicreg")
class VICReg(nn.Module):
    """Views agree, every dimension keeps a standard deviation of 1, and dimensions are uncorrelated.

    The loss is `invariance_weight` times the squared difference of two views, averaged over images and dimensions,
    plus, summed over the two views, `variance_weight` times the mean over dimensions of max(0, 1 - std) and
    `covariance_weight` times the sum of the squared covariances of different dimensions, divided by their number d.
    Statistics are of the images of all ranks. With more than two views it is the mean over all pairs of views. Logged
    are the three parts without their weights, `invariance`, `variance` (2 after a collapse, 1 as a mean) and
    `covariance`, and `spread`, of unit embeddings, 0 after a collapse.

    The authors' code (facebookresearch/vicreg, commit b42aa23) takes the mean of the two views' variance parts where
    the paper adds them up: `variance_over_views = "mean"`. With the sum, a `variance_weight` of 12.5 is their 25. It
    shows the network one view at a time, so that BatchNorm normalises each by itself, and so does this.

    Paper: Bardes et al., VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning, ICLR 2022,
    arXiv 2105.04906, algorithm 1, whose first part is a mean over dimensions where equation 5 has a sum.

    Args:
        network: encoder and head; the paper's head is an MLP of three layers of width 8192.
        invariance_weight: lambda in the paper.
        variance_weight: mu in the paper; about as large as the invariance's, or training collapses.
        covariance_weight: nu in the paper.
        variance_over_views: sum, as in the paper, or mean, as in the authors' code.
        views_together: whether all views of one size go through the network as one batch, which is faster where
            batches are small; BatchNorm then has the statistics of all of them at once, which is another gradient.

    Raises:
        RecipeError: at the first batch, where images have one view, or where there is one image and BatchNorm.
    """

    def __init__(
        self,
        network: Network,
        /,
        *,
        invariance_weight: Annotated[float, Ge(0)] = 25.0,
        variance_weight: Annotated[float, Ge(0)] = 25.0,
        covariance_weight: Annotated[float, Ge(0)] = 1.0,
        variance_over_views: Literal["sum", "mean"] = "sum",
        views_together: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        self.variance_over_views: Literal["sum", "mean"] = variance_over_views
        self.views_together = views_together

    def forward(self, batch: Batch) -> Float[Tensor, "n views d"]:
        return embed_views(self.network, batch, "vicreg", self.views_together)

    def objective(self, local: Tensor, world: Tensor) -> Objective:
        # Statistics are of all ranks' rows together: every rank computes the same loss, the mean of which is itself.
        z = centred(world)
        n, _, d = z.shape
        invariance = _mean_difference(world)
        squares = z.square().sum(0) / max(1, n - 1)
        variance = (1 - (squares + EPSILON).sqrt()).clamp(min=0).mean()
        if self.variance_over_views == "sum":  # of two views
            variance = 2 * variance
        covariances = [view.T @ view / max(1, n - 1) for view in z.unbind(1)]
        covariance = 2 * torch.stack([off_diagonal(matrix) for matrix in covariances]).mean() / d
        loss = (
            self.invariance_weight * invariance + self.variance_weight * variance + self.covariance_weight * covariance
        )
        metrics = {"invariance": invariance, "variance": variance, "covariance": covariance, "spread": spread(world)}
        return Objective(loss, metrics)

    def after_step(self, world: Tensor, step: int) -> None:
        pass


def _mean_difference(z: Float[Tensor, "n views d"]) -> Float[Tensor, ""]:
    """Squared, over all pairs of different views: rolled along the views, a view meets each of the others once."""
    return torch.stack([(z - z.roll(shift, 1)).square().mean() for shift in range(1, z.shape[1])]).mean()
