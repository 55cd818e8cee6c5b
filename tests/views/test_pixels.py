"""Operations on pixels beside torchvision's on one image at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from metriclab.views.pixels import (
    autocontrast_,
    equalize_,
    erase_,
    erased_boxes,
    posterize_,
    sharpen_,
    solarize_,
)


def pictures(n: int = 6, channels: int = 3, height: int = 13, width: int = 17) -> torch.Tensor:
    """Bytes: an even channel and one of two values among them, dark, light and all of the range."""
    x = torch.randint(0, 256, (n, channels, height, width), generator=torch.Generator().manual_seed(n))
    x[0, 0], x[1, 0] = 77, x[1, 0] // 200 * 90
    x[2:4] = 60 + x[2:4] // 3
    return x.to(torch.uint8)


CHOSEN = torch.tensor([True, True, True, True, False, True])
OPERATIONS = {
    "posterize": (posterize_, torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0, 7.0]), reference.posterize, int),
    "solarize": (solarize_, torch.tensor([0.0, 51.0, 128.0, 200.0, 510.0, 255.0]) / 255, reference.solarize, 255),
    "autocontrast": (autocontrast_, CHOSEN, reference.autocontrast, None),
    "sharpness": (sharpen_, torch.tensor([0.0, 0.4, 1.7, 2.0, 1.0, 0.9]), reference.adjust_sharpness, float),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_sample_is_changed_as_torchvision_changes_one_image(name, channels):
    ours_, by, theirs, kind = OPERATIONS[name]
    x = pictures(channels=channels)
    made = ours_(x / 255, by)
    for row, (image, number, result) in enumerate(zip(x, by.tolist(), made, strict=True)):
        if row == 4:
            assert torch.equal(result, image / 255)  # to the bit: nothing is done to it
            continue
        given = [] if kind is None else [number * 255 if kind == 255 else kind(number)]
        # Of bytes torchvision rounds these two down to bytes.
        as_floats = name in ("autocontrast", "sharpness")
        expected = theirs(image / 255, *given) if as_floats else theirs(image, *given) / 255
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_number_of_channels_each_by_itself(name):
    ours_, by, *_ = OPERATIONS[name]
    x = pictures(channels=5) / 255
    together = ours_(x.clone(), by)
    for channel in range(5):
        alone = ours_(x[:, channel : channel + 1].clone(), by)
        torch.testing.assert_close(together[:, channel : channel + 1], alone, rtol=0, atol=1e-6)
    assert 0 <= together.min() <= together.max() <= 1


def test_equalised_values_are_shares_of_the_pixels_below():
    x = pictures(height=40, width=30)
    made = equalize_(x / 255, CHOSEN)
    for row, (image, result) in enumerate(zip(x, made, strict=True)):
        for channel, found in zip(image, result, strict=True):
            values = channel.flatten().tolist()
            others = len(values) - values.count(max(values))
            expected = [sum(other < value for other in values) / others if others else 0.0 for value in values]
            expected = torch.tensor(expected).view_as(channel)
            kept = row == 4 or others < 255
            torch.testing.assert_close(found, channel / 255 if kept else expected, rtol=0, atol=1e-5)


def test_equalising_is_pillows_but_for_its_rounding_of_counts():
    x = pictures(2, height=200, width=220)
    for image, result in zip(x, equalize_(x / 255, torch.tensor([True, True])), strict=True):
        # A count for a byte, 172 of 172.5 at most, and half of it as the first.
        assert (result - reference.equalize(image) / 255).abs().max() < 0.01


def test_equalising_is_continuous():
    """What lies between two bytes counts for both, so that a rounding of values moves none of them far."""
    x = torch.rand(2, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    both = torch.tensor([True, True])
    noisy = (x + 1e-5 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert (equalize_(x.clone(), both) - equalize_(noisy, both)).abs().max() < 1e-3


@pytest.mark.parametrize(("height", "width"), [(1, 9), (2, 2), (9, 2)])
def test_views_of_a_border_alone_are_as_sharp_as_they_were(height, width):
    x = pictures(height=height, width=width) / 255
    assert torch.equal(sharpen_(x.clone(), torch.full((6,), 2.0)), x)


def test_what_is_erased_is_filled_with_the_mean():
    x = pictures() / 255
    boxes = torch.tensor([[2, 3, 4, 5], [0, 0, 1, 1], [9, 12, 4, 5], [0, 0, 12, 16], [3, 3, 0, 0], [12, 16, 1, 1]])
    made = erase_(x.clone(), boxes.float())
    for image, box, result in zip(x, boxes.tolist(), made, strict=True):
        mean = image.mean((1, 2), keepdim=True)
        expected = reference.erase(image, *box, mean) if box[2] else image
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_boxes_are_distributed_as_torchvision_draws_them():
    count, size = 3000, (40, 64)
    uniform = torch.rand(count, 22, generator=torch.Generator().manual_seed(0))
    ours = erased_boxes(uniform, torch.ones(count, dtype=torch.bool), size)
    draw = v2.RandomErasing(p=1.0, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = [draw.make_params([torch.empty(3, *size)]) for _ in range(count)]
    theirs = torch.tensor([[p["i"], p["j"], p["h"], p["w"]] for p in drawn]).float()
    for sample in (ours, theirs):
        assert (sample[:, 0] + sample[:, 2] <= size[0]).all()
        assert (sample[:, 1] + sample[:, 3] <= size[1]).all()
    for ours_of, theirs_of in zip((*ours.T, ours[:, 2:].prod(1)), (*theirs.T, theirs[:, 2:].prod(1)), strict=True):
        values = torch.cat([ours_of, theirs_of]).sort().values
        below = [torch.searchsorted(of.sort().values, values, right=True) / count for of in (ours_of, theirs_of)]
        # Kolmogorov and Smirnov, the 0.1 % level.
        assert (below[0] - below[1]).abs().max() < 1.95 * math.sqrt(2 / count)


def test_boxes_of_those_that_are_not_chosen_have_no_area():
    chosen = torch.arange(20) % 2 == 0
    boxes = erased_boxes(torch.rand(20, 22, generator=torch.Generator().manual_seed(0)), chosen, 32)
    assert torch.equal(boxes[:, 2:].prod(1) > 0, chosen)
