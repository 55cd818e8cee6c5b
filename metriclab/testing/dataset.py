"""What every data set keeps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from metriclab.core.batch import Images
from metriclab.core.promises import check_dataset as check_data
from metriclab.core.promises import check_images
from metriclab.core.protocols import Dataset
from metriclab.testing.checks import Check, check, running

SPLITS = ("train", "val", "test")
_MOST = 12
"""Items of a split that are read."""

Make = Callable[[str], Dataset]


def dataset_checks(make: Make, *, splits: Sequence[str] = SPLITS) -> list[Check]:
    """Checks a data set: everything that a run, an evaluation and the comparison of runs rely on.

    Labels are int64, one an item, and index `classes`; every item has a name of its own; equal labels mean equal
    classes in every split. `images` gives uint8 images from 0 to 255, or uint16 to 65535, with their true sizes, or
    features, in the order asked for and as often as asked for, the same image in every call and company, also from
    several threads at once; what is done to a batch does not come back, and reading changes no label. Built again it is
    the same, and so are the splits of `with_split` where it has that. The fingerprint is a hex digest, and each split
    has its own. Whether labels are known without reading an image it cannot see.

    Args:
        make: builds a split, as `functools.partial(build, "dataset", "mine", root="...")`; a small one.
        splits: those that it has; val may have no items.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    return [
        check("labels, classes and names", _check_labels, make, splits),
        check("images", _check_images, make, splits),
        check("same item, same image", _check_again, make, splits),
        check("several threads", _check_threads, make, splits),
        check("fingerprints", _check_fingerprints, make, splits),
        check("the same again", _check_rebuilt, make, splits),
    ]


check_dataset = running(dataset_checks)


def _chosen(data: Any) -> np.ndarray:
    """Some items, from the last to the first."""
    n = len(data.labels)
    return np.unique(np.linspace(0, n - 1, min(n, _MOST)).astype(np.int64))[::-1].copy()


def _check_labels(make: Make, splits: Sequence[str]) -> None:
    meanings: dict[int, tuple[str, str]] = {}
    for split in splits:
        data: Any = make(split)
        what, labels = f"{type(data).__name__} ({split})", data.labels
        check_data(data, split)
        assert len(labels) or split == "val", f"{what} has no items"
        names = Counter(data.names)
        doubled, times = names.most_common(1)[0] if names else ("", 1)
        assert times == 1, (
            f"{what} calls {times} items {doubled!r}: each needs a name of its own, in messages and exports"
        )
        for label in np.unique(labels[labels >= 0]).tolist():
            name = str(data.classes[label])
            known, where = meanings.setdefault(label, (name, split))
            assert known == name, (
                f"label {label} of {type(data).__name__} is class {known!r} in {where} and {name!r} in {split}: equal "
                "labels must mean equal classes, or train and test would share classes unseen"
            )


def _check_images(make: Make, splits: Sequence[str]) -> None:
    for split in splits:
        data: Any = make(split)
        if not len(data.labels):
            continue
        what, items = f"{type(data).__name__} ({split})", _chosen(data)
        images = data.images(items)
        check_images(images, len(items), what)
        assert images.are_features or int(images.pixels.max()) > 1, (
            f"{what} gives images whose pixels are 0 or 1 alone, which are black: scale floats in [0, 1] to 255 before "
            "they become uint8"
        )
        first, alone = _image(images, 0), len(items) == 1
        differ = any(not torch.equal(_image(images, place), first) for place in range(1, len(items)))
        assert alone or differ, f"{what} gives the same image for {len(items)} items: it must heed the items asked for"
        for key in ("labels", "names", "classes"):
            same = np.array_equal(np.asarray(getattr(make(split), key)), np.asarray(getattr(data, key)))
            assert same, f"the {key} of {what} are other ones after images were read than as it was built"


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
        assert digest not in seen, f"{what} has the fingerprint of {seen.get(digest)}: it must be that of this split"
        seen[digest] = split


def _check_rebuilt(make: Make, splits: Sequence[str]) -> None:
    """Built a second time, and as a run asks for the other splits."""
    first: Any = make(splits[0])
    with_split = getattr(first, "with_split", None)
    for split in splits:
        whole: Any = make(split)
        _compare(whole, make(split), split, "when it is built again: no runs could be compared")
        if with_split is not None:
            _compare(whole, with_split(split), split, "from with_split than when it is built")
    _compare(make(splits[0]), first, splits[0], "after with_split was called: it must leave the data set as it is")


def _compare(one: Any, other: Any, split: str, fault: str) -> None:
    what = f"{type(one).__name__} ({split})"
    for key in ("labels", "names", "classes", "fingerprint"):
        same = np.array_equal(np.asarray(getattr(one, key)), np.asarray(getattr(other, key)))
        assert same, f"the {key} of {what} {'is' if key == 'fingerprint' else 'are'} not the same {fault}"
    if len(one.labels):
        ours, theirs = one.images(_chosen(one)), other.images(_chosen(one))
        same = torch.equal(ours.pixels, theirs.pixels) and torch.equal(ours.sizes, theirs.sizes)
        assert same, f"{what} gives other images {fault}"
