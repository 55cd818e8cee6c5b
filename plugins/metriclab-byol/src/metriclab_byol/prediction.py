"""What BYOL and SimSiam share: each view predicts the other views of its image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.api import Batch, Network, RecipeError, Rows, build


class Outputs(NamedTuple):
    """A row for each view of each image, view by view.

    Attributes:
        projections: the head's output, without gradient: by it the run sees a collapse.
        predictions: unit rows, made of the projections by the predictor.
        aims: what each of them is to meet: the mean of the unit targets of the image's other views. No gradient.
    """

    projections: Rows
    predictions: Float[Tensor, "rows d"]
    aims: Float[Tensor, "rows d"]


def make_predictor(network: Network, hidden: int) -> nn.Module:
    """Two linear layers from z to z, with BatchNorm and ReLU between them."""
    embedding_dim = network.head.out_features
    predictor: nn.Module = build("head", "mlp", embedding_dim, embedding_dim=embedding_dim, hidden=hidden)
    return predictor


def check_views(batch: Batch, method: str) -> None:
    """Checks that the images of a batch have views that predict each other.

    Raises:
        RecipeError: for a batch of one view.
    """
    if len(batch.views) < 2:
        raise RecipeError(
            f"method '{method}' predicts one view of an image from another, and here an image has one view",
            help="set views.count = 2",
        )


def predict(
    batch: Batch,
    projections: Sequence[Float[Tensor, "n d"]],
    predictor: nn.Module,
    targets: Sequence[Float[Tensor, "n d"]],
    together: bool,
) -> Outputs:
    """The outputs of this rank.

    Args:
        batch: of n images.
        projections: with gradients, one tensor a view.
        predictor: from a projection to a prediction.
        targets: as many; their gradient is stopped here.
        together: whether the predictor sees all views in one pass, as one batch for BatchNorm.
    """
    count = len(projections)
    predicted = predictor(torch.cat(list(projections))).chunk(count) if together else map(predictor, projections)
    unit = batch.rows([z.detach() for z in targets], labels=batch.items).z.unflatten(0, (count, len(batch)))
    # Rolled along the views, a view meets each of the others once, and never itself.
    others = torch.stack([unit.roll(shift, 0) for shift in range(1, count)])
    return Outputs(
        batch.rows([z.detach() for z in projections], labels=batch.items),
        batch.rows(list(predicted), labels=batch.items).z,
        others.mean(0).flatten(0, 1),
    )


def agreement(outputs: Outputs) -> Float[Tensor, ""]:
    """The mean cosine of a prediction and a target, over all ordered pairs of different views of an image."""
    return (outputs.predictions * outputs.aims).sum(1).mean()


def output_std(outputs: Outputs) -> Float[Tensor, ""]:
    """The standard deviation of the unit projections in a dimension, averaged over the d dimensions, times sqrt(d).

    It is 1 where they point everywhere alike and 0 after a collapse, as in figure 2 of SimSiam.
    """
    rows = outputs.projections
    return math.sqrt(rows.embedding_dim) * rows.z.std(0, correction=0).mean()
