"""The augmentations of SimCLR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any

from annotated_types import Ge, Le, Lt
from jaxtyping import Float
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.core.settings import keep_settings, repr_settings
from metriclab.registry import OwnKeys, register
from metriclab.views.augmentation import (
    AreaShare,
    Aspects,
    Augmentation,
    Colour,
    Degrees,
    Probability,
    ViewSize,
    augment,
    check_areas,
)
from metriclab.views.geometry import ASPECT, Fit, central_view
from metriclab.views.second import require_two_views

OF_A_VIEW = tuple(field.name for field in fields(Augmentation) if field.name != "size")


@register("views", "simclr")
class SimCLRViews:
    """Random crop, flip, rotation, colour, grayscale, blur and solarisation, drawn for each image and view by itself.

    Beyond the paper and off by default: rotation, solarisation, shear, perspective, posterising, equalising, erasing.
    Runs on the device of the images, for a whole batch at once. What an image gets depends on its random keys
    alone. Images of one channel have neither hue nor saturation; those of other than one or three need colour = 0 and
    grayscale = 0.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, appendix A.

    Args:
        count: number of training views of an image.
        size: of a view, in pixels: one number for squares, or height and width, [256, 128].
        min_area: smallest share of an image's area that a crop may cover.
        max_area: largest share.
        flip: probability of swapping left and right; 0 where that changes the class, as in text.
        rotation: largest angle to either side, in degrees.
        colour: strength of the change of brightness, contrast, saturation and hue, made with probability 0.8. One
            number s stands for changes by 0.8 s, 0.8 s, 0.8 s and 0.2 s of a turn; or those four, [0.4, 0.4, 0.2, 0.1].
        grayscale: probability of losing all colour.
        blur: probability of a Gaussian blur with a sigma of 0.1 to 2 pixels. Its kernel is a tenth of the shorter side,
            as in the paper's code, and at least 3 pixels: in views below 40 pixels it acts as a sigma of 0.8 at most.
        solarize: probability of inverting the light half of the values (Grill et al., BYOL, NeurIPS 2020).
        aspect: narrowest and widest crop, as width over height in square views; in others, times their own.
        shear: largest angle to either side by which upright lines lean, in degrees.
        perspective: how far each corner moves inwards at most, as a share of half a side.
        posterize: probability of keeping but 4 to 7 of the eight bits of each value.
        equalize: probability of spreading the values of each channel evenly.
        erase: probability of filling a box of 2 to 33 % of the view with its mean colour (Zhong et al., AAAI 2020).
        second: keys of this table that the second view has other values of, such as {blur = 0.1, solarize = 0.2}; the
            test view, and a third view, are as the table says.
        fit: how the test view takes an image of another aspect: the middle of it (crop), all of it between black bars
            (pad), or all of it, scaled in both directions (squash).

    Raises:
        RecipeError: where `min_area` is above `max_area`, or the narrowest aspect above the widest, and for `second`
            where there is one view.
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
        colour: Colour = 1.0,
        grayscale: Probability = 0.2,
        blur: Probability = 0.5,
        solarize: Probability = 0.0,
        aspect: Aspects = ASPECT,
        shear: Annotated[float, Ge(0), Le(60)] = 0.0,
        perspective: Annotated[float, Ge(0), Lt(1)] = 0.0,
        posterize: Probability = 0.0,
        equalize: Probability = 0.0,
        erase: Probability = 0.0,
        second: Annotated[dict[str, object], OwnKeys(OF_A_VIEW)] = {},  # noqa: B006  (a plain default, never changed)
        fit: Fit = "crop",
    ) -> None:
        keep_settings(self, locals())
        check_areas("simclr", ("min_area", min_area), ("max_area", max_area))
        self.count = count
        self.fit: Fit = fit
        first = Augmentation(
            size, min_area, max_area, flip, rotation, colour, grayscale, blur, solarize, aspect, shear, perspective,
            posterize, equalize, erase,
        )  # fmt: skip
        _check_aspect("aspect", aspect)
        self.augmentations = dict.fromkeys(range(count), first)
        self.needs_colour = first.needs_colour
        if second:
            other = self.augmentations[1] = _other(first, count, second)
            own = {f"second.{key}": value for key, value in other.needs_colour.items() if key in second}
            self.needs_colour = {**self.needs_colour, **own}
        self.has_steps = any(one.posterize > 0 for one in self.augmentations.values())

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Float[Tensor, "n c _h _w"], ...]:
        return augment(images, random_keys, self.augmentations)

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The whole image or its middle, as `fit` says, without chance."""
        return central_view(images, self.augmentations[0].size, self.fit)


def _other(first: Augmentation, count: int, second: Mapping[str, Any]) -> Augmentation:
    """That of the second view."""
    require_two_views("simclr", count)
    changed = replace(first, **second)
    check_areas("simclr", ("second's min_area", changed.min_area), ("max_area", changed.max_area))
    _check_aspect("second's aspect", changed.aspect)
    return changed


def _check_aspect(key: str, aspect: tuple[float, float]) -> None:
    check_areas("simclr", (f"{key}[0]", aspect[0]), ("aspect[1]", aspect[1]))
