"""Views without augmentation."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.core.settings import repr_settings
from metriclab.registry import register
from metriclab.views.augmentation import ViewSize
from metriclab.views.geometry import Fit, central_view


@register("views", "plain")
class PlainViews:
    """The whole image or its middle at `size`; in training as in evaluation. Features are handed on as they are.

    Args:
        size: of a view, in pixels: one number for squares, or height and width, [256, 128].
        count: number of training views of an image, all the same.
        fit: how an image of another aspect is taken: the middle of it (crop), all of it between black bars
            (pad), or all of it, scaled in both directions (squash).
    """

    takes_features = True
    __repr__ = repr_settings
    random = False

    def __init__(self, *, size: ViewSize = 32, count: Annotated[int, Ge(1)] = 1, fit: Fit = "crop") -> None:
        self.size = size
        self.count = count
        self.fit: Fit = fit

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Float[Tensor, "n c h w"], ...]:
        return (self.test(images),) * self.count

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The same view."""
        return images.pixels if images.are_features else central_view(images, self.size, self.fit)
