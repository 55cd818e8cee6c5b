"""Barlow Twins."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.api import Batch, Network, Objective, register
from metriclab_barlow.embeddings import centred, embed_views, off_diagonal, spread

EPSILON = 1e-5
"""Added to a variance before its root, as BatchNorm does, so that a constant dimension has a finite gradient."""


@register("method", "barlow-twins")
class BarlowTwins(nn.Module):
    """The correlations between the dimensions of two views are made the identity: alike in each, unlike in others.

    C_ij is the correlation, over the images of all ranks, of dimension i in one view and dimension j in the other. The
    loss is the sum over i of (1 - C_ii)^2 plus `redundancy_weight` times the sum over i and j, unlike, of C_ij^2. With
    more than two views it is the mean over all pairs of views. Logged are these two sums, `on_diagonal` (d after a
    collapse) and `off_diagonal`, and `spread`, of unit embeddings, 0 after a collapse.

    The network sees one view at a time, so that BatchNorm normalises each by itself, as the authors' code does
    (facebookresearch/barlowtwins, commit 046eec3).

    Paper: Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021, arXiv
    2103.03230, equations 1 and 2.

    Args:
        network: encoder and head; the paper's is an MLP of three layers, and the wider z, the better.
        redundancy_weight: factor of the correlations of different dimensions; lambda in the paper. Their number grows
            with the square of z's width: 0.005 is for a width of 8192.
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
        redundancy_weight: Annotated[float, Ge(0)] = 0.005,
        views_together: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.redundancy_weight = redundancy_weight
        self.views_together = views_together

    def forward(self, batch: Batch) -> Float[Tensor, "n views d"]:
        return embed_views(self.network, batch, "barlow-twins", self.views_together)

    def objective(self, local: Tensor, world: Tensor) -> Objective:
        # Correlations are of all ranks' rows together: every rank computes the same loss, the mean of which is itself.
        z = centred(world)
        views = (z / (z.square().mean(0) + EPSILON).sqrt()).unbind(1)
        pairs = list(combinations(views, 2))
        correlations = [one.T @ other / len(one) for one, other in pairs]
        on = torch.stack([(1 - matrix.diagonal()).square().sum() for matrix in correlations]).mean()
        off = torch.stack([off_diagonal(matrix) for matrix in correlations]).mean()
        metrics = {"on_diagonal": on, "off_diagonal": off, "spread": spread(world)}
        return Objective(on + self.redundancy_weight * off, metrics)

    def after_step(self, world: Tensor, step: int) -> None:
        pass
