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
from metriclab.views.geometry import central_view


@register("views", "plain")
class PlainViews:
    """The short side scaled to `size`, the middle of the long side; in training as in evaluation.

    Args:
        size: height and width of a view, in pixels.
        count: number of training views of an image, all the same.
    """

    __repr__ = repr_settings

    def __init__(self, *, size: ViewSize = 32, count: Annotated[int, Ge(1)] = 1) -> None:
        self.size = size
        self.count = count

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Float[Tensor, "n c h w"], ...]:
        return (self.test(images),) * self.count

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The same view."""
        return central_view(images, self.size)
