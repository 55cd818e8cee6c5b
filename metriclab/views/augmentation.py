"""What may happen to an image in a view: the one plan that all random views are made by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.core.size import Size, height_and_width
from metriclab.errors import RecipeError
from metriclab.views import device, warps
from metriclab.views.blur import SIGMA, blur_, gaussian_kernels
from metriclab.views.colour import (
    CHANGE,
    JITTER_COLUMNS,
    Colours,
    grayscale,
    jitter_strengths,
    no_colours,
    random_jitter,
    recolour_,
)
from metriclab.views.geometry import ASPECT, CROP_TRIES, Pyramid, portions, pyramid, random_boxes, resample
from metriclab.views.pixels import ERASE_COLUMNS, equalize_, erase_, erased_boxes, posterize_, solarize_

Side = Annotated[int, Ge(2)]
ViewSize = Side | tuple[Side, Side]
AreaShare = Annotated[float, Gt(0), Le(1)]
Degrees = Annotated[float, Ge(0), Le(180)]
Strength = Annotated[float, Ge(0), Le(2.5)]
Probability = Annotated[float, Ge(0), Le(1)]
Change = Annotated[float, Ge(0), Le(2)]
Turn = Annotated[float, Ge(0), Le(0.5)]
Aspects = tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]]
Colour = Strength | tuple[Change, Change, Change, Turn]
"""A strength, or the largest changes of brightness, contrast and saturation beside 1, and of hue in turns."""

JITTER_PROBABILITY = 0.8

POSTERIZED = (4, 7)
"""The fewest and the most bits that are kept."""

_STREAM, _MORE = range(2)
_COLUMNS = [2 * CROP_TRIES + 2, 1, 1, JITTER_COLUMNS, 1, 1, 1, 1]
"""Uniform numbers of a view: crop, flip, rotation, colour, grayscale, blur, its sigma, solarize.

One drawing serves them all, and none moves when another is switched off."""
_MORE_COLUMNS = [1, 8, 1, 1, 1, 1, ERASE_COLUMNS]
"""Of a second drawing, made where one of them is switched on: shear, perspective, posterize, its bits, equalize, erase,
its box."""


class _Plan(NamedTuple):
    """What is done to each of n samples in one view, in this order; None is done to no sample."""

    boxes: Float[Tensor, "n 4"]
    mirror: Bool[Tensor, "n"]
    warp: Float[Tensor, "n _r 3"] | None
    colours: Colours
    kernels: Float[Tensor, "n _m"] | None
    solarized: Float[Tensor, "n"] | None
    posterized: Float[Tensor, "n"] | None
    equalized: Bool[Tensor, "n"] | None
    erased: Float[Tensor, "n 4"] | None


@runtime_checkable
class Plans(Protocol):
    """Random views: what is done to a batch is drawn first, as tensors of n samples, tuples of such, or None."""

    @property
    def size(self) -> Size:
        """Of a view, in pixels."""

    def plan(self, random_keys: RandomKeys, view: int, sizes: Int64[Tensor, "n 2"], channels: int) -> tuple[Any, ...]:
        """What is done to n samples in the view of this index."""

    def fill(self, source: Pyramid, plan: Any, view: Float[Tensor, "n c h w"]) -> None:
        """Makes `view` of a part of the samples, by the part of the plan that is theirs."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may happen to an image in a view, drawn for each image and view by itself, in this order:

    crop, flip, rotation, shear and perspective in one resampling, colours, grayscale, blur, solarisation, posterising,
    equalising, erasing.

    Attributes:
        size: of a view, in pixels: of a square, or (height, width).
        min_area, max_area: bounds of the share of an image's area that a crop covers.
        flip, grayscale, blur, solarize, posterize, equalize, erase: probabilities.
        rotation, shear: largest angle to either side, in degrees.
        colour: strength of the change of brightness, contrast, saturation and hue, or the changes themselves.
        aspect: narrowest and widest crop.
        perspective: how far a corner moves inwards at most, as a share of half a side.
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
    aspect: tuple[float, float] = ASPECT
    shear: float = 0.0
    perspective: float = 0.0
    posterize: float = 0.0
    equalize: float = 0.0
    erase: float = 0.0

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

    def plan(self, random_keys: RandomKeys, view: int, sizes: Int64[Tensor, "n 2"], channels: int) -> _Plan:
        """What is done to n samples in the view of this index."""
        uniform = random_keys.uniform(view, _STREAM, sum(_COLUMNS))
        crop, flip, rotation, colour, grays, blurred, sigma, inverted = torch.split(uniform, _COLUMNS, 1)
        sheared = corners = posterized = bits = equalized = erased = places = uniform  # not looked at then
        if any((self.shear, self.perspective, self.posterize, self.equalize, self.erase)):
            more = random_keys.uniform(view, _MORE, sum(_MORE_COLUMNS))
            sheared, corners, posterized, bits, equalized, erased, places = torch.split(more, _MORE_COLUMNS, 1)
        fewest, most = POSTERIZED
        return _Plan(
            boxes=random_boxes(crop, sizes, self.min_area, self.max_area, self.size, self.aspect),
            mirror=flip[:, 0] < self.flip,
            warp=self._warp(rotation[:, 0], sheared, corners),
            colours=self._colours(colour, grays[:, 0], channels),
            kernels=None
            if self.blur == 0
            else gaussian_kernels(SIGMA[0] + (SIGMA[1] - SIGMA[0]) * sigma[:, 0], blurred[:, 0] < self.blur, self.size),
            solarized=None if self.solarize == 0 else _where(inverted, self.solarize, 0.5, 2.0),
            posterized=None
            if self.posterize == 0
            else _where(posterized, self.posterize, fewest + ((most + 1 - fewest) * bits).floor(), 8.0),
            equalized=None if self.equalize == 0 else equalized[:, 0] < self.equalize,
            erased=None if self.erase == 0 else erased_boxes(places, erased[:, 0] < self.erase, self.size),
        )

    def _warp(
        self, turned: Float[Tensor, "n"], sheared: Float[Tensor, "n _s"], corners: Float[Tensor, "n _p"]
    ) -> Float[Tensor, "n _r 3"] | None:
        """Two rows where that is enough."""
        made = []
        if self.rotation > 0:
            made.append(warps.rotation(math.radians(self.rotation) * (2 * turned - 1), self.size))
        if self.shear > 0:
            across = torch.tan(math.radians(self.shear) * (2 * sheared[:, 0] - 1))
            made.append(warps.shear(across, torch.zeros_like(across), self.size))
        if self.perspective > 0:
            made.append(warps.perspective(self.perspective * corners.view(-1, 4, 2)))
        if not made:
            return None
        whole = warps.in_turn(*made)
        return whole if self.perspective > 0 else whole[:, :2]

    def _colours(self, colour: Float[Tensor, "n 9"], grays: Float[Tensor, "n"], channels: int) -> Colours:
        colours = no_colours(len(colour), colour.device)
        strengths = jitter_strengths(self.colour)
        if any(strengths[2:]):
            require_colours("colour", channels)
        if any(strengths):
            colours = random_jitter(colour, strengths, JITTER_PROBABILITY, channels)
        if self.grayscale > 0:
            require_colours("grayscale", channels)
            if channels == 3:
                return colours._replace(after=torch.cat([colours.after, grayscale(grays < self.grayscale)], 1))
        return colours

    def fill(self, source: Pyramid, plan: _Plan, view: Float[Tensor, "n c h w"]) -> None:
        """Makes `view` by its plan. What can happen to no sample is left out."""
        view.copy_(resample(source, plan.boxes, self.size, plan.mirror, plan.warp))
        recolour_(view, plan.colours)
        if plan.kernels is not None:
            blur_(view, plan.kernels)
        if plan.solarized is not None:
            device.change_(view, solarize_, plan.solarized, lambda thresholds: thresholds <= 1)
        if plan.posterized is not None:
            device.change_(view, posterize_, plan.posterized, lambda bits: bits < 8)
        if plan.equalized is not None:
            device.change_(view, equalize_, plan.equalized, lambda chosen: chosen)
        view.clamp_(0, 1)
        if plan.erased is not None:
            device.change_(view, erase_, plan.erased, lambda boxes: boxes[:, 2] > 0)


