"""Eight corruptions of images at five severities, for a whole batch, each a pure function of image and item.

Six are those of D. Hendrycks, T. Dietterich (Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019) with the strengths that paper's code has for 224 pixels; lengths in pixels are scaled to the
size of the image. Rotation and occlusion are ours. All take images in [0, 1] and give the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from metriclab.core.random import RandomKeys

Corruption = Literal["noise", "blur", "contrast", "brightness", "pixelate", "jpeg", "rotation", "occlusion"]

_FULL_SIZE = 224
_PART_CELLS = 2**22
_NOISE, _TURN, _PLACE = range(3)


def noise(images: Float[Tensor, "n c h w"], items: Int64[Tensor, "n"], *, severity: int) -> Float[Tensor, "n c h w"]:
    """Gaussian noise of its own for every pixel."""
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    cells = images[0].numel()
    result = torch.empty_like(images)
    # Hashes are 64-bit numbers, one a pixel: a part of the batch at a time.
    for part in torch.split(torch.arange(len(images), device=images.device), max(1, _PART_CELLS // cells)):
        uniform = _uniform(items[part], _NOISE, severity, cells) + 2.0**-25  # in the middle of its step: never 0
        normal = math.sqrt(2) * torch.erfinv(2 * uniform - 1)
        result[part] = images[part] + deviation * normal.view(-1, *images.shape[1:]).to(images.dtype)
    return result.clamp_(0, 1)


def blur(images: Float[Tensor, "n c h w"], items: Int64[Tensor, "n"], *, severity: int) -> Float[Tensor, "n c h w"]:
    """Gaussian blur; the border is repeated beyond the image."""
    sigma = (1, 2, 3, 4, 6)[severity - 1] * min(images.shape[2:]) / _FULL_SIZE
    radius = max(1, math.ceil(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = kernel / kernel.sum()
    n, c, height, width = images.shape
    planes = F.pad(images.reshape(n * c, 1, height, width), (radius,) * 4, mode="replicate")
    across = F.conv2d(planes, kernel.view(1, 1, 1, -1))
    return F.conv2d(across, kernel.view(1, 1, -1, 1)).view(n, c, height, width).clamp(0, 1)


def contrast(images: Float[Tensor, "n c h w"], items: Int64[Tensor, "n"], *, severity: int) -> Float[Tensor, "n c h w"]:
    """Every pixel moved towards the mean of its channel."""
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean = images.mean((2, 3), keepdim=True)
    return ((images - mean) * kept + mean).clamp(0, 1)


def brightness(
    images: Float[Tensor, "n c h w"], items: Int64[Tensor, "n"], *, severity: int
) -> Float[Tensor, "n c h w"]:
    """The value of hue, saturation and value raised; hue and saturation stay."""
    value = images.amax(1, keepdim=True)
    raised = (value + severity / 10).clamp(max=1)
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised).clamp(0, 1)


def pixelate(images: Float[Tensor, "n c h w"], items: Int64[Tensor, "n"], *, severity: int) -> Float[Tensor, "n c h w"]:
    """Shrunk by averaging and enlarged again by repeating pixels."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    height, width = images.shape[2:]
    small = F.adaptive_avg_pool2d(images, (max(1, int(height * share)), max(1, int(width * share))))
    return F.interpolate(small, size=(height, width), mode="nearest")


def rotation(images: Float[Tensor, "n c h w"], items: Int64[Tensor, "n"], *, severity: int) -> Float[Tensor, "n c h w"]:
    """Turned by 6, 12, 18, 24 or 30 degrees, to a side of its own for every item; the border is repeated."""
    side = torch.where(_uniform(items, _TURN, severity, 1)[:, 0] < 0.5, -1.0, 1.0)
    angle = side * math.radians(6 * severity)
    cosine, sine = angle.cos(), angle.sin()
    height, width = images.shape[2:]
    zero = torch.zeros_like(cosine)
    # Sampling positions are in units of half the height and half the width.
    theta = torch.stack([cosine, -sine * (height / width), zero, sine * (width / height), cosine, zero], dim=1).view(
        -1, 2, 3
    )
    grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False).clamp(0, 1)


