"""Views of any height and width, and the three ways in which an image comes into the test view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.recipe import RecipeProblems, read_recipe
from metriclab.registry import build
from metriclab.testing import check_views
from metriclab.views.blur import blur, gaussian_kernels
from metriclab.views.geometry import central_boxes, pyramid, random_boxes, resample
from metriclab.views.multi_crop import MultiCropViews
from metriclab.views.plain import PlainViews
from metriclab.views.simclr import SimCLRViews
from metriclab.views.warps import rotation
from tests.support.tiny import run, tiny

FITS = ("crop", "pad", "squash")


def batch(*pixels: torch.Tensor) -> Images:
    return Images.padded([image.numpy() for image in pixels])


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return (torch.stack([y, x, 1 - x]) * 250).to(torch.uint8)


def keys(n: int) -> RandomKeys:
    return RandomKeys(1, 2, torch.arange(n), torch.zeros(n, dtype=torch.int64))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("name", ["plain", "simclr", "multi-crop"])
def test_they_keep_what_views_keep(name, fit):
    check_views(build("views", name, size=(24, 12), fit=fit))


def test_every_view_has_its_height_and_width():
    images = batch(smooth(60, 30), smooth(20, 70), smooth(33, 33))
    views = MultiCropViews(size=(24, 12), small_size=(10, 6), rotation=20.0)
    assert [tuple(view.shape[2:]) for view in views(images, keys(3))] == [(24, 12)] * 2 + [(10, 6)] * 4
    assert views.test(images).shape == PlainViews(size=(24, 12)).test(images).shape == (3, 3, 24, 12)
    square, same = (SimCLRViews(size=size, rotation=20.0)(images, keys(3)) for size in (16, (16, 16)))
    assert all(map(torch.equal, square, same))


def test_a_crop_is_the_largest_middle_of_the_aspect_of_the_view():
    sizes = torch.tensor([[400, 100], [100, 100], [50, 300], [256, 128], [1, 9]])
    assert central_boxes(sizes, (256, 128)).tolist() == [
        [100, 0, 200, 100], [0, 25, 100, 50], [0, 137, 50, 25], [0, 0, 256, 128], [0, 4, 1, 1],
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(64, 32), (32, 64), 40, (25, 31)])
@pytest.mark.parametrize(("height", "width"), [(40, 40), (90, 30), (30, 120)])
def test_pad_shows_all_of_the_image_between_black_bars(height, width, size):
    rows, columns = (size, size) if isinstance(size, int) else size
    scale = min(rows / height, columns / width)
    image = torch.full((3, height, width), 200, dtype=torch.uint8)
    view = PlainViews(size=size, fit="pad").test(batch(image, smooth(100, 110)))[0, 0]
    filled = (view > 0).float()
    torch.testing.assert_close(view, filled * 200 / 255, atol=1e-3, rtol=0)
    assert abs(float(filled.sum()) - height * width * scale**2) <= 2 * max(rows, columns)
    assert torch.equal(filled, filled.flip(0)) or abs(rows - height * scale) % 2 != 0


@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_what_is_shown_is_what_pillow_makes_of_it(fit):
    image, (rows, columns) = smooth(48, 30), (64, 32)
    scale = (rows / 48, columns / 30) if fit == "squash" else (columns / 30,) * 2
    height, width = round(48 * scale[0]), round(30 * scale[1])
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BILINEAR)
    view = PlainViews(size=(rows, columns), fit=fit).test(batch(image))[0]
    top = (rows - height) // 2
    expected = torch.zeros(3, rows, columns)
    expected[:, top : top + height] = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    inner = slice(top + 2, top + height - 2)
    assert (view - expected)[:, inner, 2:-2].abs().max() < 0.02


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("height", "width"), [(600, 9), (9, 600), (3, 3), (1000, 500)])
def test_extreme_aspects_show_no_padding_of_the_batch(height, width, fit):
    white = torch.full((3, height, width), 255, dtype=torch.uint8)
    images = batch(white, torch.zeros(3, 1000, 600, dtype=torch.uint8))
    view = PlainViews(size=(32, 16), fit=fit).test(images)[0]
    bars = (view == 0) if fit == "pad" else torch.zeros_like(view, dtype=torch.bool)
    assert ((view > 0.999) | bars).all()
    assert not bars.all()


def test_random_crops_have_about_the_aspect_of_the_view():
    sizes = torch.tensor([[300, 300]]).expand(2000, 2)
    boxes = random_boxes(torch.rand(2000, 22), sizes, 0.1, 0.3, (256, 128))
    aspect = boxes[:, 3] / boxes[:, 2]
    assert 3 / 8 - 0.02 < float(aspect.min()) < 0.4
    assert 0.63 < float(aspect.max()) < 4 / 6 + 0.02


def test_a_rotation_turns_the_view_and_does_not_shear_it():
    """A quarter turn of a disc is the disc."""
    y, x = torch.meshgrid(torch.arange(60) - 29.5, torch.arange(30) - 14.5, indexing="ij")
    disc = ((y.square() + x.square()).sqrt() < 12).to(torch.uint8) * 255
    images = batch(disc.expand(3, 60, 30))
    box = central_boxes(images.sizes, (60, 30))
    still, turned = (
        resample(pyramid(images, (60, 30)), box, (60, 30), None, rotation(torch.tensor([angle]).deg2rad(), (60, 30)))
        for angle in (0.0, 90.0)
    )
    assert (still - turned).abs().mean() < 0.01


def test_a_blur_of_a_rectangle_is_that_of_its_sides():
    x = torch.rand(2, 3, 90, 40)
    kernels = gaussian_kernels(torch.tensor([0.8, 1.9]), torch.tensor([True, True]), (90, 40))
    assert kernels.shape[1] == 5
    ours = blur(x, kernels)
    for image, kernel, found in zip(x, kernels, ours, strict=True):
        padded = F.pad(image[:, None], (2, 2, 2, 2), mode="reflect")
        expected = F.conv2d(padded, torch.outer(kernel, kernel)[None, None])[:, 0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_recipe_takes_two_numbers_and_keeps_them(tmp_path):
    recipe = tiny(tmp_path, "views.size=[12, 8]", "views.fit=pad", "train.steps=2")
    assert recipe.components["views"].params["size"] == (12, 8)
    (tmp_path / "again.toml").write_text(recipe.to_toml())
    assert read_recipe(tmp_path / "again.toml") == recipe
    assert run(recipe, tmp_path / "run")[-1].stage == "finished"


@pytest.mark.parametrize("size", ["[12]", "[12, 8, 3]", "[12, 1]", "[12.0, 8]", "0", '"12x8"'])
def test_other_sizes_are_refused(tmp_path, size):
    with pytest.raises(RecipeProblems, match=r"size of views 'simclr' must be int >= 2 \| tuple\[int >= 2, int >= 2\]"):
        tiny(tmp_path, f"views.size={size}")
