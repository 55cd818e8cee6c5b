"""Raw pixels: the baseline that any trained encoder has to beat."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.settings import show_settings
from metriclab.core.size import height_and_width, size_text
from metriclab.encoders.channels import match_channels
from metriclab.errors import RecipeError
from metriclab.registry import register

Side = Annotated[int, Ge(1)]


@register("encoder", "pixels")
class Pixels(nn.Module):
    """The image itself, flattened: c x h x w numbers in [0, 1], no parameters.

    Nothing is centred, so cosine similarity compares the images as they are drawn: bright with bright. Takes images
    of one size only, and says so where they have another.

    Args:
        size: of the images, in pixels: one number for squares, or height and width, [256, 128].
        in_chans: channels; grey images are repeated over them, which changes no cosine.
    """

    extra_repr = show_settings

    def __init__(self, *, size: Side | tuple[Side, Side] = 32, in_chans: Annotated[int, Ge(1)] = 3) -> None:
        super().__init__()
        self.size = height_and_width(size)
        self.in_chans = in_chans
        self.out_features = in_chans * math.prod(self.size)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        height, width = images.shape[2:]
        if (height, width) != self.size:
            rows, columns = self.size
            raise RecipeError(
                f"encoder 'pixels' takes images of {rows} x {columns} pixels, not {height} x {width}",
                help=f"set encoder.size = {size_text(height, width)}",
            )
        return match_channels(images, self.in_chans).flatten(1)
