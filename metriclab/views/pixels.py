"""Operations on the pixels of a view: posterising, equalising, autocontrast, sharpness, solarising and erasing.

Each changes the samples of a batch in place, every sample by a number of its own, of which one value changes nothing.
They take any number of channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from metriclab.core.size import Size, height_and_width

ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)
"""Bounds of the share of a view that is erased, and of width over height of what is."""

ERASE_TRIES = 10
ERASE_COLUMNS = 2 * ERASE_TRIES + 2
"""Uniform numbers a sample: areas, aspects, top and left."""


def solarize_(x: Float[Tensor, "n c h w"], thresholds: Float[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
    """Inverts the values from a threshold on; 2 changes nothing.

    Paper: Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data, CVPR 2019, table 6.
    """
    return torch.where(x >= _of_sample(thresholds), 1 - x, x, out=x)


def posterize_(x: Float[Tensor, "n c h w"], bits: Float[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
    """Keeps so many of the eight bits of each value, as of a byte; 8 changes nothing.

    Values between two bytes are those of the lower one.

    Paper: Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data, CVPR 2019, table 6.
    """
    steps = _of_sample(2 ** (8 - bits))
    # Bytes that were divided by 255 may lie a rounding below themselves.
    lower = torch.floor((x * 255 + 1e-3) / steps).mul_(steps / 255)
    return torch.where(steps > 1, lower, x, out=x)


def equalize_(x: Float[Tensor, "n c h w"], chosen: Bool[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
    """Spreads the values of each channel evenly over [0, 1]: a value becomes the share of the pixels below it.

    The share is of all pixels but those of the largest value, and a channel with fewer than 255 of them stays as it is,
    as in Pillow's `ImageOps.equalize`, which the paper used. Pillow rounds this to whole numbers of pixels for a byte,
    by which views of 32 pixels are up to a fifth lighter, and those of 224 by less than a hundredth; here nothing is
    rounded: a value between two bytes counts for both by its distance, and is mapped between them.

    Paper: Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data, CVPR 2019, table 6.
    """
    n, channels = x.shape[:2]
    values = x.view(n * channels, -1) * 255
    lower = values.floor().clamp_(max=254)
    upper_share, lower = values - lower, lower.to(torch.int64)
    counts = torch.zeros(n * channels, 257, device=x.device)
    counts.scatter_add_(1, lower + 1, 1 - upper_share).scatter_add_(1, lower + 2, upper_share)
    below = counts.cumsum(1)  # and at a byte's place itself
    below = torch.lerp(below.gather(1, lower), below.gather(1, lower + 1), upper_share)
    least, most = below.amin(1, keepdim=True), below.amax(1, keepdim=True)
    shares = (below - least) / (most - least).clamp(min=1)
    changed = (most - least >= 255).view(n, channels, 1, 1) & _of_sample(chosen)
    return torch.where(changed, shares.view_as(x), x, out=x)


def autocontrast_(x: Float[Tensor, "n c h w"], chosen: Bool[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
    """Stretches each channel so that its smallest value becomes 0 and its largest 1; an even one stays as it is.

    Paper: Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data, CVPR 2019, table 6.
    """
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    changed = (high > low) & _of_sample(chosen)
    stretched = (x - low) / torch.where(changed, high - low, 1)
    return torch.where(changed, stretched, x, out=x)


def sharpen_(x: Float[Tensor, "n c h w"], factors: Float[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
    """Moves each pixel away from a smoothed image (above 1) or towards it (below); 1 changes nothing, nor the border.

    The smoothing gives a pixel five times the weight of each of its eight neighbours, as Pillow's `ImageFilter.SMOOTH`.

    Paper: Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data, CVPR 2019, table 6.
    """
    if min(x.shape[2:]) < 3:
        return x
    inner = x[..., 1:-1, 1:-1]
    sums = F.avg_pool2d(x, 3, stride=1) * (9 / 13)
    smooth = sums.add_(inner, alpha=4 / 13)
    share = _of_sample(factors)
    inner.copy_(torch.where(share == 1, inner, torch.lerp(smooth, inner, share).clamp_(0, 1)))
    return x


def erase_(x: Float[Tensor, "n c h w"], boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n c h w"]:
    """Fills each sample's box with the mean of the sample, channel by channel; a box without area erases nothing.

    Paper: Zhong et al., Random Erasing Data Augmentation, AAAI 2020, algorithm 1; of its four fillings the mean, which
    here is the view's own, not ImageNet's.
    """
    top, left, height, width = (column[:, None] for column in boxes.unbind(1))
    y, x_ = (torch.arange(side, device=x.device) for side in x.shape[2:])
    rows, columns = (y >= top) & (y < top + height), (x_ >= left) & (x_ < left + width)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(inside, x.mean((2, 3), keepdim=True), x, out=x)


def erased_boxes(uniform: Float[Tensor, "n 22"], chosen: Bool[Tensor, "n"], size: Size) -> Float[Tensor, "n 4"]:
    """Top, left, height and width of what is erased, in whole pixels: the first of ten boxes that fits.

    An area is drawn evenly from 0.02 to 1/3 of the view, the logarithm of its aspect evenly from that of 0.3 to that of
    1 / 0.3 (in the paper the aspect itself, which makes more of them wide than high).

    Args:
        uniform: in [0, 1): areas, aspects, top and left.
        chosen: samples to erase something of; the others' boxes have no area, nor have those of which none fits.
    """
    rows, columns = height_and_width(size)
    low, high = ERASED_AREA
    area = rows * columns * (low + (high - low) * uniform[:, :ERASE_TRIES])
    narrowest, widest = (math.log(bound) for bound in ERASED_ASPECT)
    aspect = torch.exp(narrowest + (widest - narrowest) * uniform[:, ERASE_TRIES : 2 * ERASE_TRIES])
    heights, widths = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (heights < rows) & (widths < columns)
    first = fits.int().argmax(1, keepdim=True)
    erased = (fits.gather(1, first) & chosen[:, None]).float()
    height, width = heights.gather(1, first) * erased, widths.gather(1, first) * erased
    top = (uniform[:, -2, None] * (rows - height + 1)).floor()
    left = (uniform[:, -1, None] * (columns - width + 1)).floor()
    return torch.cat([top, left, height, width], 1)


def _of_sample(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
