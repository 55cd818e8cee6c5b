"""Raw pixels: the baseline that any trained encoder has to beat."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.settings import show_settings
from metriclab.encoders.channels import match_channels
from metriclab.errors import RecipeError
from metriclab.registry import register


@register("encoder", "pixels")
class Pixels(nn.Module):
    """The image itself, flattened: c x size x size numbers in [0, 1], no parameters.

    Nothing is centred, so cosine similarity compares the images as they are drawn: bright with bright. Takes images
    of one size only, and says so where they have another.

    Args:
        size: height and width of the images, in pixels.
        in_chans: channels; grey images are repeated over them, which changes no cosine.
    """

    extra_repr = show_settings

    def __init__(self, *, size: Annotated[int, Ge(1)] = 32, in_chans: Annotated[int, Ge(1)] = 3) -> None:
        super().__init__()
        self.size = size
        self.in_chans = in_chans
        self.out_features = in_chans * size * size

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        height, width = images.shape[2:]
        if (height, width) != (self.size, self.size):
            raise RecipeError(
                f"encoder 'pixels' takes images of {self.size} x {self.size} pixels, not {height} x {width}",
                help=f"set encoder.size = {height}" if height == width else "let the views make square images",
            )
        return match_channels(images, self.in_chans).flatten(1)
