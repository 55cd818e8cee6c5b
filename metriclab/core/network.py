"""The network every method trains: an encoder, and a head that is dropped after training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.errors import RecipeError


class Embedded(NamedTuple):
    """What a network makes of n images.

    Attributes:
        h: the encoder's features: what is used after training (Chen et al. 2020, section 4.2).
        z: the head's output, which the loss sees; not normalised.
    """

    h: Float[Tensor, "n features"]
    z: Float[Tensor, "n d"]


class Network(nn.Module):
    """Encoder and head, applied to float images in [0, 1].

    Args:
        encoder: module with `out_features`; it normalises by its own mean and standard deviation.
        head: module with `out_features`.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Float[Tensor, "n c h w"]) -> Embedded:
        h = self.encoder(images)
        return Embedded(h, self.head(h))

    def views(self, views: Sequence[Float[Tensor, "n c _h _w"]], *, together: bool = True) -> list[Embedded]:
        """Each view embedded: those of one size that are neighbours as one batch for BatchNorm, or each by itself.

        Raises:
            RecipeError: for a pass of one image through a BatchNorm of vectors, which has no variance to divide by.
        """
        passes = [list(group) for _, group in groupby(views, key=lambda view: view.shape)] if together else zip(views)
        embedded: list[Embedded] = []
        for same in passes:
            images = torch.cat(same)
            self._check_variance(images)
            h, z = self(images)
            embedded += map(Embedded._make, zip(h.chunk(len(same)), z.chunk(len(same)), strict=True))
        return embedded

    def _check_variance(self, images: Tensor) -> None:
        # BatchNorm over all ranks is another class, to which the images of the others are there as well.
        if len(images) == 1 and any(isinstance(m, nn.BatchNorm1d) and m.training for m in self.modules()):
            raise RecipeError(
                "BatchNorm takes its statistics of one image alone, which has no variance",
                help="set sampler.batch_size, and train.chunk where it is used, to more than one image",
            )


def embedding_function(method: Any) -> Callable[[Float[Tensor, "n c h w"]], Embedded]:
    """What evaluation sees of a method: its own `embed` where it has one, else its network."""
    return getattr(method, "embed", None) or method.network  # type: ignore[no-any-return]
