"""Fashion-MNIST from its original files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Int64, UInt8

from metriclab.core.protocols import Split
from metriclab.datasets.splits import require_split, shares
from metriclab.errors import DataError, RecipeError
from metriclab.images.datasets import ArrayDataset
from metriclab.registry import register

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_FOLDERS = ("data/FashionMNIST/raw", "data/fashion-mnist", "/usr/share/datasets/fashion-mnist")
_UBYTE = 8  # the type code of idx files for unsigned bytes
_HELP = (
    "install Debian's dataset-fashion-mnist, or download the four files from "
    "https://github.com/zalandoresearch/fashion-mnist and set data.root to their folder"
)


@register("dataset", "fashion-mnist")
def FashionMNIST(split: Split, /, *, root: str | None = None, val: Annotated[int, Ge(1)] = 5000) -> ArrayDataset:
    """70,000 grey images of clothes, 28 x 28, in 10 classes, from the original idx files, packed by gzip or not.

    Paper: Xiao, Rasul, Vollgraf. Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms.
    2017.

    Args:
        split: train, val or test.
        root: folder of the four files, or one with torchvision's FashionMNIST/raw in it. Without it they are looked
            for in data/FashionMNIST/raw, data/fashion-mnist and where Debian's dataset-fashion-mnist puts them.
        val: how many of the 60,000 training images become val; which ones depends on their positions alone.

    Raises:
        DataError: if the files are missing, cut short or of another kind.
    """
    require_split(split)
    folder = _find(root)
    prefix = "t10k" if split == "test" else "train"
    images_path = _existing(folder / f"{prefix}-images-idx3-ubyte")
    labels_path = _existing(folder / f"{prefix}-labels-idx1-ubyte")
    pixels, labels = read_idx(images_path, 3), read_idx(labels_path, 1).astype(np.int64)
    if len(pixels) != len(labels) or labels.max(initial=0) >= len(CLASSES):
        raise DataError(
            f"{labels_path}: {len(labels)} labels up to {labels.max(initial=0)} do not fit {len(pixels)} images of "
            f"{len(CLASSES)} classes",
            help=_HELP,
        )
    items = np.arange(len(labels)) if split == "test" else _train_or_val(split, len(labels), val)
    names = [f"fashion-mnist/{prefix}/{item}" for item in items]
    return ArrayDataset(pixels[items, None], labels[items], CLASSES, names)


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The array in an idx file of unsigned bytes: two zeros, type, number of axes, big-endian lengths, then data.

    Raises:
        DataError: if it is damaged, cut short or has another number of axes.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({error})", help=_HELP) from error
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes([0, 0, _UBYTE, dimensions]):
        raise DataError(f"{path}: this is no idx file of bytes with {dimensions} axes", help=_HELP)
    shape = tuple(np.frombuffer(content, dtype=">u4", count=dimensions, offset=4).tolist())
    expected = head + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(f"{path}: it has {len(content):,} bytes in place of {expected:,}", help=_HELP)
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


def _find(root: str | None) -> Path:
    folders = [Path(name) for name in _FOLDERS] if root is None else [Path(root), Path(root, "FashionMNIST", "raw")]
    for folder in folders:
        if any(folder.glob("train-images-idx3-ubyte*")):
            return folder
    raise DataError(f"there are no Fashion-MNIST files in {' or '.join(map(str, folders))}", help=_HELP)


def _existing(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    for candidate in (path, packed):
        if candidate.is_file():
            return candidate
    raise DataError(f"{packed}: there is no such file", help=_HELP)


def _train_or_val(split: Split, count: int, val: int) -> Int64[np.ndarray, "n"]:
    if val >= count:
        raise RecipeError(f"data.val = {val} leaves none of {count} images to train on", help="make it smaller")
    order = np.argsort(shares([str(item) for item in range(count)]), kind="stable")
    return np.sort(order[:val] if split == "val" else order[val:])
