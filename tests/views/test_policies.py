"""The policies `retrieval` and `randaugment`, and the parts of `simclr` that are off by default."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.errors import RecipeError
from metriclab.testing import check_views
from metriclab.views.multi_crop import MultiCropViews
from metriclab.views.pixels import equalize_
from metriclab.views.plain import PlainViews
from metriclab.views.randaugment import OPERATIONS, RandAugmentViews
from metriclab.views.retrieval import RetrievalViews
from metriclab.views.simclr import SimCLRViews

OFF = {"min_area": 1.0, "flip": 0.0, "colour": 0.0, "grayscale": 0.0, "blur": 0.0}
SIDE = 24


def smooth(channels: int = 3, seed: int = 0) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 3, SIDE), torch.linspace(0, 3, SIDE), indexing="ij")
    phase = torch.rand(channels, 1, 1, generator=torch.Generator().manual_seed(seed)) * 6
    return ((torch.sin(x + y * phase) + torch.cos(x * y + phase) + 2) * 63).to(torch.uint8)


def copies(image: torch.Tensor, n: int) -> tuple[Images, RandomKeys]:
    images = Images(image.expand(n, -1, -1, -1), torch.tensor([image.shape[1:]]).expand(n, 2))
    return images, RandomKeys(0, 0, torch.arange(n), torch.zeros(n, dtype=torch.int64))


def by_name(name: str, image: torch.Tensor, share: float, sign: float) -> torch.Tensor:
    """One operation of RandAugment, as torchvision's `_apply_image_or_video_transform` applies it to one image."""
    affine = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    bilinear = {"interpolation": InterpolationMode.BILINEAR}
    lean = math.degrees(math.atan(0.3 * share * sign))
    moved = 150 / 331 * SIDE * share * sign
    match name:
        case "shear-x":
            return reference.affine(image, **{**affine, "shear": [lean, 0.0]}, **bilinear, center=[0, 0])
        case "shear-y":
            return reference.affine(image, **{**affine, "shear": [0.0, lean]}, **bilinear, center=[0, 0])
        case "translate-x":
            return reference.affine(image, **{**affine, "translate": [moved, 0]}, **bilinear)
        case "translate-y":
            return reference.affine(image, **{**affine, "translate": [0, moved]}, **bilinear)
        case "rotate":
            return reference.rotate(image, 30 * share * sign, **bilinear)
        case "brightness":
            return reference.adjust_brightness(image, 1 + 0.9 * share * sign)
        case "colour":
            return reference.adjust_saturation(image, 1 + 0.9 * share * sign)
        case "contrast":
            return reference.adjust_contrast(image, 1 + 0.9 * share * sign)
        case "sharpness":
            return reference.adjust_sharpness(image, 1 + 0.9 * share * sign)
        case "posterize":
            return reference.posterize((image * 255 + 1e-3).to(torch.uint8), 8 - round(4 * share)) / 255
        case "solarize":
            return reference.solarize(image, 1 - share)
        case "autocontrast":
            return reference.autocontrast(image)
        case "equalize":
            return equalize_(image[None].clone(), torch.tensor([True]))[0]  # which has a reference of its own
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [9.0, 25.0])
def test_randaugment_is_its_operations_one_after_the_other(channels, magnitude):
    """Of which those on geometry come first, and are compared away from what lies outside."""
    n, image = 150, smooth(channels)
    images, keys = copies(image, n)
    views = RandAugmentViews(size=SIDE, operations=2, magnitude=magnitude, min_area=1.0, flip=0.0)
    (made,) = views(images, keys)
    drawn = keys.uniform(0, 1, 4)
    seen = set()
    for row, result in enumerate(made):
        pairs = [(OPERATIONS[int(drawn[row, at] * 14)], -1.0 if drawn[row, 2 + at] < 0.5 else 1.0) for at in (0, 1)]
        geometric = [pair for pair in pairs if pair[0] in OPERATIONS[1:6]]
        ordered = geometric + [pair for pair in pairs if pair not in geometric]
        expected, inside = image / 255, torch.ones(channels, SIDE, SIDE)
        for name, sign in ordered:
            expected = by_name(name, expected, magnitude / 30, sign)
            inside = by_name(name, inside, magnitude / 30, sign) if (name, sign) in geometric else inside
        names = {name for name, _ in pairs}
        if geometric and (len(geometric) > 1 or names & {"contrast", "autocontrast", "equalize", "sharpness"}):
            continue  # two resamplings beside one; or what hangs on pixels that come in from outside
        kept = (inside > 0.999).all(0)
        difference = (result - expected)[:, kept].abs()
        # A value between two bytes may be rounded, or inverted, on the other side.
        steps = names & {"posterize", "solarize"}
        assert difference.max() < 5e-4 or (steps and (difference > 5e-4).float().mean() < 0.05), pairs
        seen |= names
    assert seen == set(OPERATIONS)


