from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as reference

from metriclab.core.batch import Images
from metriclab.views.geometry import central_boxes, central_view, portions, pyramid, random_boxes, resample
from metriclab.views.warps import rotation


def smooth(height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """An image with structure at several scales, uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 40
    waves = [sum(np.sin(a * x + b * y + c) for a, b, c in random.uniform(-6, 6, (5, 3))) / 5 for _ in range(channels)]
    return torch.from_numpy(((np.stack(waves) + 1) * 127).astype(np.uint8))


def batch(*images: torch.Tensor, fill: int = 0) -> Images:
    """Images of any sizes, padded with `fill`."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    pixels = torch.full((len(images), images[0].shape[0], height, width), fill, dtype=torch.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return Images(pixels, torch.tensor([image.shape[1:] for image in images]))


def boxes(*values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (32, 3), (30, 3), (97, 3)])
def test_the_whole_image_at_its_own_size_comes_back(size, channels):
    images = batch(smooth(size, size, channels), smooth(size, size, channels, 1))
    same = resample(pyramid(images, size), central_boxes(images.sizes), size)
    torch.testing.assert_close(same, images.pixels / 255, rtol=0, atol=1e-5)
    mirrored = resample(pyramid(images, size), central_boxes(images.sizes), size, torch.tensor([True, False]))
    torch.testing.assert_close(mirrored[0], images.pixels[0].flip(2) / 255, rtol=0, atol=1e-5)
    torch.testing.assert_close(mirrored[1], images.pixels[1] / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("box", [(0, 0, 40, 50), (3, 7, 20, 24), (11, 5, 29, 45), (0, 49, 40, 1), (39, 0, 1, 1)])
def test_a_crop_equals_torchvision_away_from_its_edge(box):
    image = smooth(40, 50)
    size = 32
    ours = resample(pyramid(batch(image), size), boxes(box), size)[0]
    _, _, height, width = box
    theirs = reference.resized_crop(image / 255, *box, [size, size], antialias=False)
    # Ours looks beyond the edge of the box into the image, torchvision's repeats the edge.
    unit = (np.arange(size) + 0.5) / size
    inside_y = (unit * height >= 0.5) & (unit * height <= height - 0.5)
    inside_x = (unit * width >= 0.5) & (unit * width <= width - 0.5)
    inside = torch.from_numpy(inside_y[:, None] & inside_x[None, :])
    if box == (0, 0, 40, 50):
        inside = torch.ones_like(inside)
    # Levels would differ from a plain bilinear crop where the box is shrunk; these boxes are not.
    assert math.sqrt(height * width) / size < math.sqrt(2)
    torch.testing.assert_close(ours[:, inside], theirs[:, inside], rtol=0, atol=2e-5)


@pytest.mark.parametrize("degrees", [-150.0, -20.0, 7.5, 45.0, 90.0])
def test_rotation_equals_torchvision(degrees):
    size = 41
    image = smooth(size, size)
    ours = resample(
        pyramid(batch(image), size), boxes((0, 0, size, size)), size, None, turned(torch.tensor([degrees]), size)
    )
    theirs = reference.rotate(image / 255, degrees, InterpolationMode.BILINEAR)
    middle = torch.arange(size) - (size - 1) / 2
    disc = middle[:, None].square() + middle[None, :].square() <= (size / 2 - 1) ** 2
    torch.testing.assert_close(ours[0][:, disc], theirs[:, disc], rtol=0, atol=1e-4)


def test_mirror_comes_before_rotation():
    size = 33
    image = smooth(size, size)
    angle = turned(torch.tensor([20.0]), size)
    both = resample(pyramid(batch(image), size), boxes((0, 0, size, size)), size, torch.tensor([True]), angle)
    rotated = resample(pyramid(batch(image.flip(2)), size), boxes((0, 0, size, size)), size, None, angle)
    torch.testing.assert_close(both, rotated, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fill", [0, 255])
def test_padding_is_never_seen(fill):
    pictures = [smooth(50, 31, seed=0), smooth(21, 90, seed=1), smooth(33, 33, seed=2), smooth(129, 77, seed=3)]
    size = 16
    together = whole_turned(batch(*pictures, fill=fill), size)
    alone = torch.cat([whole_turned(batch(picture), size) for picture in pictures])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


def whole_turned(images: Images, size: int) -> torch.Tensor:
    """Whole images, turned so far that the corners look beyond the border."""
    whole = torch.cat([torch.zeros_like(images.sizes), images.sizes], 1).float()
    angle = turned(torch.full((len(images),), 40.0), size)
    return resample(pyramid(images, size), whole, size, None, angle)


def turned(degrees: torch.Tensor, size: int) -> torch.Tensor:
    return rotation(degrees.deg2rad(), size)[:, :2]


def test_a_constant_image_stays_constant():
    pictures = [
        torch.full((3, height, width), 77, dtype=torch.uint8) for height, width in ((64, 64), (35, 100), (9, 9))
    ]
    for size in (8, 16, 40):
        views = whole_turned(batch(*pictures, fill=255), size)
        torch.testing.assert_close(views, torch.full_like(views, 77 / 255), rtol=0, atol=1e-5)


def test_levels_are_means_of_blocks():
    images = batch(smooth(70, 53))
    source = pyramid(images, 8)
    assert source.levels == 4
    level = images.pixels / 255
    top, left = 0, 53
    for _ in range(3):
        height, width = level.shape[2] // 2, level.shape[3] // 2
        level = level[..., : 2 * height, : 2 * width].reshape(1, 3, height, 2, width, 2).mean((3, 5))
        torch.testing.assert_close(source.atlas[..., top : top + height, left : left + width], level)
        top += height


@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0, 3.1, 4.0, 6.5])
def test_shrinking_is_antialiased(factor):
    side, size = round(32 * factor), 32
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
    view = central_view(batch(noise), size)[0]
    # The mean over a block of factor x factor pixels divides the spread of white noise by the factor.
    assert view.std().item() < 1.5 * (noise / 255).std().item() / factor
    picture = smooth(side, side)
    ours = central_view(batch(picture), size)[0]
    theirs = reference.resize(picture / 255, [size, size], antialias=True)
    assert (ours - theirs).abs().mean().item() < 0.02


