"""The classic data sets, as torchvision reads and downloads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torchvision  # type: ignore[import-untyped]
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Int64, UInt8

from metriclab.core.batch import Images
from metriclab.datasets.splits import Split, carve, require_split
from metriclab.errors import DataError, RecipeError
from metriclab.images.arrays import ArrayImages
from metriclab.images.files import FileImages, ImageFiles
from metriclab.images.once import once
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
class Torchvision:
    """A data set of torchvision by its name there.

    Small images are held in memory as uint8; data sets of image files are decoded once into the cache. Where
    torchvision has no val, part of train becomes val, which images depends on their positions alone.

    Args:
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

    def __init__(
        self,
        split: Split,
        /,
        *,
        dataset: Name,
        root: str = "data",
        download: bool = False,
        val: Annotated[float, Gt(0), Lt(1)] = 0.1,
        unlabelled: bool = False,
        size: Annotated[int, Ge(8), Le(4096)] | None = None,
    ) -> None:
        require_split(split)
        source = _source(dataset, size, unlabelled)
        offered = split if split in source.splits else "train"
        raw = _open(dataset, root, download, source.splits[offered])
        labels = np.asarray(getattr(raw, source.labels), dtype=np.int64)
        classes = [str(name) for name in getattr(raw, "classes", range(labels.max() + 1))]
        items = np.arange(len(labels))
        if offered == "train" and "val" not in source.splits:
            splits = carve([str(item) for item in items], {"val": val}, place=f"{dataset} in {root}")
            items = np.flatnonzero(splits == split)
        self._images: ArrayImages | FileImages
        if source.axes:
            pixels, labels = _pixels(getattr(raw, source.images), source.axes)[items], labels[items]
            names = [f"{dataset}/{offered}/{item}" for item in items]
            if unlabelled and split == "train":
                more = _open(dataset, root, download, {"split": "unlabeled"}).data
                pixels, labels = np.concatenate([pixels, more]), np.append(labels, np.full(len(more), -1))
                names += [f"{dataset}/unlabeled/{item}" for item in range(len(more))]
            self._images = ArrayImages(pixels, labels, classes, names)
        else:
            paths = [Path(path) for path in getattr(raw, source.images)]
            files = once(("torchvision", dataset, root, offered, size), lambda: ImageFiles(paths, size=size or 256))
            self._images = FileImages(files, items, labels[items], classes, [str(paths[item]) for item in items])
        self.labels, self.classes, self.names = self._images.labels, classes, self._images.names

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def images(self, items: Int64[np.ndarray, "m"], /) -> Images:
        return self._images.images(items)


def _source(dataset: str, size: int | None, unlabelled: bool) -> _Source:
    if dataset not in SOURCES:
        raise RecipeError(f"there is no data set {dataset!r} here", help=f"there are {', '.join(sorted(SOURCES))}")
    source = SOURCES[dataset]
    if unlabelled and dataset != "STL10":
        raise RecipeError(f"{dataset} has no unlabelled images", help="only STL10 has: leave data.unlabelled out")
    if size is not None and source.axes:
        raise RecipeError(f"the images of {dataset} have one size", help="leave data.size out; views resize")
    return source


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
