"""The augmentations of SimCLR."""

from __future__ import annotations

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
    Degrees,
    Probability,
    Strength,
    ViewSize,
    check_areas,
)
from metriclab.views.geometry import Fit, central_view


@register("views", "simclr")
class SimCLRViews:
    """Random crop, flip, rotation, colour, grayscale, blur and solarisation, drawn for each image and view by itself.

    Runs on the device of the images, for a whole batch at once. What an image gets depends on its random keys
    alone. Images of one channel have neither hue nor saturation.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, appendix A.

    Args:
        count: number of training views of an image.
        size: of a view, in pixels: one number for squares, or height and width, [256, 128].
        min_area: smallest share of an image's area that a crop may cover.
        max_area: largest share.
        flip: probability of swapping left and right; 0 where that changes the class, as in text.
        rotation: largest angle to either side, in degrees.
        colour: strength of the change of brightness, contrast, saturation and hue, made with probability 0.8.
        grayscale: probability of losing all colour.
        blur: probability of a Gaussian blur with a sigma of 0.1 to 2 pixels.
        solarize: probability of inverting the light half of the values (Grill et al., BYOL, NeurIPS 2020).
        fit: how the test view takes an image of another aspect: the middle of it (crop), all of it between black bars
            (pad), or all of it, scaled in both directions (squash).

    Raises:
        RecipeError: where `min_area` is above `max_area`.
    """

    __repr__ = repr_settings

    def __init__(
        self,
        *,
        count: Annotated[int, Ge(1)] = 2,
        size: ViewSize = 32,
        min_area: AreaShare = 0.08,
        max_area: AreaShare = 1.0,
        flip: Probability = 0.5,
        rotation: Degrees = 0.0,
        colour: Strength = 1.0,
        grayscale: Probability = 0.2,
        blur: Probability = 0.5,
        solarize: Probability = 0.0,
        fit: Fit = "crop",
    ) -> None:
        keep_settings(self, locals())
        check_areas("simclr", ("min_area", min_area), ("max_area", max_area))
        self.count = count
        self.fit: Fit = fit
        self.augmentation = Augmentation(size, min_area, max_area, flip, rotation, colour, grayscale, blur, solarize)

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Float[Tensor, "n c _h _w"], ...]:
        return self.augmentation.views(images, random_keys, range(self.count))

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The whole image or its middle, as `fit` says, without chance."""
        return central_view(images, self.augmentation.size, self.fit)