def test_operations_of_randaugment_are_drawn_evenly():
    count = 7000
    drawn = RandomKeys(0, 0, torch.arange(count), torch.zeros(count, dtype=torch.int64)).uniform(0, 1, 4)
    for column in (0, 1):
        frequencies = (drawn[:, column] * len(OPERATIONS)).long().bincount(minlength=len(OPERATIONS))
        # Chi-square with 13 degrees of freedom, the 0.1 % level.
        assert ((frequencies - count / 14).square() / (count / 14)).sum() < 34.6


def test_randaugment_without_a_magnitude_leaves_all_but_the_statistics():
    images, keys = copies(smooth(), 40)
    (made,) = RandAugmentViews(size=SIDE, operations=1, magnitude=0.0, min_area=1.0, flip=0.0)(images, keys)
    changed = (made - images.pixels / 255).abs().amax((1, 2, 3)) > 1e-5
    drawn = (keys.uniform(0, 1, 2)[:, 0] * 14).long()
    names = {OPERATIONS[place] for place in drawn[changed].tolist()}
    assert names <= {"autocontrast", "equalize", "solarize"}  # solarising inverts values of 1


def test_retrieval_views_are_those_of_simclr_without_colours():
    images, keys = copies(smooth(), 30)
    (made,) = RetrievalViews(size=16)(images, keys)
    (same, _) = SimCLRViews(size=16, min_area=0.5, colour=0.0, grayscale=0.0, blur=0.0)(images, keys)
    assert torch.equal(made, same)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_geometry_blur_and_erasing_take_any_channels(channels):
    apart = {"colour": 0.0, "grayscale": 0.0}
    everything = {"rotation": 9.0, "shear": 9.0, "perspective": 0.3, "solarize": 0.5, "erase": 0.5}
    check_views(SimCLRViews(**apart, **everything, equalize=0.5), channels=(channels,))
    check_views(MultiCropViews(**apart), channels=(channels,))
    check_views(RetrievalViews(erase=0.5), channels=(channels,))
    check_views(PlainViews(), channels=(channels,))


@pytest.mark.parametrize(
    ("views", "key"),
    [
        (SimCLRViews(), "colour"),
        (SimCLRViews(colour=0.0), "grayscale"),
        (MultiCropViews(), "colour"),
    ],
)
def test_colours_of_other_channels_are_refused(views, key):
    with pytest.raises(RecipeError) as caught:
        views(*copies(smooth(4), 2))
    assert str(caught.value) == (
        f"{key} of the views is about grey images and those of three channels, and these have 4\n"
        "  help: set colour = 0.0 and grayscale = 0.0, or take views 'retrieval': geometry, blur and erasing take any "
        "channels"
    )


def test_randaugment_of_other_channels_is_refused():
    with pytest.raises(RecipeError) as caught:
        RandAugmentViews()(*copies(smooth(4), 2))
    assert str(caught.value) == (
        "views 'randaugment' are of images of one channel or three, and these have 4\n"
        "  help: take views 'retrieval', or 'simclr' with colour = 0.0 and grayscale = 0.0"
    )


@pytest.mark.parametrize("part", ["posterize", "equalize", "erase"])
def test_a_part_happens_as_often_as_asked(part):
    n = 800
    images, keys = copies(smooth(), n)
    (view,) = SimCLRViews(count=1, size=SIDE, **{**OFF, part: 0.3})(images, keys)
    changed = ((view - images.pixels / 255).abs().amax((1, 2, 3)) > 1e-5).float().mean().item()
    assert abs(changed - 0.3) < 4 * (0.21 / n) ** 0.5


