from __future__ import annotations

import colorsys
import itertools
import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from metriclab.views.colour import (
    Colours,
    gray,
    grayscale,
    jitter_strengths,
    no_colours,
    random_jitter,
    recolour_,
    turn_hue_,
)

ADJUST = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue)


def pictures(n: int, channels: int = 3) -> torch.Tensor:
    x = torch.rand(n, channels, 9, 11, generator=torch.Generator().manual_seed(n))
    x[:, :, 0] = x[:, :1, 0]  # gray pixels
    x[:, :, 1, :6] = (
        torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]]).T[:channels].float()
    )
    return x


def number(order: tuple[int, ...], amounts: list[float]) -> torch.Tensor:
    """Uniform numbers that make `random_jitter` apply the operations in this order with these amounts."""
    places = [order.index(operation) / 4 + 0.1 for operation in range(4)]
    return torch.tensor([0.0, *places, *amounts])


def ranges(colour):
    """The largest changes of brightness, contrast, saturation and hue: one strength's, or those of BYOL's table 6."""
    return [0.8 * colour, 0.8 * colour, 0.8 * colour, 0.2 * colour] if isinstance(colour, float) else colour


@pytest.mark.parametrize("colour", [0.5, 1.0, 2.5, (0.4, 0.4, 0.2, 0.1), (0.0, 1.3, 0.0, 0.5)])
def test_every_order_equals_torchvision(colour):
    orders = list(itertools.permutations(range(4)))
    generator = torch.Generator().manual_seed(3)
    amounts = torch.rand(len(orders), 4, generator=generator)
    uniform = torch.stack([number(order, row.tolist()) for order, row in zip(orders, amounts, strict=True)])
    x = pictures(len(orders))
    ours = recolour_(x.clone(), random_jitter(uniform, jitter_strengths(colour), 0.8, 3))
    *changes, turn = ranges(colour)
    for image, order, row, result in zip(x, orders, amounts.tolist(), ours, strict=True):
        bounds = [(max(0.0, 1 - change), 1 + change) for change in changes]
        values = [low + (high - low) * amount for (low, high), amount in zip(bounds, row[:3], strict=True)]
        values.append(turn * (2 * row[3] - 1))
        for operation in order:
            image = ADJUST[operation](image, values[operation])
        torch.testing.assert_close(result, image, rtol=0, atol=2e-4)


def test_one_channel_has_neither_saturation_nor_hue():
    orders = list(itertools.permutations(range(4)))
    uniform = torch.stack([number(order, [0.8, 0.2, 0.9, 0.9]) for order in orders])
    x = pictures(len(orders), 1)
    ours = recolour_(x.clone(), random_jitter(uniform, (1.0,) * 4, 0.8, 1))
    for image, order, result in zip(x, orders, ours, strict=True):
        for operation in order:
            if operation < 2:
                image = ADJUST[operation](image, (0.2 + 1.6 * 0.8, 0.2 + 1.6 * 0.2)[operation])
        torch.testing.assert_close(result, image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("turn", [-0.5, -0.2, -1 / 3, 0.0, 0.07, 0.2, 0.5])
def test_hue_equals_the_hexcone(turn):
    x = pictures(2)
    ours = turn_hue_(x.clone(), torch.full((2,), turn))
    for image, result in zip(x.double(), ours, strict=True):
        for pixel, turned in zip(image.flatten(1).T.tolist(), result.flatten(1).T, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            torch.testing.assert_close(turned, torch.tensor(expected), rtol=0, atol=2e-6)


def test_each_operation_at_its_neutral_amount_returns_the_image():
    x = pictures(4)
    neutral = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5]).expand(4, 9)
    torch.testing.assert_close(recolour_(x.clone(), random_jitter(neutral, (1.0,) * 4, 0.8, 3)), x, rtol=0, atol=2e-6)
    assert torch.equal(recolour_(x.clone(), no_colours(4, x.device)), x)


