from __future__ import annotations

import dataclasses

import pytest
import torch

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.errors import RecipeError
from metriclab.testing import check_views
from metriclab.views.plain import PlainViews
from metriclab.views.simclr import SimCLRViews

EVERYTHING = {"rotation": 15.0, "solarize": 0.3}
NOTHING = {"min_area": 1.0, "flip": 0.0, "colour": 0.0, "grayscale": 0.0, "blur": 0.0}


def images(n: int, channels: int = 3, side: int = 40, seed: int = 0) -> Images:
    """Images of different sizes, 3/4 of `side` to `side`, padded with noise that must not be seen."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(3 * side // 4, side + 1, (n, 2), generator=generator))


def random_keys(items: torch.Tensor, **changes: int) -> RandomKeys:
    values = {"seed": 1, "epoch": 2, **changes}
    return RandomKeys(values["seed"], values["epoch"], items, torch.full_like(items, values.get("repeats", 0)))


def pick(some: Images, index: torch.Tensor) -> Images:
    return Images(some.pixels[index], some.sizes[index])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 32, 50])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_views_are_floats_in_the_unit_range(channels, size, count):
    views = SimCLRViews(count=count, size=size, **EVERYTHING)
    result = views(images(9, channels), random_keys(torch.arange(9)))
    assert views.count == len(result) == count
    for view in (*result, views.test(images(9, channels))):
        assert view.shape == (9, channels, size, size)
        assert view.dtype == torch.float32
        assert view.isfinite().all()
        assert view.min() >= 0
        assert view.max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_does_not_depend_on_its_batch(channels):
    views = SimCLRViews(size=24, **EVERYTHING)
    some, items = images(12, channels), torch.arange(100, 112)
    whole = views(some, random_keys(items))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = views(pick(some, order), random_keys(items[order]))
    for a, b in zip(whole, shuffled, strict=True):
        torch.testing.assert_close(a[order], b, rtol=0, atol=1e-6)
    for row in (0, 5, 11):
        alone = views(pick(some, torch.tensor([row])), random_keys(items[[row]]))
        for a, b in zip(whole, alone, strict=True):
            # One that is too small for another level is seen without it, which rounds coordinates differently.
            torch.testing.assert_close(a[[row]], b, rtol=0, atol=1e-5)


def test_padding_and_portions_do_not_matter(monkeypatch):
    views = SimCLRViews(size=24, **EVERYTHING)
    some, items = images(6, side=45), torch.arange(6)
    whole = views(some, random_keys(items))
    for row, (height, width) in enumerate(some.sizes.tolist()):
        alone = Images(some.pixels[[row], :, :height, :width], some.sizes[[row]])
        for a, b in zip(whole, views(alone, random_keys(items[[row]])), strict=True):
            # Another width rounds coordinates differently, which white noise magnifies most.
            torch.testing.assert_close(a[[row]], b, rtol=0, atol=1e-4)
    monkeypatch.setattr("metriclab.views.augmentation.portions", lambda some, size: [slice(0, 4), slice(4, 8)])
    for a, b in zip(whole, views(some, random_keys(items)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_same_keys_give_the_same_views():
    views = SimCLRViews(**EVERYTHING)
    first, again = (views(images(5), random_keys(torch.arange(5))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_every_part_of_the_key_changes_every_view():
    views = SimCLRViews(**EVERYTHING)
    some = images(1)
    same = Images(some.pixels.expand(4, -1, -1, -1), some.sizes.expand(4, -1))
    base = random_keys(torch.arange(4))
    results = [*views(same, base)]
    twice = torch.ones(4, dtype=torch.int64)
    changes = ({"seed": 2}, {"epoch": 3}, {"items": torch.arange(4) + 10}, {"repeats": twice})
    for change in changes:
        results += views(same, dataclasses.replace(base, **change))
    seen = torch.cat(results).flatten(1)
    assert torch.cdist(seen, seen).add(torch.eye(len(seen)) * 9).min() > 0.1


def test_switching_one_part_off_leaves_the_others_as_they_were():
    some, items = images(6), random_keys(torch.arange(6))
    with_blur = SimCLRViews(blur=1e-9)(some, items)
    without = SimCLRViews(blur=0.0)(some, items)
    for a, b in zip(with_blur, without, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_switched_on_gives_the_image_back(channels):
    pixels = images(4, channels, side=32).pixels
    some = Images(pixels, torch.full((4, 2), 32))
    for view in SimCLRViews(**NOTHING)(some, random_keys(torch.arange(4))):
        torch.testing.assert_close(view, pixels / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("part", ["flip", "grayscale", "blur", "solarize"])
def test_a_part_happens_as_often_as_asked(part):
    n = 600
    pixels = images(1, side=8).pixels.expand(n, -1, -1, -1)
    some = Images(pixels, torch.full((n, 2), 8))
    (view,) = SimCLRViews(count=1, size=8, **{**NOTHING, part: 0.3})(some, random_keys(torch.arange(n)))
    changed = ((view - pixels / 255).abs().amax((1, 2, 3)) > 1e-5).float().mean().item()
    # A blur with a sigma near its lower bound is too weak to be seen.
    weak = 0.06 if part == "blur" else 0.0
    assert 0.3 - weak - 4 * (0.21 / n) ** 0.5 < changed < 0.3 + 4 * (0.21 / n) ** 0.5


def test_constant_images_stay_constant_under_geometry():
    pixels = torch.full((20, 1, 50, 50), 200, dtype=torch.uint8)
    some = Images(pixels, images(20, side=50).sizes)
    for view in SimCLRViews(size=20, rotation=45.0, colour=0.0)(some, random_keys(torch.arange(20))):
        torch.testing.assert_close(view, torch.full_like(view, 200 / 255), rtol=0, atol=1e-5)


def test_the_test_view_is_deterministic_and_plain():
    some = images(5)
    assert torch.equal(SimCLRViews(size=20).test(some), PlainViews(size=20).test(some))


def test_plain_views_are_the_test_view():
    views = PlainViews(size=20, count=3)
    some = images(5)
    result = views(some, random_keys(torch.arange(5)))
    assert len(result) == views.count == 3
    assert all(torch.equal(view, views.test(some)) for view in result)


def test_a_view_has_no_gradient_and_is_not_an_inference_tensor():
    (view, _) = SimCLRViews()(images(2), random_keys(torch.arange(2)))
    assert not view.requires_grad
    assert not view.is_inference()


def test_autocast_changes_nothing():
    views, some = SimCLRViews(size=24, **EVERYTHING), images(4)
    plain = views(some, random_keys(torch.arange(4)))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = views(some, random_keys(torch.arange(4)))
    assert all(torch.equal(a, b) for a, b in zip(plain, under_autocast, strict=True))


def test_an_empty_batch_gives_empty_views():
    empty = Images(torch.zeros(0, 3, 20, 20, dtype=torch.uint8), torch.zeros(0, 2, dtype=torch.int64))
    for view in SimCLRViews(size=16)(empty, random_keys(torch.arange(0))):
        assert view.shape == (0, 3, 16, 16)


def test_crossed_areas_are_refused():
    with pytest.raises(RecipeError) as error:
        SimCLRViews(min_area=0.5, max_area=0.3)
    assert str(error.value) == (
        "views 'simclr': min_area = 0.5 is above max_area = 0.3\n  help: set min_area to at most 0.3"
    )


# BYOL's two views: byol/utils/augmentations.py of google-deepmind/deepmind-research, commit 923ad3c.
OF_BYOL = {"colour": [0.4, 0.4, 0.2, 0.1], "blur": 1.0}
SECOND = {"blur": 0.1, "solarize": 0.2}


def test_the_second_view_has_settings_of_its_own_and_all_else_of_the_table():
    some, keys = images(9), random_keys(torch.arange(9))
    asymmetric = SimCLRViews(count=3, **OF_BYOL, second=SECOND)
    first, second, third = asymmetric(some, keys)
    as_first, as_second = (SimCLRViews(count=3, **{**OF_BYOL, **more})(some, keys) for more in ({}, SECOND))
    assert torch.equal(first, as_first[0])
    assert torch.equal(second, as_second[1])
    assert torch.equal(third, as_first[2])
    assert not torch.equal(second, as_first[1])
    assert torch.equal(asymmetric.test(some), SimCLRViews().test(some))
    every = {"min_area": 0.5, "max_area": 0.6, "flip": 1.0, "rotation": 9.0, "colour": 0.0, "grayscale": 1.0}
    assert torch.equal(SimCLRViews(second=every)(some, keys)[1], SimCLRViews(**every)(some, keys)[1])


def test_views_with_settings_of_their_own_keep_what_views_keep():
    check_views(SimCLRViews(**OF_BYOL, second=SECOND))


def test_byols_views_are_solarized_and_blurred_as_often_as_in_its_code():
    n = 600
    pixels = images(1, side=8).pixels
    some, keys = Images(pixels.expand(n, -1, -1, -1), torch.full((n, 2), 8)), random_keys(torch.arange(n))
    for part, shares in {"blur": (1.0, 0.1), "solarize": (0.0, 0.2)}.items():
        of_table = {**NOTHING, part: {**OF_BYOL, "solarize": 0.0}[part], "second": {part: SECOND[part]}}
        for view, share in zip(SimCLRViews(size=8, **of_table)(some, keys), shares, strict=True):
            changed = ((view - pixels / 255).abs().amax((1, 2, 3)) > 1e-5).float().mean().item()
            weak = 0.1 * share if part == "blur" else 0.0  # a sigma near its lower bound is too weak to be seen
            noise = 4 * (share * (1 - share) / n) ** 0.5
            assert share - weak - noise - 1e-9 <= changed <= share + noise


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"second": {"blurr": 0.1}}, ValueError, "second of views 'simclr' has no key 'blurr'\n  help: did you mean"),
        ({"second": {"size": 8}}, ValueError, "second of views 'simclr' has no key 'size'\n  help: leave it out: "),
        (
            {"second": {"blur": 2}},
            ValueError,
            "blur of views 'simclr' must be float >= 0 and <= 1, not 2\n  help: ",
        ),
        ({"colour": [0.4, 0.4, 0.2]}, ValueError, "colour of views 'simclr' must be float >= 0 and <= 2.5 | tuple["),
        ({"colour": [0.4, 0.4, 0.2, 0.6]}, ValueError, "float >= 0 and <= 0.5], not [0.4, 0.4, 0.2, 0.6]"),
        (
            {"second": {"max_area": 0.05}},
            RecipeError,
            "views 'simclr': second's min_area = 0.08 is above max_area = 0.05\n  help: set second's min_area",
        ),
        (
            {"count": 1, "second": SECOND},
            RecipeError,
            "views 'simclr' make one view of an image, and `second` is about another\n  help: set views.count = 2",
        ),
    ],
)
def test_what_no_second_view_can_be_is_refused(settings, error, text):
    with pytest.raises(error) as caught:
        SimCLRViews(**settings)
    assert text in str(caught.value)
