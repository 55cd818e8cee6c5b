"""Warps of a view: where in its box each of its points is taken from, as matrices that the one resampling applies.

A point is (u, v, 1), from -1 to 1 across and down the view. Warps of one image, in the order in which they happen to
it, are the product of their matrices.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from metriclab.core.size import Size, height_and_width


def rotation(angle: Float[Tensor, "n"], size: Size) -> Float[Tensor, "n 3 3"]:
    """Counter-clockwise about the middle, in radians. The view turns in pixels, whatever its aspect."""
    rows, columns = height_and_width(size)
    sine, cosine = angle.sin(), angle.cos()
    return _affine(cosine, sine * -(rows / columns), sine * (columns / rows), cosine)


def shear(
    across: Float[Tensor, "n"], down: Float[Tensor, "n"], size: Size, *, corner: bool = False
) -> Float[Tensor, "n 3 3"]:
    """A row is taken from so many pixels further right for each pixel below the middle, a column likewise.

    Args:
        across, down: pixels for each pixel: tangents of the angle.
        size: of the view.
        corner: for each pixel below, and right of, the upper left corner, as in AutoAugment's code.
    """
    rows, columns = height_and_width(size)
    across, down, one = across * (rows / columns), down * (columns / rows), torch.ones_like(across)
    return _affine(one, across, down, one, *((across, down) if corner else ()))


def translation(across: Float[Tensor, "n"], down: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
    """The image moves right and down, in shares of the view's width and height."""
    one, zero = torch.ones_like(across), torch.zeros_like(across)
    return _affine(one, zero, zero, one, -2 * across, -2 * down)


def perspective(inwards: Float[Tensor, "n 4 2"]) -> Float[Tensor, "n 3 3"]:
    """The corners of the image move inwards.

    Paper: Heckbert, Fundamentals of Texture Mapping and Image Warping, 1989, section 2.2.3.

    Args:
        inwards: for the upper left, upper right, lower right and lower left corner the shares of half the width and
            half the height that it moves; below 1.
    """
    (x0, x1, x2, x3), (y0, y1, y2, y3) = (1 - inwards).permute(2, 1, 0)
    x0, x3, y0, y1 = -x0, -x3, -y0, -y1
    # From the unit square to the corners.
    sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    dx1, dx2, dy1, dy2 = x1 - x2, x3 - x2, y1 - y2, y3 - y2
    divisor = dx1 * dy2 - dx2 * dy1
    g, h = (sum_x * dy2 - dx2 * sum_y) / divisor, (dx1 * sum_y - sum_x * dy1) / divisor
    a, b, d, e = x1 - x0 + g * x1, x3 - x0 + h * x3, y1 - y0 + g * y1, y3 - y0 + h * y3
    # The way back is the adjugate, as a scale of the whole matrix does not count.
    across = torch.stack([e - y0 * h, x0 * h - b, b * y0 - x0 * e], 1)
    down = torch.stack([y0 * g - d, a - x0 * g, x0 * d - a * y0], 1)
    scale = torch.stack([d * h - e * g, b * g - a * h, a * e - b * d], 1)
    return torch.stack([2 * across - scale, 2 * down - scale, scale], 1)


def in_turn(*warps: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
    """One warp that is these, in the order in which they happen to the image."""
    whole, *others = warps
    for other in others:
        # No matrix product, which is made in half precision under autocast.
        whole = (whole[:, :, :, None] * other[:, None]).sum(2)
    return whole


def _affine(
    uu: Float[Tensor, "n"],
    uv: Float[Tensor, "n"],
    vu: Float[Tensor, "n"],
    vv: Float[Tensor, "n"],
    u: Float[Tensor, "n"] | None = None,
    v: Float[Tensor, "n"] | None = None,
) -> Float[Tensor, "n 3 3"]:
    zero, one = torch.zeros_like(uu), torch.ones_like(uu)
    entries = [uu, uv, zero if u is None else u, vu, vv, zero if v is None else v, zero, zero, one]
    return torch.stack(entries, 1).view(-1, 3, 3)
