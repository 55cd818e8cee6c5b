"""Where a view looks, and the one antialiased resampling that crops, mirrors and warps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.size import Size, height_and_width
from metriclab.views import device

CROP_TRIES = 10
"""Crops drawn for each sample; the first that fits is taken."""

ASPECT = (3 / 4, 4 / 3)
"""Narrowest and widest crop, as width over height before scaling, in a square view; in another, times its own."""

Fit = Literal["crop", "pad", "squash"]
"""How an image of another aspect comes into a view: its middle, all of it between black bars, or all of it scaled."""


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Images as floats in [0, 1], with their half, quarter, ... sizes to the right of them in the same tensor.

    Level 1 stands at the right of the images, the smaller ones below it, so that one resampling serves samples of
    different levels.

    Attributes:
        atlas: all levels.
        sizes: true height and width of each image at level 0, in pixels.
        height, width: of level 0 with its padding.
        levels: 1 where no image is shrunk enough to need a smaller level.
    """

    atlas: Float[Tensor, "n c _h _w"]
    sizes: Int64[Tensor, "n 2"]
    height: int
    width: int
    levels: int


def pyramid(images: Images, size: Size, fit: Fit = "crop") -> Pyramid:
    """The levels that boxes of an allowed aspect, seen at `size` pixels (2 or more), can ask for."""
    n, channels, height, width = images.pixels.shape
    largest = _largest(images, size, fit)
    levels, pixels = 1, math.prod(height_and_width(size))
    while largest >= pixels * 2 ** (2 * levels - 1) and min(height, width) >= 2**levels:
        levels += 1
    if levels == 1:
        return Pyramid(images.pixels.float().div_(images.white), images.sizes, height, width, 1)
    # Empty space is zero, not whatever memory held: border pixels meet it with weights of rounding size.
    atlas = torch.zeros(n, channels, height, width + width // 2, device=images.pixels.device)
    level, top, left = atlas[..., :width], 0, width
    level.copy_(images.pixels).div_(images.white)
    for _ in range(1, levels):
        half = F.avg_pool2d(level, 2)
        rows, columns = half.shape[2:]
        level = atlas[..., top : top + rows, left : left + columns]
        level.copy_(half)
        top += rows
    return Pyramid(atlas, images.sizes, height, width, levels)


def _largest(images: Images, size: Size, fit: Fit) -> int:
    """The area of the largest box: what no image is large enough for is not made."""
    rows, columns = height_and_width(size)
    height, width = images.pixels.shape[2:]
    if len(images) and device.is_cpu(images.sizes):  # elsewhere, to know the true sizes is to wait for a GPU
        area = central_boxes(images.sizes, size, fit)[:, 2:] if fit == "pad" else images.sizes
        return int(area.prod(1).amax())
    if fit == "pad":
        height, width = max(height, width * rows // columns), max(width, height * columns // rows)
    return height * width


def resample(
    source: Pyramid,
    boxes: Float[Tensor, "n 4"],
    size: Size,
    mirror: Bool[Tensor, "n"] | None = None,
    warp: Float[Tensor, "n _r 3"] | None = None,
) -> Float[Tensor, "n c _h _w"]:
    """What lies in each sample's box, mirrored and warped, at this size; bilinear, from the level that fits the box.

    What a warp brings into the box from outside is taken from the image, and beyond the image from its border.

    Args:
        source: the images.
        boxes: top, left, height, width in pixels.
        size: height and width of the views.
        mirror: samples to swap left and right; none by default.
        warp: of `metriclab.views.warps`, after the mirroring; two rows for what is affine, three with a perspective.
    """
    top, left, height, width = (column[:, None, None] for column in boxes.unbind(1))
    scale, limit_y, limit_x, offset_y, offset_x = _level(source, boxes, size)
    rows, columns = height_and_width(size)
    u, v = _middles(columns, boxes.device)[None, None, :], _middles(rows, boxes.device)[None, :, None]
    if warp is not None:
        across, down, shift = warp[..., None, None].unbind(2)
        u, v, *divisor = ((across * u + shift) + down * v).unbind(1)
        if divisor:
            u, v = u / divisor[0], v / divisor[0]
    if mirror is not None:
        side = (1 - 2 * mirror.float())[:, None, None]
        u = u * side if warp is None else u.mul_(side)
    # Up to here without a warp these are a row and a column for each sample, not whole grids.
    grid = torch.empty(len(boxes), rows, columns, 2, device=boxes.device)
    for axis, (middle, start, extent, limit, offset) in enumerate(
        ((u, left, width, limit_x, offset_x), (v, top, height, limit_y, offset_y))
    ):
        at = ((middle + 1) * (extent / 2)).add_(start).mul_(scale).clamp_(min=0.5)
        torch.minimum(at, limit, out=at).add_(offset)
        grid[..., axis] = at.mul_(2 / source.atlas.shape[3 - axis]).sub_(1)
    return F.grid_sample(source.atlas, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _middles(count: int, device: torch.device) -> Float[Tensor, "{count}"]:
    """The middles of so many pixels, from -1 to 1."""
    return (torch.arange(count, device=device) * 2 + 1) / count - 1


def _level(source: Pyramid, boxes: Float[Tensor, "n 4"], size: Size) -> tuple[Float[Tensor, "n 1 1"], ...]:
    """Each sample's level of the pyramid: its scale, last row and column (middle of the pixel), and place in the atlas.

    The level is the one whose pixels are nearest in size to those of the view. A row of a smaller level that would be
    half padding does not count: only blocks within the true image do.
    """
    area, pixels = boxes[:, 2] * boxes[:, 3], math.prod(height_and_width(size))
    shortest = source.sizes.amin(1)
    scale, offset_y, offset_x = torch.ones_like(area), torch.zeros_like(area), torch.zeros_like(area)
    for level in range(1, source.levels):
        # Whole numbers on both sides: no rounding can put a sample on one level here and on another there.
        small = (area >= pixels * 2 ** (2 * level - 1)) & (shortest >= 2**level)
        scale = torch.where(small, 0.5**level, scale)
        if level == 1:
            offset_x = source.width * small.float()
        else:
            offset_y = offset_y + (source.height >> (level - 1)) * small
    limits = (source.sizes * scale[:, None]).floor() - 0.5
    return tuple(part[:, None, None] for part in (scale, limits[:, 0], limits[:, 1], offset_y, offset_x))


def random_boxes(
    uniform: Float[Tensor, "n k"],
    sizes: Int64[Tensor, "n 2"],
    min_area: float,
    max_area: float,
    size: Size = 1,
    aspects: tuple[float, float] = ASPECT,
) -> Float[Tensor, "n 4"]:
    """Random crops in whole pixels: a share of the area drawn evenly, an aspect drawn evenly on a log scale.

    Where none of the tries fits its image, the largest central crop of an allowed aspect is taken.

    Paper: Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6.

    Args:
        uniform: in [0, 1): the areas and the aspects of the tries, then the vertical and the horizontal place.
        sizes: true height and width of each image.
        min_area, max_area: bounds of the share of the image's area.
        size: of the view, whose aspect is the middle of those allowed.
        aspects: narrowest and widest, as width over height before scaling, in a square view; in another, times its own.
    """
    rows, columns = height_and_width(size)
    narrowest, widest = (bound * (columns / rows) for bound in aspects)
    image = sizes.float()
    image_height, image_width = image[:, :1], image[:, 1:]
    area = image_height * image_width * (min_area + (max_area - min_area) * uniform[:, :CROP_TRIES])
    low, high = math.log(narrowest), math.log(widest)
    aspect = torch.exp(low + (high - low) * uniform[:, CROP_TRIES : 2 * CROP_TRIES])
    largest_width = torch.minimum(image_width, (image_height * widest).round().clamp(min=1))
    largest_height = torch.minimum(image_height, (image_width / narrowest).round().clamp(min=1))
    heights = torch.cat([(area / aspect).sqrt().round(), largest_height], 1)
    widths = torch.cat([(area * aspect).sqrt().round(), largest_width], 1)
    fits = (heights >= 1) & (widths >= 1) & (heights <= image_height) & (widths <= image_width)
    first = fits.int().argmax(1, keepdim=True)
    height, width = heights.gather(1, first), widths.gather(1, first)
    drawn = first < CROP_TRIES
    place_y, place_x = uniform[:, 2 * CROP_TRIES, None], uniform[:, 2 * CROP_TRIES + 1, None]
    spare_y, spare_x = image_height - height, image_width - width
    top = torch.where(drawn, place_y * (spare_y + 1), spare_y / 2).floor()
    left = torch.where(drawn, place_x * (spare_x + 1), spare_x / 2).floor()
    return torch.cat([top, left, height, width], 1)


def central_boxes(sizes: Int64[Tensor, "n 2"], size: Size = 1, fit: Fit = "crop") -> Float[Tensor, "n 4"]:
    """What a test view of this size shows: the largest central box of its aspect, in whole pixels, for `crop`.

    For `squash` it is all of the image, for `pad` the smallest box of the view's aspect around it.
    """
    if fit == "squash":
        return torch.cat([torch.zeros_like(sizes), sizes], 1).float()
    rows, columns = height_and_width(size)
    of_width, of_height = sizes[:, 1] * rows, sizes[:, 0] * columns
    if fit == "pad":
        extent = torch.maximum(sizes, torch.stack([of_width / columns, of_height / rows], 1))
        return torch.cat([(sizes - extent) / 2, extent], 1)
    extent = torch.minimum(sizes, torch.stack([of_width // columns, of_height // rows], 1).clamp(min=1))
    return torch.cat([(sizes - extent) // 2, extent], 1).float()


def central_view(images: Images, size: Size, fit: Fit = "crop") -> Float[Tensor, "n c _h _w"]:
    """Each image at this size without chance: what evaluation sees."""
    parts = []
    for part in portions(images, size):
        some = Images(images.pixels[part], images.sizes[part])
        boxes = central_boxes(some.sizes, size, fit)
        view = resample(pyramid(some, size, fit), boxes, size)
        parts.append(view * _inside(boxes, some.sizes, size) if fit == "pad" else view)
    return torch.cat(parts)


def _inside(boxes: Float[Tensor, "n 4"], sizes: Int64[Tensor, "n 2"], size: Size) -> Bool[Tensor, "n 1 _h _w"]:
    """The pixels of a view whose middle lies in the image, at least those in the middle of the view."""
    sides = []
    for axis, count in enumerate(height_and_width(size)):
        extent = boxes[:, 2 + axis, None]
        sides.append(
            _middles(count, boxes.device).abs() * extent <= sizes[:, axis, None].maximum(1.001 * extent / count)
        )
    return (sides[0][:, :, None] & sides[1][:, None, :])[:, None]


def portions(images: Images, size: Size) -> Iterator[slice]:
    """Slices of a batch that keep temporary memory small: 8 MiB a tensor on a CPU, 256 MiB on an accelerator."""
    _, channels, height, width = images.pixels.shape
    floats = channels * max(height * width, math.prod(height_and_width(size)))
    at_once = 2**21 if images.pixels.device.type == "cpu" else 2**26
    step = max(1, at_once // floats)
    # At least one, perhaps empty, so that an empty batch gives empty views.
    for start in range(0, max(1, len(images)), step):
        yield slice(start, start + step)
