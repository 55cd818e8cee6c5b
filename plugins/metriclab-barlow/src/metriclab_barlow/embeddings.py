"""What Barlow Twins and VICReg share: raw embeddings, image by image, so that they stay aligned across ranks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from metriclab.api import Batch, Network, RecipeError


def embed_views(network: Network, batch: Batch, method: str, together: bool) -> Float[Tensor, "n views d"]:
    """The head's output for each view of each image, not normalised, in float32 or better.

    Args:
        network: encoder and head.
        batch: of n images.
        method: its name, for messages.
        together: whether all views go through in one pass, as one batch for BatchNorm, or each by itself.

    Raises:
        RecipeError: for a batch of one view.
    """
    if len(batch.views) < 2:
        raise RecipeError(
            f"method '{method}' compares views of an image, and here an image has one view",
            help="set views.count = 2",
        )
    z = torch.stack([view.z for view in network.views(batch.views, together=together)], dim=1)
    return z.to(torch.promote_types(z.dtype, torch.float32))


def centred(z: Float[Tensor, "n views d"]) -> Float[Tensor, "n views d"]:
    """With mean 0 over the images, view by view."""
    return z - z.mean(0)


def off_diagonal(matrix: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """The sum of the squares of all cells but the diagonal."""
    return (matrix - matrix.diagonal().diag()).square().sum()


def spread(z: Float[Tensor, "n views d"]) -> Float[Tensor, ""]:
    """The root of the summed variances of unit embeddings: 1 where they point everywhere, 0 where all are the same.

    A run logs it by itself, and warns of a collapse by it, where a method has unit rows; these methods have none.
    """
    unit = normalize(z.detach().flatten(0, 1))
    return (unit.square().sum(1).mean() - unit.mean(0).square().sum()).clamp(min=0).sqrt()
