"""Features that exist already, handed on as they are."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.settings import show_settings
from metriclab.errors import RecipeError
from metriclab.registry import register


@register("encoder", "features")
class Features(nn.Module):
    """What the data set `features` has read, no parameters: the head is trained on it, and h is the embedding given.

    Args:
        out_features: numbers of a row.
    """

    takes_features = True
    extra_repr = show_settings

    def __init__(self, *, out_features: Annotated[int, Ge(1)]) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        features = images.flatten(1)
        if features.shape[1] == self.out_features:
            return features
        height, width = images.shape[2:]
        if (height, width) != (1, 1):
            raise RecipeError(
                f"encoder 'features' takes rows of {self.out_features} numbers, not images of {height} x {width}",
                help='give it rows by data.name = "features", or name an encoder of images',
            )
        raise RecipeError(
            f"encoder 'features' takes rows of {self.out_features} numbers, not of {features.shape[1]}",
            help=f"set encoder.out_features = {features.shape[1]}",
        )
