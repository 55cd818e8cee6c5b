"""Views by torchvision's transforms beside the same transforms applied by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.errors import RecipeError
from metriclab.recipe import read_recipe
from metriclab.testing import check_views
from metriclab.views.torchvision import TorchvisionViews
from metriclab.views.torchvision_transforms import REFUSED, make, names, problems
from tests.support.tiny import tiny

CROP = {"name": "RandomResizedCrop", "size": 16, "scale": [0.2, 1.0]}
COLOURS = {"name": "RandomApply", "p": 0.7, "transforms": [{"name": "ColorJitter", "brightness": 0.4, "hue": 0.1}]}
CHOICE = {
    "name": "RandomChoice",
    "transforms": [{"name": "RandomPosterize", "bits": 3, "p": 1.0}, {"name": "RandomEqualize", "p": 1.0}],
    "p": [0.3, 0.7],
}


def images(n: int, channels: int = 3) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, 30, 40), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(20, 31, (n, 2), generator=generator))


def random_keys(n: int) -> RandomKeys:
    return RandomKeys(3, 1, torch.arange(n) + 7, torch.arange(n) % 2)


def by_hand(chain, some: Images, keys: RandomKeys, view: int) -> torch.Tensor:
    """From the seeds as documented: the upper 16 bits of two uniform numbers."""
    made = []
    for row, (height, width) in enumerate(some.sizes.tolist()):
        first, second = (int(value * 65536) for value in keys.uniform(view, 0, 2)[row].tolist())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(first * 65536 + second)
            made.append(chain(some.pixels[row, :, :height, :width]) / 255)
    return torch.stack(made)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_those_transforms_with_seeds_of_each_image(channels):
    some, keys = images(5, channels), random_keys(5)
    views = TorchvisionViews(transforms=[CROP, COLOURS, CHOICE], second={"transforms": [CROP]}, count=3)
    first = v2.Compose(
        [
            v2.RandomResizedCrop(16, scale=(0.2, 1.0)),
            v2.RandomApply([v2.ColorJitter(brightness=0.4, hue=0.1)], p=0.7),
            v2.RandomChoice([v2.RandomPosterize(3, p=1.0), v2.RandomEqualize(p=1.0)], p=[0.3, 0.7]),
        ]
    )
    second = v2.RandomResizedCrop(16, scale=(0.2, 1.0))
    for view, (made, chain) in enumerate(zip(views(some, keys), (first, second, first), strict=True)):
        assert torch.equal(made, by_hand(chain, some, keys, view))


def test_they_keep_what_views_keep():
    check_views(TorchvisionViews(transforms=[CROP, COLOURS, CHOICE, {"name": "TrivialAugmentWide"}]))
    drawn_on_pixels = [CROP, {"name": "ToDtype", "dtype": "float32", "scale": True}, {"name": "GaussianNoise"}]
    check_views(TorchvisionViews(transforms=drawn_on_pixels, size=[24, 12], fit="pad"))


def test_the_test_view_has_the_size_of_the_training_views_or_its_own():
    some = images(2)
    assert TorchvisionViews(transforms=[CROP]).test(some).shape == (2, 3, 16, 16)
    assert TorchvisionViews(transforms=[CROP], size=(9, 12)).test(some).shape == (2, 3, 9, 12)


def test_every_transform_of_images_can_be_named():
    """And is made of its required parameters and every default that it says it has."""
    needed = {
        "CenterCrop": {"size": 8},
        "Resize": {"size": [8, 8]},
        "RandomResizedCrop": {"size": 8},
        "RandomCrop": {"size": 8},
        "GaussianBlur": {"kernel_size": 3},
        "JPEG": {"quality": 50},
        "Pad": {"padding": 1},
        "RandomAffine": {"degrees": 5, "shear": [1.0, 2.0], "interpolation": "bilinear"},
        "RandomRotation": {"degrees": 5},
        "RandomAdjustSharpness": {"sharpness_factor": 2},
        "RandomPosterize": {"bits": 3},
        "RandomSolarize": {"threshold": 128},
        "RandomResize": {"min_size": 8, "max_size": 9},
        "RandomShortestSize": {"min_size": 8},
        "ScaleJitter": {"target_size": [8, 8]},
        "ToDtype": {"dtype": "float32"},
    }
    nested = {name: {"transforms": [{"name": "Identity"}]} for name in ("Compose", "RandomApply", "RandomOrder")}
    nested["RandomChoice"] = nested["Compose"]
    for name in names():
        table = {"name": name, **{**needed, **nested}.get(name, {})}
        assert not list(problems([table])), name
        assert isinstance(make(table), getattr(v2, name))
    assert not set(names()) & set(REFUSED)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"transforms": [{"name": "Resize", "size": 20}]},
            "views.transforms give images of several sizes, such as [20, 28] and [24, 20]\n"
            '  help: have one that gives one size: { name = "RandomResizedCrop", size = 224 }, or ',
        ),
        (
            {"transforms": [CROP, {"name": "ToDtype", "dtype": "float32"}]},
            "views.transforms give values from 255 to 255, and views are in [0, 1]\n"
            "  help: where a dtype is changed, set scale = true",
        ),
        (
            {"transforms": [CROP, {"name": "GaussianBlur", "kernel_size": 99}]},
            "views.transforms[1], GaussianBlur of torchvision.transforms.v2 refuses an image, torch.uint8 of shape ",
        ),
        (
            {"transforms": [CROP], "count": 1, "second": {"transforms": [CROP]}},
            "views 'torchvision' make one view of an image, and `second` is about another\n  help: set views.count = 2",
        ),
    ],
)
def test_what_can_make_no_views_is_refused(settings, text):
    with pytest.raises(RecipeError) as caught:
        TorchvisionViews(**settings)
    assert text in str(caught.value)


def test_other_channels_than_the_image_has_are_refused():
    views = TorchvisionViews(transforms=[CROP, {"name": "Grayscale", "num_output_channels": 3}])
    with pytest.raises(RecipeError) as caught:
        views(images(1, 1), random_keys(1))
    assert str(caught.value).startswith("views.transforms make [3, 16, 16] of an image of [1, ")
    assert "leave their channels as they are" in str(caught.value)


def test_a_recipe_keeps_them(tmp_path):
    transforms = '[{ name = "RandomResizedCrop", size = 8 }, { name = "RandomApply", transforms = [{ name = "RGB" }] }]'
    recipe = tiny(tmp_path, "views.name=torchvision", f"views.transforms={transforms}", "train.steps=2")
    (tmp_path / "again.toml").write_text(recipe.to_toml())
    assert read_recipe(tmp_path / "again.toml") == recipe
