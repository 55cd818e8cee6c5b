"""BYOL."""

from __future__ import annotations

import copy
import math
from typing import Annotated

import torch
from annotated_types import Ge, Le
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


@register("method", "byol")
class BYOL(nn.Module):
    """A network predicts what a slow copy of itself makes of another view of the image. No view is pushed away.

    The loss is |p - t|^2 of unit predictions p and unit targets t, 2 - 2 cos, summed over both directions and averaged
    over images: from 0 to 8. With more than two views it is twice the mean over all ordered pairs of different views.
    The copy starts equal to the network and follows it, with BatchNorm statistics of its own: after step k of K steps,
    from 0, target = m target + (1 - m) network, where m rises from `momentum` to 1 along half a cosine,
    1 - (1 - momentum)(1 + cos(pi k / K)) / 2. Logged is `output_std`, 1 where the unit projections point everywhere
    and 0 after a collapse.

    Each network sees one view at a time, so that BatchNorm normalises each by itself, as the authors' code does
    (google-deepmind/deepmind-research, byol/byol_experiment.py, commit 4822a45).

    Paper: Grill et al., Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, NeurIPS 2020, arXiv
    2006.07733, equations 1 to 3 and section 3.2.

    Args:
        network: encoder and head; an MLP head with BatchNorm in the paper.
        total_steps: of the run.
        momentum: of the copy at the first step; 0.996 for the paper's 1000 epochs of ImageNet, less in short runs.
        predictor_hidden: width between the predictor's two layers; it takes z and gives z.
        views_together: whether all views of one size go through the networks as one batch, which is faster where
            batches are small; BatchNorm then has the statistics of all of them at once, which is another gradient.

    Raises:
        RecipeError: at the first batch, where images have one view, or where there is one image and BatchNorm.
    """

    def __init__(
        self,
        network: Network,
        total_steps: int,
        /,
        *,
        momentum: Annotated[float, Ge(0), Le(1)] = 0.996,
        predictor_hidden: Annotated[int, Ge(1)] = 4096,
        views_together: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.predictor = make_predictor(network, predictor_hidden)
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.total_steps = total_steps
        self.momentum = momentum
        self.views_together = views_together

    def forward(self, batch: Batch) -> Outputs:
        check_views(batch, "byol")
        projections = [view.z for view in self.network.views(batch.views, together=self.views_together)]
        with torch.no_grad():
            targets = [view.z for view in self.target.views(batch.views, together=self.views_together)]
        return predict(batch, projections, self.predictor, targets, self.views_together)

    def objective(self, local: Outputs, world: Outputs) -> Objective:
        # Over the rows of all ranks: the mean over ranks of their means would be another number on unequal ranks.
        return Objective(2 * (2 - 2 * agreement(world)), {"output_std": output_std(world)})

    @torch.no_grad()
    def after_step(self, world: Outputs, step: int) -> None:
        share = (1 - self.momentum) * (1 + math.cos(math.pi * min(1.0, step / self.total_steps))) / 2
        for slow, fast in zip(self.target.parameters(), self.network.parameters(), strict=True):
            slow.lerp_(fast, share)
