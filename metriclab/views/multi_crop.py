"""Large and small crops of an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.core.settings import keep_settings, repr_settings
from metriclab.registry import register
from metriclab.views.augmentation import (
    AreaShare,
    Augmentation,
    Colour,
    Degrees,
    Probability,
    ViewSize,
    augment,
    check_areas,
)
from metriclab.views.geometry import Fit, central_view


@register("views", "multi-crop")
class MultiCropViews:
    """Several large views of an image, as `simclr` makes them, then small views of small parts of it, which cost less.

    The large views are bit for bit those of `simclr` with the same random keys; the small ones differ in size and in
    the area of their crops alone. A network embeds each size in one pass. Losses over all views, as in the method
    `simclr`, hold small views against each other too; the method `swav` learns the codes of the large ones from all.

    Paper: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020,
    arXiv 2006.09882, section 3.3.

    Args:
        count: number of large views of an image.
        size: of a large view, in pixels: one number for squares, or height and width, [256, 128].
        min_area: smallest share of an image's area that a large crop may cover.
        max_area: largest share.
        small_count: number of small views of an image.
        small_size: of a small view, likewise; an encoder may have a smallest one.
        small_min_area: smallest share of an image's area that a small crop may cover.
        small_max_area: largest share.
        flip: probability of swapping left and right; 0 where that changes the class, as in text.
        rotation: largest angle to either side, in degrees.
        colour: strength of the change of brightness, contrast, saturation and hue, made with probability 0.8. One
            number s stands for changes by 0.8 s, 0.8 s, 0.8 s and 0.2 s of a turn; or those four, [0.4, 0.4, 0.2, 0.1].
        grayscale: probability of losing all colour.
        blur: probability of a Gaussian blur with a sigma of 0.1 to 2 pixels. Its kernel is a tenth of the shorter side,
            as in the paper's code, and at least 3 pixels: in views below 40 pixels it acts as a sigma of 0.8 at most.
        solarize: probability of inverting the light half of the values (Grill et al., BYOL, NeurIPS 2020).
        fit: how the test view takes an image of another aspect: the middle of it (crop), all of it between black bars
            (pad), or all of it, scaled in both directions (squash).

    Raises:
        RecipeError: where a smallest area is above the largest.
    """

    __repr__ = repr_settings

    def __init__(
        self,
        *,
        count: Annotated[int, Ge(1)] = 2,
        size: ViewSize = 32,
        min_area: AreaShare = 0.14,
        max_area: AreaShare = 1.0,
        small_count: Annotated[int, Ge(1)] = 4,
        small_size: ViewSize = 16,
        small_min_area: AreaShare = 0.05,
        small_max_area: AreaShare = 0.14,
        flip: Probability = 0.5,
        rotation: Degrees = 0.0,
        colour: Colour = 1.0,
        grayscale: Probability = 0.2,
        blur: Probability = 0.5,
        solarize: Probability = 0.0,
        fit: Fit = "crop",
    ) -> None:
        keep_settings(self, locals())
        check_areas("multi-crop", ("min_area", min_area), ("max_area", max_area))
        check_areas("multi-crop", ("small_min_area", small_min_area), ("small_max_area", small_max_area))
        self.count = count + small_count
        self.fit: Fit = fit
        self.large_count = count
        self.large = Augmentation(size, min_area, max_area, flip, rotation, colour, grayscale, blur, solarize)
        self.needs_colour = self.large.needs_colour
        self.small = replace(self.large, size=small_size, min_area=small_min_area, max_area=small_max_area)

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Float[Tensor, "n c _h _w"], ...]:
        large = dict.fromkeys(range(self.large_count), self.large)
        small = dict.fromkeys(range(self.large_count, self.count), self.small)
        return (*augment(images, random_keys, large), *augment(images, random_keys, small))

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The whole image or its middle, as `fit` says, at the size of a large view."""
        return central_view(images, self.large.size, self.fit)
