"""Whole views beside torchvision's transforms of the same pixels: each parameter as it shows in the views, and the mean
and the variance of every pixel over many draws."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import v2

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.views.simclr import SimCLRViews

NOTHING = {"min_area": 1.0, "flip": 0.0, "colour": 0.0, "grayscale": 0.0, "blur": 0.0}
COUNT = 3000


def views_of(picture: torch.Tensor, count: int, **parameters) -> torch.Tensor:
    """Two views of each of half as many copies of a picture, each with random keys of its own."""
    copies = count // 2
    images = Images(picture.expand(copies, -1, -1, -1), torch.tensor([picture.shape[1:]]).expand(copies, 2))
    keys = RandomKeys(0, 0, torch.arange(copies), torch.zeros(copies, dtype=torch.int64))
    return torch.cat(SimCLRViews(**parameters)(images, keys))


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two samples may be of one distribution: Kolmogorov and Smirnov, the 0.1 % level."""
    values = torch.cat([a, b]).sort().values
    below = [torch.searchsorted(x.sort().values, values, right=True) / len(x) for x in (a, b)]
    return bool((below[0] - below[1]).abs().max() < 1.95 * math.sqrt(1 / len(a) + 1 / len(b)))


def share_is(chosen: torch.Tensor, probability: float) -> bool:
    """Whether a share may be that of a probability: within four standard deviations."""
    deviation = math.sqrt(probability * (1 - probability) / len(chosen))
    return abs(chosen.float().mean().item() - probability) < 4 * deviation


def test_crops_and_flips_as_they_show_in_a_picture_of_coordinates():
    side, size = 64, 8
    x = torch.arange(side, dtype=torch.uint8).mul(4).expand(side, side)
    views = views_of(torch.stack([x, x.T, x]), COUNT, **{**NOTHING, "min_area": 0.08, "flip": 0.5, "size": size})
    middles = views * (255 / 4) + 0.5
    across, down = middles[:, 0, size // 2], middles[:, 1, :, size // 2]
    # Two columns inside the crop tell where it begins and ends.
    width, height = ((line[:, 5] - line[:, 2]) * (size / 3) for line in (across, down))
    mirrored, width = width < 0, width.abs()
    left = torch.minimum(across[:, 2], across[:, 5]) - 2.5 / size * width
    top = down[:, 2] - 2.5 / size * height
    torch.manual_seed(0)
    draw = v2.RandomResizedCrop(size, scale=(0.08, 1.0))
    drawn = [draw.make_params([torch.empty(3, side, side)]) for _ in range(COUNT)]
    theirs = {name: torch.tensor([float(crop[name]) for crop in drawn]) for name in ("top", "left", "height", "width")}
    for name, ours in {"top": top, "left": left, "height": height, "width": width}.items():
        assert (ours - ours.round()).abs().max() < 0.01
        assert alike(ours.round(), theirs[name])
    assert alike((height * width).round(), theirs["height"] * theirs["width"])
    assert alike((width.round() / height.round()).log(), (theirs["width"] / theirs["height"]).log())
    assert share_is(mirrored, 0.5)
    assert alike(width[mirrored].round(), width[~mirrored].round())


def test_brightness_as_it_shows_on_an_even_gray():
    # Which contrast, saturation and hue leave as it is.
    gray = torch.full((3, 8, 8), 51, dtype=torch.uint8)
    views = views_of(gray, COUNT, **{**NOTHING, "colour": 0.9, "size": 8})
    factors = views[:, 0, 4, 4] / 0.2
    torch.manual_seed(0)
    draw = v2.ColorJitter(0.72, 0.72, 0.72, 0.18)
    theirs = torch.tensor([float(draw.make_params([])["brightness_factor"]) for _ in range(COUNT)])
    changed = (factors - 1).abs() > 1e-5
    assert share_is(changed, 0.8)
    assert alike(factors[changed], theirs)


def test_the_width_of_the_blur_as_it_shows_on_a_point():
    point = torch.zeros(1, 65, 65, dtype=torch.uint8)
    point[0, 32, 32] = 255
    views = views_of(point, COUNT, **{**NOTHING, "blur": 0.5, "size": 65})
    # Gaussian: its neighbour is exp(-1 / (2 sigma^2)) of the peak, which is too small to see below a sigma of 0.2.
    ratio = views[:, 0, 32, 33] / views[:, 0, 32, 32]
    blurred = ratio > math.exp(-1 / (2 * 0.2**2))
    assert share_is(blurred, 0.5 * 1.8 / 1.9)
    sigma = (-0.5 / ratio[blurred].log()).sqrt()
    torch.manual_seed(0)
    draw = v2.GaussianBlur(7, (0.1, 2.0))
    theirs = torch.tensor([draw.make_params([])["sigma"][0] for _ in range(COUNT)])
    assert alike(sigma, theirs[theirs > 0.2])


def test_grayscale_is_drawn_apart_from_the_colours():
    red = torch.zeros(3, 4, 4, dtype=torch.uint8)
    red[0] = 200
    views = views_of(red, COUNT, **{**NOTHING, "grayscale": 0.2, "colour": 0.5, "size": 4})
    gray = (views.amax(1) - views.amin(1)).amax((1, 2)) < 1e-5
    assert share_is(gray, 0.2)
    changed = (views - views_of(red, COUNT, **{**NOTHING, "grayscale": 0.2, "size": 4})).abs().amax((1, 2, 3)) > 1e-4
    assert share_is(changed[gray], 0.8)


PARTS = {
    "crop": ({"min_area": 0.08}, lambda size: [v2.RandomResizedCrop(size, (0.08, 1.0), antialias=True)]),
    "flip": ({"flip": 0.5}, lambda size: [v2.RandomHorizontalFlip()]),
    "colour": ({"colour": 1.0}, lambda size: [v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8)]),
    "grayscale": ({"grayscale": 0.2}, lambda size: [v2.RandomGrayscale(0.2)]),
    "blur": ({"blur": 0.5}, lambda size: [v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], 0.5)]),
}


