"""Gaussian blur with a width of its own for each sample."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metriclab.core.size import Size, height_and_width
from metriclab.views import device

SIGMA = (0.1, 2.0)
"""Bounds of the standard deviation, in pixels of the view."""

_WHOLE, _BLOCK = 64, 48
"""Rows of the matrix that are multiplied at once: up to so many all of them, of more so many, as less is zero then."""


def blur_(x: Float[Tensor, "n c h w"], kernels: Float[Tensor, "n k"]) -> None:
    """`blur` in place; a CPU passes over what it leaves as it is."""
    device.change_(x, _blur_, kernels, lambda kernels: kernels[:, kernels.shape[1] // 2] != 1)


def blur(x: Float[Tensor, "n c h w"], kernels: Float[Tensor, "n k"]) -> Float[Tensor, "n c h w"]:
    """Each image blurred by its kernel in both directions; beyond the border the image is mirrored."""
    blurred = x.clone()
    _blur_(blurred, kernels)
    return blurred


def _blur_(x: Float[Tensor, "n c h w"], kernels: Float[Tensor, "n k"]) -> None:
    """The blur of a row is a product with a banded matrix. Only the band is multiplied, block by block."""
    (height, width), radius = x.shape[2:], kernels.shape[1] // 2
    # Matrix products would be taken in half precision under autocast.
    with torch.autocast(x.device.type, enabled=False):
        matrix, across = _matrix(kernels, width), torch.empty_like(x)
        rows, blurred_rows = x.flatten(1, 2), across.flatten(1, 2)
        for block, inside in _bands(radius, width):
            torch.bmm(rows[..., inside], matrix[:, block, inside].transpose(1, 2), out=blurred_rows[..., block])
        matrix = matrix if height == width else _matrix(kernels, height)
        for block, inside in _bands(radius, height):
            for channel in range(x.shape[1]):
                torch.bmm(matrix[:, block, inside], across[:, channel, inside], out=x[:, channel, block])


def gaussian_kernels(sigma: Float[Tensor, "n"], chosen: Bool[Tensor, "n"], size: Size) -> Float[Tensor, "n k"]:
    """Kernels of a tenth of the shorter side, at least three pixels; those not chosen leave an image as it is.

    Args:
        sigma: standard deviations, in pixels.
        chosen: samples to blur.
        size: of the images they are for.
    """
    side = min(height_and_width(size))
    radius = min(max(1, side // 20), side - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    kernels = torch.exp(-0.5 * (offsets / sigma[:, None]).square())
    # Far tails are cut: products with subnormal numbers are many times slower on a CPU.
    kernels = torch.where(kernels > 1e-12, kernels, 0.0)
    kernels = kernels / kernels.sum(1, keepdim=True)
    return torch.where(chosen[:, None], kernels, (offsets == 0).float())


def _bands(radius: int, size: int) -> Iterator[tuple[slice, slice]]:
    """The blocks of rows of the matrix, each with the columns that are not zero in it."""
    step = _BLOCK if size > _WHOLE else size
    for start in range(0, size, step):
        stop = min(start + step, size)
        yield slice(start, stop), slice(max(0, start - radius), min(size, stop + radius))


def _matrix(kernel: Float[Tensor, "n k"], size: int) -> Float[Tensor, "n {size} {size}"]:
    """The blur of a row of pixels as a matrix: row i holds the kernel about column i, mirrored in at the ends."""
    n, taps = kernel.shape
    radius = taps // 2
    # A period one longer than a row shifts the kernel by one column from row to row.
    period = torch.nn.functional.pad(kernel, (0, size))
    rows = period.repeat(1, size)[:, : size * (size + 2 * radius)].view(n, size, size + 2 * radius)
    matrix = rows[..., radius : radius + size].clone()
    matrix[..., 1 : radius + 1] += rows[..., :radius].flip(2)
    matrix[..., size - 1 - radius : size - 1] += rows[..., radius + size :].flip(2)
    return matrix