@pytest.mark.parametrize("shape", [(5, 2000), (2000, 5), (1, 300), (3, 3), (1, 1)])
@pytest.mark.parametrize("size", [2, 8])
def test_very_long_and_very_small_images_are_seen(shape, size):
    picture = torch.full((3, *shape), 50, dtype=torch.uint8)
    large = torch.full((3, 300, 300), 50, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for images in (batch(picture), batch(picture, large, fill=255)):
        for part in (
            central_boxes(images.sizes),
            random_boxes(torch.rand(len(images), 22, generator=generator), images.sizes, 0.08, 1.0),
        ):
            view = resample(pyramid(images, size), part, size)
            # The rounding of coordinates of 2,000 pixels: far less than a gray level.
            torch.testing.assert_close(view, torch.full_like(view, 50 / 255), rtol=0, atol=2e-4)


def test_the_central_view_is_the_middle_square():
    for height, width in ((33, 32), (40, 64), (64, 41)):
        picture = smooth(height, width)
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        ours = central_view(batch(picture), side)[0]
        torch.testing.assert_close(ours, picture[:, top : top + side, left : left + side] / 255, rtol=0, atol=1e-5)


def test_an_empty_batch_gives_an_empty_view():
    images = Images(torch.zeros(0, 3, 20, 20, dtype=torch.uint8), torch.zeros(0, 2, dtype=torch.int64))
    assert central_view(images, 8).shape == (0, 3, 8, 8)


def test_portions_cover_the_batch_once():
    images = Images(torch.zeros(7, 1, 1024, 512, dtype=torch.uint8), torch.full((7, 2), 512))
    parts = list(portions(images, 32))
    assert len(parts) > 1
    assert [row for part in parts for row in range(7)[part]] == list(range(7))


@pytest.mark.parametrize("shape", [(32, 32), (48, 100), (300, 40), (5, 7)])
def test_crops_are_distributed_as_torchvision_draws_them(shape):
    height, width = shape
    count = 3000
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor([shape]).expand(count, 2)
    ours = random_boxes(torch.rand(count, 22, generator=generator), sizes, 0.08, 1.0)
    torch.manual_seed(2)
    draw = v2.RandomResizedCrop(32, scale=(0.08, 1.0))
    drawn = [draw.make_params([torch.empty(3, *shape)]) for _ in range(count)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in drawn]).float()
    top, left, crop_height, crop_width = ours.unbind(1)
    assert (ours == ours.round()).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (crop_height >= 1).all()
    assert (crop_width >= 1).all()
    assert (top + crop_height <= height).all()
    assert (left + crop_width <= width).all()
    for column in range(4):
        # Two samples of one distribution: Kolmogorov-Smirnov distance below 1.95 sqrt(2 / n), the 0.1 % level.
        assert distance(ours[:, column], theirs[:, column]) < 1.95 * math.sqrt(2 / count)
    assert distance(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < 1.95 * math.sqrt(2 / count)
    assert distance(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]) < 1.95 * math.sqrt(2 / count)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    values = torch.cat([a, b]).sort().values
    below = [torch.searchsorted(x.sort().values, values, right=True) / len(x) for x in (a, b)]
    return (below[0] - below[1]).abs().max().item()


def test_where_no_crop_fits_the_largest_central_one_is_taken():
    # Area 1 with an aspect near 4/3 or 3/4 never fits a very long image.
    uniform = torch.full((3, 22), 0.999)
    ours = random_boxes(uniform, torch.tensor([[10, 100], [100, 10], [30, 30]]), 0.9, 1.0)
    assert ours.tolist() == [[0, 43, 10, 13], [43, 0, 13, 10], [0, 0, 30, 30]]


def test_the_first_crop_that_fits_is_taken():
    uniform = torch.full((1, 22), 0.999)
    uniform[0, 4], uniform[0, 14] = 0.0, 0.5  # the fifth try: an area of 1 %, square
    uniform[0, 20:] = torch.tensor([0.0, 0.5])
    ours = random_boxes(uniform, torch.tensor([[10, 1000]]), 0.01, 1.0)
    assert ours.tolist() == [[0, 495, 10, 10]]