def picture(channels: int, side: int) -> torch.Tensor:
    """Of many colours, with some detail, yet no more than all ways of resampling agree on."""
    x = (torch.arange(side) / side).expand(side, side)
    y = x.T
    waves = [torch.sin(5 * x + 2 * y), torch.cos(4 * x * y + 1), torch.sin(3 * x - 6 * y)]
    detail = torch.sin(side * x) * torch.cos(side * y)
    return ((torch.stack(waves[:channels]) * 0.8 + detail * 0.2 + 1) * 127).to(torch.uint8)


def summaries(views: torch.Tensor) -> dict[str, torch.Tensor]:
    """What tells views of one picture apart, a number a view.

    Without the border: at the edge of a crop ours looks on into the picture, where torchvision's repeats the edge.
    """
    x = views[..., 3:-3, 3:-3]
    left, right = x.chunk(2, 3)
    contrast = x.std((1, 2, 3))
    return {
        "mean": x.mean((1, 2, 3)),
        "contrast": contrast,
        "colour": (x.amax(1) - x.amin(1)).mean((1, 2)),
        "tilt": (right - left).mean((1, 2, 3)),
        "detail": (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) / contrast.clamp(min=1e-2),
    }


@pytest.mark.parametrize(
    ("parts", "channels", "count"),
    [
        (list(PARTS), 3, 700),
        pytest.param(list(PARTS), 3, 6000, marks=pytest.mark.slow),
        pytest.param(list(PARTS), 1, 6000, marks=pytest.mark.slow),
        *[pytest.param([part], 3, 6000, marks=pytest.mark.slow) for part in PARTS],
    ],
)
def test_views_of_a_picture_are_distributed_as_torchvisions(parts, channels, count):
    size = 16
    source = picture(channels, size)
    parameters = dict(NOTHING)
    for part in parts:
        parameters |= PARTS[part][0]
    ours = views_of(source, 4 * count, **parameters, size=size)
    torch.manual_seed(0)
    transform = v2.Compose([step for part in parts for step in PARTS[part][1](size)])
    theirs = torch.stack([transform(source / 255) for _ in range(count)])
    of_theirs = summaries(theirs)
    for name, of_ours in summaries(ours).items():
        # Rounded, as views that nothing happens to are equal up to rounding.
        assert alike(of_ours.round(decimals=2), of_theirs[name].round(decimals=2)), name
    for moment in (1, 2):
        means, errors = [], []
        for sample in (ours, theirs):
            values = (sample - 0.5) ** moment
            means.append(values.mean(0))
            errors.append(values.var(0) / len(sample))
        # Five standard deviations for many pixels at once, and a gray level for another resampling at a crop's edge.
        assert ((means[0] - means[1]).abs() < 5 * sum(errors).sqrt() + 1 / 255).all()