def test_parts_that_are_off_leave_the_others_as_they_were():
    images, keys = copies(smooth(), 6)
    alone = SimCLRViews(size=SIDE)(images, keys)
    beside = SimCLRViews(size=SIDE, posterize=1e-9, equalize=1e-9, erase=1e-9)(images, keys)
    for one, other in zip(alone, beside, strict=True):
        assert torch.equal(one, other)


def test_shear_and_perspective_stay_within_their_bounds():
    """A ramp across and one down tell where each pixel is from."""
    ramp = torch.arange(101, dtype=torch.uint8).mul(2).expand(101, 101)
    images, keys = copies(torch.stack([ramp, ramp.T]), 300)
    (leaning,) = SimCLRViews(count=1, size=101, **{**OFF, "shear": 10.0})(images, keys)
    middle = slice(40, 61)
    lean = (leaning[:, 0, 60, 50] - leaning[:, 0, 40, 50]) * 255 / 2 / 20
    assert lean.abs().max() <= math.tan(math.radians(10)) + 1e-3
    assert lean.min() < -0.15 < 0.15 < lean.max()
    assert (leaning[:, 1, middle, middle] - leaning[:, 1, middle, 50:51]).abs().max() < 1e-4
    (far,) = SimCLRViews(count=1, size=101, **{**OFF, "perspective": 0.4})(images, keys)
    assert (far[:, :, 50, 50] * 255 / 2 - 50).abs().max() < 0.4 * 50
    assert far[:, 0, 50, 60].std() > 0.001


def test_an_aspect_shows_in_the_crops():
    ramp = torch.arange(101, dtype=torch.uint8).mul(2).expand(101, 101)
    images, keys = copies(torch.stack([ramp, ramp.T]), 400)
    settings = {**OFF, "min_area": 0.2, "aspect": (0.5, 1.0)}
    (view,) = SimCLRViews(count=1, size=20, **settings, max_area=0.3)(images, keys)
    width, height = view[:, 0, 10, 15] - view[:, 0, 10, 5], view[:, 1, 15, 10] - view[:, 1, 5, 10]
    aspect = width / height
    assert 0.48 < aspect.min() < 0.53
    assert 0.95 < aspect.max() < 1.05


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: SimCLRViews(aspect=(2.0, 1.0)),
            "views 'simclr': aspect[0] = 2.0 is above aspect[1] = 1.0\n  help: set aspect[0] to at most 1.0",
        ),
        (
            lambda: SimCLRViews(second={"aspect": [2.0, 1.0]}),
            "views 'simclr': second's aspect[0] = 2.0 is above aspect[1] = 1.0\n"
            "  help: set second's aspect[0] to at most 1.0",
        ),
        (
            lambda: RetrievalViews(min_area=0.5, max_area=0.4),
            "views 'retrieval': min_area = 0.5 is above max_area = 0.4\n  help: set min_area to at most 0.4",
        ),
    ],
)
def test_crossed_bounds_are_refused(make, text):
    with pytest.raises(RecipeError) as caught:
        make()
    assert str(caught.value) == text


def test_views_say_where_they_have_steps():
    assert RandAugmentViews.has_steps
    assert [SimCLRViews(posterize=share).has_steps for share in (0.0, 0.5)] == [False, True]
    assert SimCLRViews(second={"posterize": 0.5}).has_steps


class OnePixelByPadding(SimCLRViews):
    """One value of each view goes by how far images are padded."""

    def __call__(self, images, random_keys):
        views = super().__call__(images, random_keys)
        for view in views:
            view[:, 0, 0, 0] = images.pixels.shape[3] / 1000
        return views


def test_one_pixel_is_let_pass_where_there_are_steps_alone():
    with pytest.raises(AssertionError, match="depends on how far images are padded"):
        check_views(OnePixelByPadding())
    check_views(OnePixelByPadding(posterize=0.01))