def _where(
    uniform: Float[Tensor, "n 1"], probability: float, value: Float[Tensor, "n 1"] | float, otherwise: float
) -> Float[Tensor, "n"]:
    """The value where a uniform number is below the probability."""
    return torch.where(uniform < probability, value, otherwise).float().view(-1)


@torch.no_grad()
def augment(
    images: Images, random_keys: RandomKeys, views: Mapping[int, Plans]
) -> tuple[Float[Tensor, "n c _h _w"], ...]:
    """A view for each of these indices: a pure function of the images, their keys, its index and its augmentation.

    All of them are of one size.
    """
    n, channels = images.pixels.shape[:2]
    (size,) = {augmentation.size for augmentation in views.values()}
    plans = [augmentation.plan(random_keys, index, images.sizes, channels) for index, augmentation in views.items()]
    shape = (n, channels, *height_and_width(size))
    made = tuple(torch.empty(shape, device=images.pixels.device) for _ in plans)
    for part in portions(images, size):
        source = pyramid(Images(images.pixels[part], images.sizes[part]), size)
        for view, plan, augmentation in zip(made, plans, views.values(), strict=True):
            augmentation.fill(source, _of(plan, part), view[part])
    return made


def _of(plan: Any, part: slice) -> Any:
    """A part of the samples of a plan, or of what is in it."""
    if plan is None or isinstance(plan, Tensor):
        return None if plan is None else plan[part]
    parts = tuple(_of(values, part) for values in plan)
    return type(plan)(*parts) if hasattr(plan, "_fields") else parts


def require_colours(key: str, channels: int) -> None:
    """Checks that images have colours that a key can change.

    Raises:
        RecipeError: where they have other than one channel or three.
    """
    if channels not in (1, 3):
        raise RecipeError(
            f"{key} of the views is about grey images and those of three channels, and these have {channels}",
            help="set colour = 0.0 and grayscale = 0.0, or take views 'retrieval': geometry, blur and erasing take any "
            "channels",
        )


def check_areas(views: str, smallest: tuple[str, float], largest: tuple[str, float]) -> None:
    """Checks the bounds of the area, or of the aspect, of a crop, each a key of the recipe with its value.

    Raises:
        RecipeError: where the smallest is above the largest.
    """
    if smallest[1] > largest[1]:
        raise RecipeError(
            f"views '{views}': {smallest[0]} = {smallest[1]} is above {largest[0]} = {largest[1]}",
            help=f"set {smallest[0]} to at most {largest[1]}",
        )
