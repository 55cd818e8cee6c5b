from __future__ import annotations

import pytest
import torch

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.errors import RecipeError
from metriclab.views.multi_crop import MultiCropViews
from metriclab.views.simclr import SimCLRViews

EVERYTHING = {"rotation": 15.0, "solarize": 0.3, "flip": 0.4, "colour": 0.8, "grayscale": 0.3, "blur": 0.6}
NOTHING = {"flip": 0.0, "colour": 0.0, "grayscale": 0.0, "blur": 0.0}


def images(n: int, channels: int = 3, side: int = 40) -> Images:
    """Images of different sizes, 3/4 of `side` to `side`."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(3 * side // 4, side + 1, (n, 2), generator=generator))


def random_keys(items: torch.Tensor) -> RandomKeys:
    return RandomKeys(1, 2, items, torch.zeros_like(items))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "small_count"), [(1, 1), (2, 4), (3, 2)])
def test_large_views_come_first_and_all_are_floats_in_the_unit_range(channels, count, small_count):
    views = MultiCropViews(count=count, size=24, small_count=small_count, small_size=10, **EVERYTHING)
    result = views(images(7, channels), random_keys(torch.arange(7)))
    assert views.count == len(result) == count + small_count
    assert [view.shape[2:] for view in result] == [(24, 24)] * count + [(10, 10)] * small_count
    for view in result:
        assert view.shape[:2] == (7, channels)
        assert view.dtype == torch.float32
        assert 0 <= view.min() <= view.max() <= 1


@pytest.mark.parametrize("side", [20, 40, 100])  # enlarged, as it is, and shrunk by levels of the pyramid
def test_a_large_view_is_that_of_simclr_to_the_bit(side):
    some, keys = images(9, side=side), random_keys(torch.arange(9))
    result = MultiCropViews(count=3, size=24, small_count=2, min_area=0.2, max_area=0.9, **EVERYTHING)(some, keys)
    alone = SimCLRViews(count=3, size=24, min_area=0.2, max_area=0.9, **EVERYTHING)(some, keys)
    assert all(torch.equal(a, b) for a, b in zip(result[:3], alone, strict=True))


def test_a_small_view_is_that_of_simclr_with_its_size_and_areas():
    some, keys = images(9), random_keys(torch.arange(9))
    small = {"small_count": 2, "small_size": 12, "small_min_area": 0.1, "small_max_area": 0.3}
    result = MultiCropViews(count=1, **small, **EVERYTHING)(some, keys)
    alone = SimCLRViews(count=3, size=12, min_area=0.1, max_area=0.3, **EVERYTHING)(some, keys)
    assert all(torch.equal(a, b) for a, b in zip(result[1:], alone[1:], strict=True))


def test_more_small_views_leave_the_others_as_they_were():
    some, keys = images(5), random_keys(torch.arange(5))
    few, many = (MultiCropViews(small_count=count, **EVERYTHING)(some, keys) for count in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))


def test_a_sample_does_not_depend_on_its_batch():
    views, some, items = MultiCropViews(size=24, **EVERYTHING), images(12), torch.arange(100, 112)
    whole = views(some, random_keys(items))
    index = torch.tensor([7, 2, 11])
    for a, b in zip(
        whole, views(Images(some.pixels[index], some.sizes[index]), random_keys(items[index])), strict=True
    ):
        torch.testing.assert_close(a[index], b, rtol=0, atol=1e-6)


def test_views_of_one_size_differ():
    large, other, *small = MultiCropViews(count=2, small_count=3)(images(1), random_keys(torch.arange(1)))
    assert (large - other).abs().max() > 0.1
    assert all((a - b).abs().max() > 0.1 for i, a in enumerate(small) for b in small[:i])


def test_a_small_view_shows_a_share_of_the_area_within_its_bounds():
    # A ramp along each side: the width and the height of a crop can be read off its view.
    ramp = (torch.arange(200) + 20).to(torch.uint8)
    pixels = torch.stack([ramp.expand(200, 200), ramp[:, None].expand(200, 200), ramp.expand(200, 200)])
    some = Images(pixels.expand(300, -1, -1, -1), torch.full((300, 2), 200))
    views = MultiCropViews(count=1, small_count=1, small_size=20, small_min_area=0.1, small_max_area=0.2, **NOTHING)
    _, small = views(some, random_keys(torch.arange(300)))
    values = small * 255 * 20 / 19  # 20 pixels span 19 steps
    width = values[:, 0, :, -1].mean(1) - values[:, 0, :, 0].mean(1)
    height = values[:, 1, -1].mean(1) - values[:, 1, 0].mean(1)
    area = width * height / 200**2
    assert 0.09 < area.min() < 0.11
    assert 0.19 < area.max() < 0.21


def test_the_test_view_is_a_large_one():
    some = images(5)
    assert torch.equal(MultiCropViews(size=20).test(some), SimCLRViews(size=20).test(some))


def test_an_empty_batch_gives_empty_views():
    empty = Images(torch.zeros(0, 3, 20, 20, dtype=torch.uint8), torch.zeros(0, 2, dtype=torch.int64))
    sizes = [
        tuple(view.shape)
        for view in MultiCropViews(size=16, small_count=1, small_size=8)(empty, random_keys(empty.sizes[:, 0]))
    ]
    assert sizes == [(0, 3, 16, 16), (0, 3, 16, 16), (0, 3, 8, 8)]


def test_crossed_areas_are_refused_by_the_key():
    with pytest.raises(RecipeError) as large:
        MultiCropViews(min_area=0.5, max_area=0.3)
    with pytest.raises(RecipeError) as small:
        MultiCropViews(small_min_area=0.5)
    assert str(large.value) == (
        "views 'multi-crop': min_area = 0.5 is above max_area = 0.3\n  help: set min_area to at most 0.3"
    )
    assert str(small.value) == (
        "views 'multi-crop': small_min_area = 0.5 is above small_max_area = 0.14\n"
        "  help: set small_min_area to at most 0.14"
    )
