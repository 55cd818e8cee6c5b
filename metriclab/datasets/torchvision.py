"""The classic data sets, as torchvision reads and downloads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torchvision  # type: ignore[import-untyped]
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Int64, Shaped, UInt8

from metriclab.core.protocols import Split
from metriclab.datasets.splits import carve, require_split
from metriclab.errors import DataError, RecipeError
from metriclab.images.datasets import ArrayDataset, FileDataset, LabelledFile
from metriclab.registry import register

Name = Literal[
    "CIFAR10", "CIFAR100", "DTD", "FGVCAircraft", "FashionMNIST", "Flowers102", "Food101", "KMNIST", "MNIST",
    "OxfordIIITPet", "STL10", "SVHN",
]  # fmt: skip

_FLAG: Mapping[str, Mapping[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_TWO: Mapping[str, Mapping[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE: Mapping[str, Mapping[str, Any]] = {**_TWO, "val": {"split": "val"}}


class _Source(NamedTuple):
    splits: Mapping[str, Mapping[str, Any]]  # what torchvision calls each split that it has
    images: str  # the attribute that holds pixels or paths
    axes: str  # of the pixels; "" for paths
    labels: str  # the attribute that holds the labels
    home: str


SOURCES: Mapping[str, _Source] = {
    "CIFAR10": _Source(_FLAG, "data", "nhwc", "targets", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "CIFAR100": _Source(_FLAG, "data", "nhwc", "targets", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "FashionMNIST": _Source(_FLAG, "data", "nhw", "targets", "https://github.com/zalandoresearch/fashion-mnist"),
    "KMNIST": _Source(_FLAG, "data", "nhw", "targets", "https://github.com/rois-codh/kmnist"),
    "MNIST": _Source(_FLAG, "data", "nhw", "targets", "https://yann.lecun.com/exdb/mnist"),
    "STL10": _Source(_TWO, "data", "nchw", "labels", "https://cs.stanford.edu/~acoates/stl10"),
    "SVHN": _Source(_TWO, "data", "nchw", "labels", "http://ufldl.stanford.edu/housenumbers"),
    # Torchvision keeps the paths of these in private attributes; decoding is ours, for size, speed and error texts.
    "DTD": _Source(_THREE, "_image_files", "", "_labels", "https://www.robots.ox.ac.uk/~vgg/data/dtd"),
    "FGVCAircraft": _Source(
        _THREE, "_image_files", "", "_labels", "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"
    ),
    "Flowers102": _Source(_THREE, "_image_files", "", "_labels", "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"),
    "Food101": _Source(_TWO, "_image_files", "", "_labels", "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"),
    "OxfordIIITPet": _Source(
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        "_images", "", "_labels", "https://www.robots.ox.ac.uk/~vgg/data/pets",
    ),
}  # fmt: skip


@register("dataset", "torchvision")
def Torchvision(
    split: Split,
    /,
    *,
    dataset: Name,
    root: str = "data",
    download: bool = False,
    val: Annotated[float, Gt(0), Lt(1)] = 0.1,
    unlabelled: bool = False,
    size: Annotated[int, Ge(8), Le(4096)] | None = None,
) -> ArrayDataset | FileDataset:
    """A data set of torchvision by its name there.

    Small images are held in memory as uint8; data sets of image files are decoded once into the cache. Where
    torchvision has no val, part of train becomes val, which images depends on their positions alone.

    Args:
        split: train, val or test.
        dataset: name of torchvision's class.
        root: folder where it lies, in torchvision's own layout.
        download: whether to download what is missing.
        val: part of train that becomes val; not used where torchvision has a val split.
        unlabelled: whether the 100,000 images without a class of STL10 join train, in 2.8 GB of memory.
        size: longest short side of data sets of image files (256 if not given); the others have one size.

    Raises:
        RecipeError: for a name, or a parameter that this data set does not have.
        DataError: if it is missing or damaged.
    """
    require_split(split)
    source, place = _source(dataset, size, unlabelled), f"{dataset} in {root}"
    if not source.axes:
        raws = {name: _open(dataset, root, download, choice) for name, choice in source.splits.items()}
        classes = _classes(raws["train"], source)
        return FileDataset(_files(raws, classes, source, val, place), split, size=size or 256, classes=classes)
    offered = "test" if split == "test" else "train"
    raw = _open(dataset, root, download, source.splits[offered])
    labels, classes = _labels(raw, source), _classes(raw, source)
    pixels, items = _pixels(getattr(raw, source.images), source.axes), np.arange(len(labels))
    if offered == "train":
        items = np.flatnonzero(_train_or_val(len(labels), val, place) == split)
    pixels, labels = pixels[items], labels[items]
    names = [f"{dataset}/{offered}/{item}" for item in items]
    if unlabelled and split == "train":
        more = _open(dataset, root, download, {"split": "unlabeled"}).data
        pixels, labels = np.concatenate([pixels, more]), np.append(labels, np.full(len(more), -1))
        names += [f"{dataset}/unlabeled/{item}" for item in range(len(more))]
    return ArrayDataset(pixels, labels, classes, names)


def _source(dataset: str, size: int | None, unlabelled: bool) -> _Source:
    if dataset not in SOURCES:
        raise RecipeError(f"there is no data set {dataset!r} here", help=f"there are {', '.join(sorted(SOURCES))}")
    source = SOURCES[dataset]
    if unlabelled and dataset != "STL10":
        raise RecipeError(f"{dataset} has no unlabelled images", help="only STL10 has: leave data.unlabelled out")
    if size is not None and source.axes:
        raise RecipeError(f"the images of {dataset} have one size", help="leave data.size out; views resize")
    return source


def _labels(raw: Any, source: _Source) -> Int64[np.ndarray, "n"]:
    return np.asarray(getattr(raw, source.labels), dtype=np.int64)


def _classes(raw: Any, source: _Source) -> list[str]:
    return [str(name) for name in getattr(raw, "classes", range(_labels(raw, source).max() + 1))]


def _train_or_val(count: int, val: float, place: str) -> Shaped[np.ndarray, "n"]:
    return carve([str(item) for item in range(count)], {"val": val}, place=place)


def _files(
    raws: Mapping[str, Any], classes: Sequence[str], source: _Source, val: float, place: str
) -> list[LabelledFile]:
    """The files of all splits that torchvision has, and of a val that it has not."""
    files = []
    for name, raw in raws.items():
        paths, labels = getattr(raw, source.images), _labels(raw, source).tolist()
        splits = [name] * len(paths)
        if name == "train" and "val" not in raws:
            splits = _train_or_val(len(paths), val, place).tolist()
        files += [
            LabelledFile(Path(path), classes[label], split)
            for path, label, split in zip(paths, labels, splits, strict=True)
        ]
    return files


def _open(dataset: str, root: str, download: bool, choice: Mapping[str, Any]) -> Any:
    try:
        return getattr(torchvision.datasets, dataset)(root, download=download, **choice)
    except (RuntimeError, OSError, EOFError, ValueError) as error:  # what torchvision raises on missing or bad files
        doing = "cannot be downloaded" if download else "is missing or damaged"
        reason = str(error).partition("\n")[0] or type(error).__name__
        by_hand = f"get it from {SOURCES[dataset].home} and lay it out as torchvision does"
        raise DataError(
            f"{root}: torchvision's {dataset} {doing} ({reason})",
            help=f"check the network, or {by_hand}" if download else f"set data.download = true, or {by_hand}",
        ) from error


def _pixels(data: Any, axes: str) -> UInt8[np.ndarray, "n c h w"]:
    array = np.asarray(data)
    if axes == "nhw":
        return array[:, None]
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if axes == "nhwc" else array
