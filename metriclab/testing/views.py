"""What all views keep."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.promises import check_built
from metriclab.core.promises import check_views as check_views_of
from metriclab.core.protocols import Views
from metriclab.core.random import RandomKeys
from metriclab.testing.cases import shuffle
from metriclab.testing.checks import Check, check, running
from metriclab.testing.state import assert_stateless

CLOSE = 1e-4
"""Largest difference of values in [0, 1] that must be equal but for rounding: pixels are resampled in float32."""

STEPPED = 1e-3
"""Share of the values that may differ by more, in views that say that they have steps."""

HOW = "draw by `random_keys.uniform(view, stream)`"


def views_checks(views: Any, *, channels: tuple[int, ...] = (3, 1)) -> list[Check]:
    """Checks views on images of several sizes: everything that a run and an evaluation rely on.

    A call gives `count` tensors, `test` one, all of n images, finite and in [0, 1], and write into nothing they get.
    Both are pure functions: of images and random keys, and of images alone; torch's generator has no say and is left as
    it was. They work sample by sample: which other images are in a batch, in which order and how padded, does not
    matter. If views are random at all, every image has draws of its own, in every epoch, for every view, and anew where
    it comes twice in an epoch.

    Args:
        views: the component, built.
        channels: of the images that it takes; grey ones have one.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    name = type(views).__name__
    first = some_images(channels[0])
    return [
        *(check(f"result of {n} channel{'s' * (n > 1)}", _check_result, name, views, some_images(n)) for n in channels),
        check("arguments unchanged", _check_arguments, name, views, first),
        check("pure function of the random keys", _check_pure, name, views, first),
        check("sample by sample", _check_samples, name, views, first),
        check("padding", _check_padding, name, views, first),
        check("draws of each image", _check_own_draws, name, views, channels[0]),
    ]


check_views = running(views_checks)


def some_images(channels: int) -> Images:
    """Six images of different shapes, smooth, with some noise."""
    sizes = [(36, 48), (40, 33), (48, 48), (33, 40), (48, 36), (40, 40)]
    return Images.padded([_image(place, channels, *size).numpy() for place, size in enumerate(sizes)])


def some_keys(count: int, *, epoch: int = 0) -> RandomKeys:
    """Of different items, some of which came before in the epoch."""
    place = torch.arange(count)
    return RandomKeys(5, epoch, 7 * place + 3, place % 2)


