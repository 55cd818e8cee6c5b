"""Warps in the one resampling beside torchvision's on one image, away from what lies outside of it."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as reference

from metriclab.core.batch import Images
from metriclab.views import warps
from metriclab.views.geometry import central_boxes, pyramid, resample

SIZES = [(41, 41), (48, 30)]
BILINEAR = InterpolationMode.BILINEAR


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    return ((torch.stack([torch.sin(2 * x + y), torch.cos(x * y), torch.sin(x - 2 * y)]) + 1) * 127).to(torch.uint8)


def warped(image: torch.Tensor, warp: torch.Tensor) -> torch.Tensor:
    size = (image.shape[1], image.shape[2])
    images = Images(image[None], torch.tensor([size]))
    return resample(pyramid(images, size), central_boxes(images.sizes, size), size, None, warp)[0]


def agree(ours: torch.Tensor, theirs: torch.Tensor, inside: torch.Tensor) -> None:
    """Where torchvision had nothing from outside to fill in, as an image of ones shows."""
    inside = (inside > 0.999).all(0)
    assert inside.float().mean() > 0.3
    torch.testing.assert_close(ours[:, inside], theirs[:, inside], rtol=0, atol=2e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("across", "down", "corner"), [(0.3, 0.0, True), (0.0, -0.2, True), (0.25, 0.0, False)])
def test_shear(size, across, down, corner):
    image = smooth(*size)
    ours = warped(image, warps.shear(torch.tensor([across]), torch.tensor([down]), size, corner=corner)[:, :2])
    settings = {
        "angle": 0.0,
        "translate": [0, 0],
        "scale": 1.0,
        "shear": [math.degrees(math.atan(across)), math.degrees(math.atan(down))],
        "interpolation": BILINEAR,
        "center": [0, 0] if corner else None,
    }
    agree(ours, *(reference.affine(one, **settings) for one in (image / 255, torch.ones_like(image / 255))))


@pytest.mark.parametrize("size", SIZES)
def test_translation_of_whole_pixels(size):
    image = smooth(*size)
    ours = warped(image, warps.translation(torch.tensor([4 / size[1]]), torch.tensor([-7 / size[0]]))[:, :2])
    settings = {"angle": 0.0, "translate": [4, -7], "scale": 1.0, "shear": [0.0, 0.0]}
    agree(ours, *(reference.affine(one, **settings) for one in (image / 255, torch.ones_like(image / 255))))


@pytest.mark.parametrize("size", SIZES)
def test_perspective(size):
    (height, width), image = size, smooth(*size)
    inwards = torch.rand(1, 4, 2, generator=torch.Generator().manual_seed(5)) * 0.5
    ours = warped(image, warps.perspective(inwards))
    start = [[0, 0], [width, 0], [width, height], [0, height]]
    half = torch.tensor([width, height]) / 2
    end = [
        [x + dx * (1 if x == 0 else -1), y + dy * (1 if y == 0 else -1)]
        for (x, y), (dx, dy) in zip(start, (inwards[0] * half).tolist(), strict=True)
    ]
    agree(
        ours,
        *(reference.perspective(one, start, end, BILINEAR) for one in (image / 255, torch.ones_like(image / 255))),
    )


def test_corners_are_distributed_as_torchvision_draws_them():
    """Which it rounds to pixels: of a large image."""
    side, count = 4000, 2000
    draw = v2.RandomPerspective(distortion_scale=0.5, p=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ends = [draw.make_params([torch.empty(1, side, side, device="meta")]) for _ in range(3)]
    assert all("coefficients" in one for one in ends)  # of which corners cannot be told: their law is in its code
    inwards = 0.5 * torch.rand(count, 4, 2, generator=torch.Generator().manual_seed(0))
    matrix = warps.perspective(inwards)
    # The corners of the image are where the moved corners of the view look.
    signs = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    moved = torch.cat([signs * (1 - inwards), torch.ones(count, 4, 1)], 2)
    seen = torch.einsum("nrk,nck->ncr", matrix, moved)
    torch.testing.assert_close(seen[..., :2] / seen[..., 2:], signs.expand(count, 4, 2), rtol=0, atol=1e-4)


def test_warps_happen_in_turn():
    size = (41, 41)
    image = smooth(*size)
    turn = warps.rotation(torch.tensor([0.3]), size)
    lean = warps.shear(torch.tensor([0.2]), torch.zeros(1), size)
    both = warped(image, warps.in_turn(turn, lean)[:, :2])
    by_hand = reference.affine(
        reference.rotate(image / 255, math.degrees(0.3), BILINEAR), 0.0, [0, 0], 1.0,
        [math.degrees(math.atan(0.2)), 0.0], BILINEAR,
    )  # fmt: skip
    middle = torch.zeros(size, dtype=torch.bool)
    middle[14:27, 14:27] = True
    assert (both - by_hand)[:, middle].abs().max() < 0.02  # which resamples twice
    other = warped(image, warps.in_turn(lean, turn)[:, :2])
    assert (other - by_hand)[:, middle].abs().max() > 0.03
    torch.testing.assert_close(
        warped(image, warps.in_turn(turn, torch.eye(3)[None])[:, :2]), warped(image, turn[:, :2])
    )
