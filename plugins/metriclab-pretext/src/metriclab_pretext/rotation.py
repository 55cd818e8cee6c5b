"""Rotation prediction."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metriclab.api import Batch, Network, Objective, RecipeError, register

TURNS = 4
"""By 0, 90, 180 and 270 degrees."""


class Outputs(NamedTuple):
    """What this rank's images give, each turned four ways in each view.

    Attributes:
        logits: for each turned image, of the four turns.
        turns: the turn that it has, from 0 to 3.
    """

    logits: Float[Tensor, "n 4"]
    turns: Int64[Tensor, "n"]


@register("method", "rotation")
class Rotation(nn.Module):
    """Each view is turned by 0, 90, 180 and 270 degrees, and a linear classifier tells which: labels that cost nothing.

    The classifier is applied to the head's output, and what is used after training is the encoder's, before the head:
    in the paper too the last layers learn what only this task needs, and the features of layers before them are the
    better ones. With head "none" the classifier is applied to the encoder's features themselves.

    All four turns of a view go through the network in one batch, as in the paper: a step of V views of B images takes
    4 V B images, twice as many as SimCLR's for V = 1. One view is enough. Images that look alike upside down, or at any
    angle, teach little. Logged is `rotation_accuracy`; chance is 0.25.

    Paper: Gidaris et al., Unsupervised Representation Learning by Predicting Image Rotations, ICLR 2018, arXiv
    1803.07728, equations 1 to 3.

    Args:
        network: encoder and head.

    Raises:
        RecipeError: in the first step, for views that are not square: a turn would change their shape, which gives
            away the answer.
    """

    def __init__(self, network: Network, /) -> None:
        super().__init__()
        self.network = network
        width: Any = network.head.out_features
        self.classifier = nn.Linear(width, TURNS)

    def forward(self, batch: Batch) -> Outputs:
        turned = [torch.rot90(_square(view), turn, (2, 3)) for view in batch.views for turn in range(TURNS)]
        embedded = self.network.views(turned)
        logits = self.classifier(torch.cat([one.z for one in embedded]))
        turns = torch.arange(TURNS, device=logits.device).repeat_interleave(len(batch)).repeat(len(batch.views))
        return Outputs(logits, turns)

    def objective(self, local: Outputs, world: Outputs) -> Objective:
        # Four numbers an image: every rank sees those of all, so that the mean is over all whatever their shares.
        logits = world.logits.to(torch.promote_types(world.logits.dtype, torch.float32))
        right = logits.argmax(1) == world.turns
        return Objective(cross_entropy(logits, world.turns), {"rotation_accuracy": right.to(logits.dtype).mean()})

    def after_step(self, world: Outputs, step: int) -> None:
        pass


def _square(view: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    height, width = view.shape[2:]
    if height != width:
        raise RecipeError(
            f"method 'rotation' turns views by a quarter, and these are {height} x {width} pixels: a turn would change "
            "their shape, and so give away the answer",
            help='name views that are square, such as views.name = "simclr"',
        )
    return view