def _image(seed: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    phase = torch.rand(channels, 1, 1, generator=generator) * 6
    values = (
        128
        + 90 * torch.sin(x + (1 + seed % 3) * y + phase)
        + 9 * torch.randn(channels, height, width, generator=generator)
    )
    return values.clamp(0, 255).to(torch.uint8)


def _taken(images: Images, index: Tensor) -> Images:
    return Images(images.pixels[index], images.sizes[index])


def _all_views(views: Views, images: Images, random_keys: RandomKeys) -> list[tuple[str, Tensor]]:
    """Each view with what to call it."""
    return [
        *((f"view {place}", view) for place, view in enumerate(views(images, random_keys))),
        ("test", views.test(images)),
    ]


def _check_result(name: str, views: Views, images: Images) -> None:
    check_built("views", views)
    check_views_of(views, images, views(images, some_keys(len(images))), views.test(images))


def _check_arguments(name: str, views: Views, images: Images) -> None:
    random_keys = some_keys(len(images))
    before = copy.deepcopy((images, random_keys))
    _all_views(views, images, random_keys)
    same = torch.equal(before[0].pixels, images.pixels) and torch.equal(before[0].sizes, images.sizes)
    assert same, f"{name} writes into the images it is given"
    same = torch.equal(before[1].items, random_keys.items) and torch.equal(before[1].repeats, random_keys.repeats)
    assert same, f"{name} writes into the random keys it is given"


def _check_pure(name: str, views: Views, images: Images) -> None:
    random_keys = some_keys(len(images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first, state = _all_views(views, images, random_keys), torch.get_rng_state()
        torch.manual_seed(2)
        _all_views(views, images, some_keys(len(images), epoch=1))
        moved = torch.get_rng_state()
        again = _all_views(views, images, random_keys)
        torch.manual_seed(1)
        untouched = torch.equal(state, torch.get_rng_state())
        torch.manual_seed(2)
        untouched = untouched and torch.equal(moved, torch.get_rng_state())
    for (what, one), (_, other) in zip(first, again, strict=True):
        same = torch.equal(one, other)
        assert same, f"{name}: {what} is another one in a second call: it must be a pure function" + (
            " of the images" if what == "test" else f" of images and random keys: {HOW}"
        )
    assert untouched, f"{name} uses or seeds torch's global generator: {HOW}"
    assert_stateless(name, views, lambda: _all_views(views, images, random_keys), HOW)


def _check_samples(name: str, views: Views, images: Images) -> None:
    whole = _all_views(views, images, random_keys := some_keys(len(images)))
    for index in (torch.tensor([4, 1, 5]), torch.tensor([3]), shuffle(len(images))):
        part = replace(random_keys, items=random_keys.items[index], repeats=random_keys.repeats[index])
        found = _all_views(views, _taken(images, index), part)
        _compare(name, whole, found, index, "depends on the other images of the batch or on their order", _most(views))


def _check_padding(name: str, views: Views, images: Images) -> None:
    random_keys, everything = some_keys(len(images)), torch.arange(len(images))
    whole = _all_views(views, images, random_keys)
    n, channels, height, width = images.pixels.shape
    wider = torch.zeros(n, channels, height + 8, width + 16, dtype=torch.uint8)
    wider[:, :, :height, :width] = images.pixels
    found = _all_views(views, Images(wider, images.sizes), random_keys)
    _compare(name, whole, found, everything, "depends on how far images are padded: use their true sizes", _most(views))


def _most(views: Views) -> float:
    """The share of values that rounding may take over a step."""
    return STEPPED if getattr(views, "has_steps", False) else 0.0


def _compare(
    name: str, whole: list[tuple[str, Tensor]], found: list[tuple[str, Tensor]], index: Tensor, fault: str, most: float
) -> None:
    for (what, one), (_, other) in zip(whole, found, strict=True):
        assert one.shape[1:] == other.shape[1:], f"{name}: the size of {what} {fault}"
        differences = (one[index] - other).abs()
        difference, share = float(differences.max()), float((differences > CLOSE).float().mean())
        assert difference <= CLOSE or share <= most, f"{name}: {what} {fault} (by {difference:.2g})"


def _check_own_draws(name: str, views: Views, channels: int) -> None:
    """What is random is told by another epoch; then everything that should be random is."""
    n = 16
    same_image = Images.padded([_image(0, channels, 40, 40).numpy()] * n)
    item, zero = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    random_keys = RandomKeys(5, 0, item, zero)
    now, later = views(same_image, random_keys), views(same_image, replace(random_keys, epoch=1))
    if all(torch.equal(one, other) for one, other in zip(now, later, strict=True)):
        return  # not random, as plain views are
    for place, view in enumerate(now):
        assert not _all_alike(view), f"{name}: view {place} has the same draws for every image of the batch"
    again = views(same_image, RandomKeys(5, 0, zero, item))
    assert not all(_all_alike(view) for view in again), (
        f"{name} has the same draws for an image that comes again in an epoch: {HOW}"
    )
    of_one_shape = [view for view in now if view.shape == now[0].shape]
    repeated = len(of_one_shape) > 1 and all(torch.equal(view, of_one_shape[0]) for view in of_one_shape[1:])
    assert not repeated, f"{name} has the same draws for every view of an image: {HOW}, view being its index"


def _all_alike(view: Tensor) -> bool:
    return bool(((view - view[:1]).abs() <= CLOSE).all())
