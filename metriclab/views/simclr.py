"""The augmentations of SimCLR."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.errors import RecipeError
from metriclab.core.random import Draws
from metriclab.registry import register
from metriclab.views.blur import SIGMA, blur, gaussian_kernels
from metriclab.views.colour import JITTER_COLUMNS, Colours, grayscale, no_colours, random_jitter, recolour_, solarize_
from metriclab.views.geometry import CROP_TRIES, Pyramid, central_view, portions, pyramid, random_boxes, resample

JITTER_PROBABILITY = 0.8

_SLOT = 0
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


@register("views", "simclr")
class SimCLRViews:
    """Random crop, flip, rotation, colour, grayscale, blur and solarisation, drawn for each image and view by itself.

    Runs on the device of the images, for a whole batch at once. What an image gets depends on the draws of that image
    alone. Images of one channel have neither hue nor saturation.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, appendix A.

    Args:
        count: number of training views of an image.
        size: height and width of a view, in pixels.
        min_area: smallest share of an image's area that a crop may cover.
        max_area: largest share.
        flip: probability of swapping left and right; 0 where that changes the class, as in text.
        rotation: largest angle to either side, in degrees.
        colour: strength of the change of brightness, contrast, saturation and hue, made with probability 0.8.
        grayscale: probability of losing all colour.
        blur: probability of a Gaussian blur with a sigma of 0.1 to 2 pixels.
        solarize: probability of inverting the light half of the values (Grill et al., BYOL, NeurIPS 2020).

    Raises:
        RecipeError: where `min_area` is above `max_area`.
    """

    def __init__(
        self,
        *,
        count: Annotated[int, Ge(1)] = 2,
        size: Annotated[int, Ge(2)] = 32,
        min_area: Annotated[float, Gt(0), Le(1)] = 0.08,
        max_area: Annotated[float, Gt(0), Le(1)] = 1.0,
        flip: Annotated[float, Ge(0), Le(1)] = 0.5,
        rotation: Annotated[float, Ge(0), Le(180)] = 0.0,
        colour: Annotated[float, Ge(0), Le(2.5)] = 1.0,
        grayscale: Annotated[float, Ge(0), Le(1)] = 0.2,
        blur: Annotated[float, Ge(0), Le(1)] = 0.5,
        solarize: Annotated[float, Ge(0), Le(1)] = 0.0,
    ) -> None:
        if min_area > max_area:
            raise RecipeError(
                f"views 'simclr': min_area = {min_area} is above max_area = {max_area}",
                help=f"set min_area to at most {max_area}",
            )
        self.count = count
        self.size = size
        self.min_area, self.max_area = min_area, max_area
        self.flip = flip
        self.rotation = rotation
        self.colour = colour
        self.grayscale = grayscale
        self.blur = blur
        self.solarize = solarize

    @torch.no_grad()
    def __call__(self, images: Images, draws: Draws, /) -> tuple[Float[Tensor, "n c _h _w"], ...]:
        channels = images.pixels.shape[1]
        plans = [
            self._plan(draws.uniform(view, _SLOT, sum(_COLUMNS)), images.sizes, channels) for view in range(self.count)
        ]
        views: list[list[Tensor]] = [[] for _ in plans]
        for part in portions(images, self.size):
            source = pyramid(Images(images.pixels[part], images.sizes[part]), self.size)
            for view, plan in zip(views, plans, strict=True):
                view.append(self._view(source, _Plan(*(values[part] for values in plan))))
        return tuple(torch.cat(view) for view in views)

    def test(self, images: Images, /) -> Float[Tensor, "n c h w"]:
        """The short side scaled to `size`, the middle of the long side."""
        return central_view(images, self.size)

    def _plan(self, uniform: Float[Tensor, "n k"], sizes: Int64[Tensor, "n 2"], channels: int) -> _Plan:
        crop, flip, rotation, colour, grays, blurred, sigma, inverted = torch.split(uniform, _COLUMNS, 1)
        colours = no_colours(len(uniform), uniform.device)
        if self.colour > 0:
            colours = random_jitter(colour, self.colour, JITTER_PROBABILITY, channels)
        after = colours.after
        if self.grayscale > 0 and channels == 3:
            after = torch.cat([after, grayscale(grays[:, 0] < self.grayscale)], 1)
        return _Plan(
            boxes=random_boxes(crop, sizes, self.min_area, self.max_area),
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

    def _view(self, source: Pyramid, plan: _Plan) -> Float[Tensor, "n c s s"]:
        # What can happen to no sample is left out.
        x = resample(source, plan.boxes, self.size, plan.mirror, plan.angle if self.rotation > 0 else None)
        x = recolour_(x, Colours(plan.before, plan.hue, plan.after))
        if self.blur > 0:
            x = blur(x, plan.kernels)
        if self.solarize > 0:
            x = solarize_(x, plan.inverted)
        return x.clamp_(0, 1)