def occlusion(
    images: Float[Tensor, "n c h w"], items: Int64[Tensor, "n"], *, severity: int
) -> Float[Tensor, "n c h w"]:
    """A grey box over 10, 20, ..., 50 % of the area, with the proportions of the image, at a place of its own."""
    side = math.sqrt(severity / 10)
    covered = []
    for axis, place in enumerate(_uniform(items, _PLACE, severity, 2).unbind(1)):
        size = images.shape[2 + axis]
        length = max(1, round(side * size))
        start = torch.floor(place * (size - length + 1))[:, None]
        at = torch.arange(size, device=images.device)
        covered.append((at >= start) & (at < start + length))
    box = covered[0][:, None, :, None] & covered[1][:, None, None, :]
    return images.masked_fill(box, 0.5)


def jpeg(images: Float[Tensor, "n c h w"], items: Int64[Tensor, "n"], *, severity: int) -> Float[Tensor, "n c h w"]:
    """The loss of JPEG at quality 25, 18, 15, 10 or 7: cosine coefficients of 8 x 8 blocks rounded to its tables.

    Colour keeps its full resolution, as in 4:4:4 files.
    """
    quality = (25, 18, 15, 10, 7)[severity - 1]
    planes = images * 255
    if images.shape[1] == 3:
        planes = torch.einsum("oc,nchw->nohw", planes.new_tensor(_TO_YCC), planes)
    planes = planes - planes.new_tensor([128.0, 0.0, 0.0][: images.shape[1]]).view(1, -1, 1, 1)
    tables = torch.stack([_table(_LUMA, quality), *[_table(_CHROMA, quality)] * (images.shape[1] - 1)]).to(planes)
    planes = _rounded(planes, tables)
    planes = planes + planes.new_tensor([128.0, 0.0, 0.0][: images.shape[1]]).view(1, -1, 1, 1)
    if images.shape[1] == 3:
        planes = torch.einsum("oc,nchw->nohw", torch.linalg.inv(planes.new_tensor(_TO_YCC)), planes)
    return (planes.round() / 255).clamp(0, 1)


def _rounded(planes: Float[Tensor, "n c h w"], tables: Float[Tensor, "c 8 8"]) -> Float[Tensor, "n c h w"]:
    """Planes whose cosine coefficients, block by block, are multiples of the table's entries."""
    height, width = planes.shape[2:]
    padded = F.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)  # n c rows columns 8 8
    k, x = torch.arange(8)[:, None], torch.arange(8)
    cosines = torch.cos((2 * x + 1) * k * (math.pi / 16)) / 2
    cosines[0] /= math.sqrt(2)
    cosines = cosines.to(planes)
    steps = tables[:, None, None]
    coefficients = (cosines @ blocks @ cosines.T / steps).round() * steps
    restored = cosines.T @ coefficients @ cosines
    return restored.transpose(3, 4).reshape(padded.shape)[..., :height, :width]


def _table(base: tuple[int, ...], quality: int) -> Float[Tensor, "8 8"]:
    # The scaling of the Independent JPEG Group for qualities below 50.
    scaled = (torch.tensor(base).view(8, 8) * (5000 // quality) + 50) // 100
    return scaled.clamp(1, 255).float()


_TO_YCC = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]

# Quantisation tables of ITU-T T.81 (1992), annex K.1.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
    51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120,
    101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99,
    99, 99, 99, 99, *[99] * 32,
)  # fmt: skip


def _uniform(items: Int64[Tensor, "n"], stream: int, severity: int, count: int) -> Float[Tensor, "n {count}"]:
    return RandomKeys(0, 0, items, torch.zeros_like(items)).uniform(severity, stream, count)


CORRUPTIONS: dict[Corruption, Callable[..., Tensor]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "brightness": brightness,
    "pixelate": pixelate,
    "jpeg": jpeg,
    "rotation": rotation,
    "occlusion": occlusion,
}
"""Corruptions by name: (images, items, *, severity) -> images."""
