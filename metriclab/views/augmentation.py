"""What may happen to an image in a view: the one plan that all random views are made by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.core.size import Size, height_and_width
from metriclab.errors import RecipeError
from metriclab.views.blur import SIGMA, blur_, gaussian_kernels
from metriclab.views.colour import (
    CHANGE,
    JITTER_COLUMNS,
    Colours,
    alike_together,
    grayscale,
    jitter_strengths,
    no_colours,
    random_jitter,
    recolour_,
    solarize_,
)
from metriclab.views.geometry import CROP_TRIES, Pyramid, portions, pyramid, random_boxes, resample

Side = Annotated[int, Ge(2)]
ViewSize = Side | tuple[Side, Side]
AreaShare = Annotated[float, Gt(0), Le(1)]
Degrees = Annotated[float, Ge(0), Le(180)]
Strength = Annotated[float, Ge(0), Le(2.5)]
Probability = Annotated[float, Ge(0), Le(1)]
Change = Annotated[float, Ge(0), Le(2)]
Turn = Annotated[float, Ge(0), Le(0.5)]
Colour = Strength | tuple[Change, Change, Change, Turn]
"""A strength, or the largest changes of brightness, contrast and saturation beside 1, and of hue in turns."""

JITTER_PROBABILITY = 0.8

_STREAM = 0
_COLUMNS = [2 * CROP_TRIES + 2, 1, 1, JITTER_COLUMNS, 1, 1, 1, 1]
"""Uniform numbers of a view: crop, flip, rotation, colour, grayscale, blur, its sigma, solarize.

One drawing serves them all, and none moves when another is switched off."""


class _Plan(NamedTuple):
    """What is done to each of n samples in one view, in this order."""

    boxes: Float[Tensor, "n 4"]
    mirror: Bool[Tensor, "n"]
    angle: Float[Tensor, "n"]
    before: Float[Tensor, "n _k 3"]
    hue: Float[Tensor, "n _t"]
    after: Float[Tensor, "n _l 3"]
    kernels: Float[Tensor, "n _m"]
    inverted: Bool[Tensor, "n"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random crop, flip, rotation, colour, grayscale, blur and solarisation, drawn for each image and view by itself.

    Attributes:
        size: of a view, in pixels: of a square, or (height, width).
        min_area, max_area: bounds of the share of an image's area that a crop covers.
        flip, grayscale, blur, solarize: probabilities.
        rotation: largest angle to either side, in degrees.
        colour: strength of the change of brightness, contrast, saturation and hue, or the changes themselves.
    """

    size: Size
    min_area: float
    max_area: float
    flip: float
    rotation: float
    colour: Colour
    grayscale: float
    blur: float
    solarize: float

    @property
    def needs_colour(self) -> dict[str, object]:
        """The settings that need red, green and blue, each with a value that does not."""
        brightness, contrast, *of_colour = jitter_strengths(self.colour)
        found: dict[str, object] = {}
        if any(of_colour):
            found["colour"] = [round(CHANGE * strength, 6) for strength in (brightness, contrast)] + [0.0, 0.0]
        if self.grayscale > 0:
            found["grayscale"] = 0.0
        return found

    def plan(self, uniform: Float[Tensor, "n k"], sizes: Int64[Tensor, "n 2"], channels: int) -> _Plan:
        """What is done to n samples, from uniform numbers in [0, 1)."""
        crop, flip, rotation, colour, grays, blurred, sigma, inverted = torch.split(uniform, _COLUMNS, 1)
        colours = no_colours(len(uniform), uniform.device)
        strengths = jitter_strengths(self.colour)
        if any(strengths):
            colours = random_jitter(colour, strengths, JITTER_PROBABILITY, channels)
        after = colours.after
        if self.grayscale > 0 and channels == 3:
            after = torch.cat([after, grayscale(grays[:, 0] < self.grayscale)], 1)
        return _Plan(
            boxes=random_boxes(crop, sizes, self.min_area, self.max_area, self.size),
            mirror=flip[:, 0] < self.flip,
            angle=math.radians(self.rotation) * (2 * rotation[:, 0] - 1),
            before=colours.before,
            hue=colours.hue,
            after=after,
            kernels=gaussian_kernels(
                SIGMA[0] + (SIGMA[1] - SIGMA[0]) * sigma[:, 0], blurred[:, 0] < self.blur, self.size
            ),
            inverted=inverted[:, 0] < self.solarize,
        )

    def fill(self, source: Pyramid, plan: _Plan, view: Float[Tensor, "n c h w"]) -> None:
        """Makes `view` by its plan. What can happen to no sample is left out."""
        x = resample(source, plan.boxes, self.size, plan.mirror, plan.angle if self.rotation > 0 else None)
        colours = Colours(plan.before, plan.hue, plan.after)
        order = alike_together(colours)
        if order is not None:
            x, colours = x.index_select(0, order), Colours(*(values[order] for values in colours))
        x = recolour_(x, colours)
        view.copy_(x) if order is None else torch.index_select(x, 0, order.argsort(), out=view)
        if self.blur > 0:
            blur_(view, plan.kernels)
        if self.solarize > 0:
            solarize_(view, plan.inverted)
        view.clamp_(0, 1)


@torch.no_grad()
def augment(
    images: Images, random_keys: RandomKeys, views: Mapping[int, Augmentation]
) -> tuple[Float[Tensor, "n c _h _w"], ...]:
    """A view for each of these indices: a pure function of the images, their keys, its index and its augmentation.

    All of them are of one size.
    """
    n, channels = images.pixels.shape[:2]
    (size,) = {augmentation.size for augmentation in views.values()}
    plans = [
        augmentation.plan(random_keys.uniform(index, _STREAM, sum(_COLUMNS)), images.sizes, channels)
        for index, augmentation in views.items()
    ]
    shape = (n, channels, *height_and_width(size))
    made = tuple(torch.empty(shape, device=images.pixels.device) for _ in plans)
    for part in portions(images, size):
        source = pyramid(Images(images.pixels[part], images.sizes[part]), size)
        for view, plan, augmentation in zip(made, plans, views.values(), strict=True):
            augmentation.fill(source, _Plan(*(values[part] for values in plan)), view[part])
    return made


def check_areas(views: str, smallest: tuple[str, float], largest: tuple[str, float]) -> None:
    """Checks the bounds of the area of a crop, each a key of the recipe with its value.

    Raises:
        RecipeError: where the smallest is above the largest.
    """
    if smallest[1] > largest[1]:
        raise RecipeError(
            f"views '{views}': {smallest[0]} = {smallest[1]} is above {largest[0]} = {largest[1]}",
            help=f"set {smallest[0]} to at most {largest[1]}",
        )
