"""RandAugment: a few operations drawn from fourteen, all of one magnitude."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.core.settings import keep_settings, repr_settings
from metriclab.core.size import Size
from metriclab.errors import RecipeError
from metriclab.registry import register
from metriclab.views import device, warps
from metriclab.views.augmentation import AreaShare, Probability, ViewSize, augment
from metriclab.views.colour import blend_
from metriclab.views.geometry import CROP_TRIES, Fit, Pyramid, central_view, random_boxes, resample
from metriclab.views.pixels import autocontrast_, equalize_, posterize_, sharpen_, solarize_

OPERATIONS = (
    "identity", "shear-x", "shear-y", "translate-x", "translate-y", "rotate", "brightness", "colour", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
"""Each is drawn as often as any other."""

LARGEST = 30
"""The magnitude at which an operation does most."""

SHEAR, TRANSLATION, TURN, CHANGE, BITS = 0.3, 150 / 331, 30.0, 0.9, 4
"""What each does then: pixels for each pixel, a share of a side, degrees, a change of a factor, bits that are lost."""

_CROP, _DRAWN = range(2)
_CROP_COLUMNS = [2 * CROP_TRIES + 2, 1]


class _Step(NamedTuple):
    """One of the operations on the pixels of n samples."""

    blends: Float[Tensor, "n 3"]
    sharpness: Float[Tensor, "n"]
    bits: Float[Tensor, "n"]
    thresholds: Float[Tensor, "n"]
    stretched: Bool[Tensor, "n"]
    equalized: Bool[Tensor, "n"]


class _Plan(NamedTuple):
    boxes: Float[Tensor, "n 4"]
    mirror: Bool[Tensor, "n"]
    warp: Float[Tensor, "n 2 3"]
    steps: tuple[_Step, ...]


@dataclass(frozen=True, slots=True)
class _RandAugment:
    """A random crop and flip, then so many operations; those on geometry first, in the resampling of the crop."""

    size: Size
    min_area: float
    flip: float
    operations: int
    magnitude: float

    def plan(self, random_keys: RandomKeys, view: int, sizes: Int64[Tensor, "n 2"], channels: int) -> _Plan:
        """What is done to n samples in the view of this index."""
        if channels not in (1, 3):
            raise RecipeError(
                f"views 'randaugment' are of images of one channel or three, and these have {channels}",
                help="take views 'retrieval', or 'simclr' with colour = 0.0 and grayscale = 0.0",
            )
        crop, flip = torch.split(random_keys.uniform(view, _CROP, sum(_CROP_COLUMNS)), _CROP_COLUMNS, 1)
        drawn, side = torch.split(random_keys.uniform(view, _DRAWN, 2 * self.operations), self.operations, 1)
        chosen, sign = (drawn * len(OPERATIONS)).long(), torch.where(side < 0.5, -1.0, 1.0)
        each = list(zip(chosen.unbind(1), sign.unbind(1), strict=True))
        return _Plan(
            boxes=random_boxes(crop, sizes, self.min_area, 1.0, self.size),
            mirror=flip[:, 0] < self.flip,
            warp=warps.in_turn(*(self._warp(*one) for one in each))[:, :2],
            steps=tuple(self._step(*one, channels) for one in each),
        )

    def _warp(self, chosen: Int64[Tensor, "n"], sign: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
        amount = self.magnitude / LARGEST * sign
        of = {name: torch.where(chosen == place, amount, 0.0) for place, name in enumerate(OPERATIONS)}
        return warps.in_turn(
            warps.shear(SHEAR * of["shear-x"], SHEAR * of["shear-y"], self.size, corner=True),
            warps.translation(TRANSLATION * of["translate-x"], TRANSLATION * of["translate-y"]),
            warps.rotation(math.radians(TURN) * of["rotate"], self.size),
        )

    def _step(self, chosen: Int64[Tensor, "n"], sign: Float[Tensor, "n"], channels: int) -> _Step:
        share = self.magnitude / LARGEST
        factor = 1 + CHANGE * share * sign
        of = {name: chosen == place for place, name in enumerate(OPERATIONS)}
        saturated = of["colour"] & (channels == 3)
        changed = of["brightness"] | of["contrast"] | saturated
        rest = 1 - factor
        return _Step(
            blends=torch.stack(
                [
                    torch.where(changed, factor, 1.0),
                    torch.where(saturated, rest, 0.0),
                    torch.where(of["contrast"], rest, 0.0),
                ],
                1,
            ),
            sharpness=torch.where(of["sharpness"], factor, 1.0),
            bits=torch.where(of["posterize"], 8.0 - round(BITS * share), 8.0),
            thresholds=torch.where(of["solarize"], 1 - share, 2.0),
            stretched=of["autocontrast"],
            equalized=of["equalize"],
        )

    def fill(self, source: Pyramid, plan: _Plan, view: Float[Tensor, "n c h w"]) -> None:
        """Makes `view` by its plan. A sample has one of the operations in each step, and is passed by the others."""
        view.copy_(resample(source, plan.boxes, self.size, plan.mirror, plan.warp)).clamp_(0, 1)
        for step in plan.steps:
            blend_(view, step.blends)
            device.change_(view, sharpen_, step.sharpness, lambda factors: factors != 1)
            device.change_(view, posterize_, step.bits, lambda bits: bits < 8)
            device.change_(view, solarize_, step.thresholds, lambda thresholds: thresholds <= 1)
            device.change_(view, autocontrast_, step.stretched, lambda chosen: chosen)
            device.change_(view, equalize_, step.equalized, lambda chosen: chosen)


@register("views", "randaugment")
class RandAugmentViews:
    """A random crop and flip, then some of fourteen operations, each drawn evenly, with one magnitude for all.

    The operations and their ranges are those of torchvision's RandAugment: shearing, translation, rotation, brightness,
    colour, contrast, sharpness, posterising, solarising, autocontrast, equalising, and none. They run on the device of
    the images, for a whole batch at once, from random keys alone. Those on geometry come first, whatever the order in
    which they are drawn, in the one resampling that also crops, so that a pixel is interpolated once; what they bring
    in from outside is taken from the image, and beyond it from its border, where the paper has gray. Images of one
    channel have no colour to change; those of other than one or three are refused.

    Paper: Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space, NeurIPS 2020,
    arXiv 1909.13719.

    Args:
        count: number of training views of an image.
        size: of a view, in pixels: one number for squares, or height and width, [256, 128].
        operations: how many are drawn for each view (N in the paper).
        magnitude: how much each of them does, from 0 to 30 (M in the paper).
        min_area: smallest share of an image's area that a crop may cover.
        flip: probability of swapping left and right; 0 where that changes the class, as in text.
        fit: how the test view takes an image of another aspect: the middle of it (crop), all of it between black bars
            (pad), or all of it, scaled in both directions (squash).
    """

    __repr__ = repr_settings
    has_steps = True

    def __init__(
        self,
        *,
        count: Annotated[int, Ge(1)] = 1,
        size: ViewSize = 32,
        operations: Annotated[int, Ge(1), Le(10)] = 2,
        magnitude: Annotated[float, Ge(0), Le(LARGEST)] = 9.0,
        min_area: AreaShare = 0.08,
        flip: Probability = 0.5,
        fit: Fit = "crop",
    ) -> None:
        keep_settings(self, locals())
        self.count = count
        self.fit: Fit = fit
        self.augmentation = _RandAugment(size, min_area, flip, operations, magnitude)

    def __call__(self, images: Images, random_keys: RandomKeys, /) -> tuple[Float[Tensor, "n c _h _w"], ...]:
        return augment(images, random_keys, dict.fromkeys(range(self.count), self.augmentation))

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The whole image or its middle, as `fit` says, without chance."""
        return central_view(images, self.augmentation.size, self.fit)