def test_samples_that_are_not_chosen_keep_their_colours():
    x = pictures(6)
    uniform = torch.rand(6, 9, generator=torch.Generator().manual_seed(0))
    uniform[:, 0] = torch.tensor([0.0, 0.79, 0.81, 0.99, 0.5, 0.9])
    changed = recolour_(x.clone(), random_jitter(uniform, (1.0,) * 4, 0.8, 3))
    differences = (changed - x).abs().amax((1, 2, 3))
    assert (differences[[0, 1, 4]] > 0.01).all()
    assert (differences[[2, 3, 5]] < 2e-6).all()


def test_factors_and_order_are_distributed_as_torchvision_draws_them():
    count = 4000
    strength = 0.7
    colours = random_jitter(torch.rand(count, 9, generator=torch.Generator().manual_seed(0)), (strength,) * 4, 1.0, 3)
    blends = colours.before.where(colours.before[..., :1] != 1, colours.after)
    brightness = blends[(blends[..., 1] == 0) & (blends[..., 2] == 0)][:, 0]
    contrast = blends[blends[..., 2] != 0]
    saturation = blends[blends[..., 1] != 0]
    assert len(brightness) == len(contrast) == len(saturation) == count
    torch.manual_seed(1)
    draw = v2.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    theirs = [draw.make_params([]) for _ in range(count)]
    assert torch.allclose(contrast[:, 0] + contrast[:, 2], torch.ones(count))
    assert torch.allclose(saturation[:, 0] + saturation[:, 1], torch.ones(count))
    samples = (brightness, contrast[:, 0], saturation[:, 0], colours.hue[:, 0])
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    for ours, name in zip(samples, names, strict=True):
        other = torch.tensor([float(parameters[name]) for parameters in theirs])
        points = torch.linspace(other.min(), other.max(), 50)
        gap = [(values[None, :] <= points[:, None]).float().mean(1) for values in (ours, other)]
        # The 0.1 % level of Kolmogorov and Smirnov.
        assert (gap[0] - gap[1]).abs().max() < 1.95 * math.sqrt(2 / count)


def test_every_order_is_as_frequent_as_any_other():
    count = 4800
    colours = random_jitter(torch.rand(count, 9, generator=torch.Generator().manual_seed(0)), (1.0,) * 4, 1.0, 3)
    before = (colours.before[..., 0] != 1).sum(1)
    blends = torch.where((colours.before[..., 0] != 1)[..., None], colours.before, colours.after)
    kind = torch.where(blends[..., 1] != 0, 2, torch.where(blends[..., 2] != 0, 1, 0))
    orders = torch.cat([kind, before[:, None]], 1)
    frequencies = orders.unique(dim=0, return_counts=True)[1]
    assert len(frequencies) == 24
    # Chi-square with 23 degrees of freedom, the 0.1 % level.
    assert ((frequencies - 200.0).square() / 200).sum() < 49.7


def test_gray_is_torchvisions():
    x = pictures(3)
    torch.testing.assert_close(gray(x), reference.rgb_to_grayscale(x), rtol=0, atol=1e-6)
    chosen = torch.tensor([True, False, True])
    colours = Colours(torch.empty(3, 0, 3), torch.empty(3, 0), grayscale(chosen))
    ours = recolour_(x.clone(), colours)
    torch.testing.assert_close(ours[chosen], reference.rgb_to_grayscale(x[chosen], 3), rtol=0, atol=1e-6)
    assert torch.equal(ours[1], x[1])


def test_results_stay_within_bounds():
    x = torch.cat([pictures(8), torch.zeros(1, 3, 9, 11), torch.ones(1, 3, 9, 11)])
    for seed in range(5):
        uniform = torch.rand(10, 9, generator=torch.Generator().manual_seed(seed)).mul(1.2).sub(0.1).clamp(0, 1)
        ours = recolour_(x.clone(), random_jitter(uniform, (2.5,) * 4, 1.0, 3))
        assert ours.isfinite().all()
        assert ours.min() >= 0
        assert ours.max() <= 1
