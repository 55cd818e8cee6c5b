"""Mild views for retrieval."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.core.settings import keep_settings, repr_settings
from metriclab.registry import register
from metriclab.views.augmentation import AreaShare, Aspects, Augmentation, Probability, ViewSize, augment, check_areas
from metriclab.views.geometry import ASPECT, Fit, central_view


@register("views", "retrieval")
class RetrievalViews:
    """A mild crop and a flip, and nothing that changes colours: they tell classes apart in retrieval.

    Takes any number of channels. More of what may be done to an image are keys of `simclr`, whose other parts can be
    switched off.

    Paper: Musgrave et al., A Metric Learning Reality Check, ECCV 2020, section 3.1, whose crops go down to a sixth of
    the image; ours show half of it at least by default.

    Args:
        count: number of training views of an image.
        size: of a view, in pixels: one number for squares, or height and width, [256, 128].
        min_area: smallest share of an image's area that a crop may cover.
        max_area: largest share.
        aspect: narrowest and widest crop, as width over height in square views; in others, times their own.
        flip: probability of swapping left and right; 0 where that changes the class, as in text.
        erase: probability of filling a box of 2 to 33 % of the view with its mean colour, as is done to recognise
            persons and vehicles again (Zhong et al., AAAI 2020).
        fit: how the test view takes an image of another aspect: the middle of it (crop), all of it between black bars
            (pad), or all of it, scaled in both directions (squash).

    Raises:
        RecipeError: where `min_area` is above `max_area`, or the narrowest aspect above the widest.
    """

    __repr__ = repr_settings

    def __init__(
        self,
        *,
        count: Annotated[int, Ge(1)] = 1,
        size: ViewSize = 32,
        min_area: AreaShare = 0.5,
        max_area: AreaShare = 1.0,
        aspect: Aspects = ASPECT,
        flip: Probability = 0.5,
        erase: Probability = 0.0,
        fit: Fit = "crop",
    ) -> None:
        keep_settings(self, locals())
        check_areas("retrieval", ("min_area", min_area), ("max_area", max_area))
        check_areas("retrieval", ("aspect[0]", aspect[0]), ("aspect[1]", aspect[1]))
        self.count = count
        self.fit: Fit = fit
        self.augmentation = Augmentation(
            size, min_area, max_area, flip, rotation=0.0, colour=0.0, grayscale=0.0, blur=0.0, solarize=0.0,
            aspect=aspect, erase=erase,
        )  # fmt: skip

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Float[Tensor, "n c _h _w"], ...]:
        return augment(images, random_keys, dict.fromkeys(range(self.count), self.augmentation))

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The whole image or its middle, as `fit` says, without chance."""
        return central_view(images, self.augmentation.size, self.fit)
