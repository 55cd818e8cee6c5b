"""What every data set keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from metriclab.core.batch import Images
from metriclab.core.protocols import Dataset
from metriclab.testing.checks import Check, check, run_all

SPLITS = ("train", "val", "test")
_MOST = 12
"""Items of a split that are read."""

Make = Callable[[str], Dataset]


def check_dataset(make: Make, *, splits: Sequence[str] = SPLITS) -> None:
    """Checks a data set: everything that a run, an evaluation and the comparison of runs rely on.

    Labels are int64, one an item, and index `classes`; every item has a name; equal labels mean equal classes in every
    split. `images` gives uint8 images of 1 or 3 channels with their true sizes, in the order asked for and as often as
    asked for, the same image in every call and company, also from several threads at once; what is done to a batch does
    not come back. The fingerprint is a hex digest, the same for another data set built alike, and each split has its
    own. Whether labels are known without reading an image it cannot see.

    Args:
        make: builds a split, as `functools.partial(build, "dataset", "mine", root="...")`; a small one.
        splits: those that it has; val may have no items.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    run_all(dataset_checks(make, splits=splits))


def dataset_checks(make: Make, *, splits: Sequence[str] = SPLITS) -> list[Check]:
    """What `check_dataset` runs, one by one."""
    return [
        check("labels, classes and names", _check_labels, make, splits),
        check("images", _check_images, make, splits),
        check("same item, same image", _check_again, make, splits),
        check("several threads", _check_threads, make, splits),
        check("fingerprints", _check_fingerprints, make, splits),
    ]


def _chosen(data: Any) -> np.ndarray:
    """Some items, from the last to the first."""
    n = len(data.labels)
    return np.unique(np.linspace(0, n - 1, min(n, _MOST)).astype(np.int64))[::-1].copy()


def _check_labels(make: Make, splits: Sequence[str]) -> None:
    meanings: dict[int, tuple[str, str]] = {}
    for split in splits:
        data: Any = make(split)
        what = f"{type(data).__name__} ({split})"
        labels = data.labels
        fits = isinstance(labels, np.ndarray) and labels.dtype == np.int64 and labels.ndim == 1
        assert fits, f"the labels of {what} are {_described(labels)}, expected a numpy array of int64 of one axis"
        assert len(labels) or split == "val", f"{what} has no items"
        assert len(data.names) == len(labels), f"{what} has {len(data.names)} names for {len(labels)} items"
        top = int(labels.max(initial=-1))
        assert top < len(data.classes), f"{what} has the label {top}, and {len(data.classes)} classes"
        for label in np.unique(labels[labels >= 0]).tolist():
            name = str(data.classes[label])
            known, where = meanings.setdefault(label, (name, split))
            assert known == name, (
                f"label {label} of {type(data).__name__} is class {known!r} in {where} and {name!r} in {split}: equal "
                "labels must mean equal classes, or train and test would share classes unseen"
            )


def _described(value: Any) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _check_images(make: Make, splits: Sequence[str]) -> None:
    for split in splits:
        data: Any = make(split)
        if not len(data.labels):
            continue
        what, items = f"{type(data).__name__} ({split})", _chosen(data)
        images = data.images(items)
        assert isinstance(images, Images), f"{what} gives a {type(images).__name__}, not Images"
        pixels, sizes = images.pixels, images.sizes
        assert pixels.dtype == torch.uint8, f"{what} gives pixels of {pixels.dtype}, expected uint8: views make floats"
        right = pixels.dim() == 4 and len(pixels) == len(items) and pixels.shape[1] in (1, 3)
        assert right, (
            f"{what} gives pixels of shape {tuple(pixels.shape)} for {len(items)} items, expected (n, 1 or 3, h, w)"
        )
        assert tuple(sizes.shape) == (len(items), 2), (
            f"{what} gives sizes of shape {tuple(sizes.shape)}, expected (n, 2)"
        )
        within = (sizes >= 1).all() and (sizes <= torch.tensor(pixels.shape[2:])).all()
        assert bool(within), f"{what} gives sizes that are empty or beyond its padded pixels {tuple(pixels.shape[2:])}"


def _image(images: Images, place: int) -> torch.Tensor:
    height, width = images.sizes[place].tolist()
    return images.pixels[place, :, :height, :width]


def _check_again(make: Make, splits: Sequence[str]) -> None:
    for split in splits:
        data: Any = make(split)
        if not len(data.labels):
            continue
        what, items = f"{type(data).__name__} ({split})", _chosen(data)
        alone = [_image(data.images(items[place : place + 1]), 0).clone() for place in range(len(items))]
        order = np.concatenate([np.arange(len(items)), [0, 0]])
        together = data.images(items[order])
        for place, source in enumerate(order):
            same = torch.equal(_image(together, place), alone[source])
            assert same, f"{what} gives item {items[source]} another image in company, or in another order, than alone"
        together.pixels.fill_(7)
        same = torch.equal(_image(data.images(items[:1]), 0), alone[0])
        assert same, f"{what}: what is written into a batch changes item {items[0]} for good: hand out copies"


def _check_threads(make: Make, splits: Sequence[str]) -> None:
    data: Any = make(splits[0])
    items = _chosen(data)
    parts = [np.roll(items, shift)[: 1 + shift % 3] for shift in range(24)]
    expected = [data.images(part) for part in parts]
    other: Any = make(splits[0])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(other.images, parts))
    for one, two in zip(found, expected, strict=True):
        same = torch.equal(one.pixels, two.pixels) and torch.equal(one.sizes, two.sizes)
        assert same, f"{type(data).__name__} gives other images to several threads at once: runs read in a thread"


def _check_fingerprints(make: Make, splits: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for split in splits:
        data: Any = make(split)
        what, digest = f"{type(data).__name__} ({split})", data.fingerprint
        hexadecimal = isinstance(digest, str) and re.fullmatch("[0-9a-f]{8,}", digest) is not None
        assert hexadecimal, f"the fingerprint of {what} is {digest!r}, expected a hex digest of images and labels"
        again = make(split).fingerprint
        assert again == digest, (
            f"the fingerprint of {what} is another one when it is built again: no runs could be compared"
        )
        assert digest not in seen, f"{what} has the fingerprint of {seen.get(digest)}: it must be that of this split"
        seen[digest] = split
