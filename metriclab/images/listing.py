"""Which images a folder or a manifest holds, with their classes and splits; no image is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metriclab.core.splits import SPLITS
from metriclab.errors import DataError
from metriclab.images.columns import Files, Names
from metriclab.images.decode import Pixels
from metriclab.images.manifest import read_manifest
from metriclab.images.tables import is_table
from metriclab.images.tree import Tree, place_of, require_only_splits, scan

ENDINGS = (
    "files are taken for images if they end in .bmp .gif .jpeg .jpg .png .tif .webp or otherwise, as far as Pillow "
    "decodes them"
)
"""What to tell where no image was found."""


class Listing(NamedTuple):
    """The images of a folder or a manifest.

    Attributes:
        files: sorted by path; of a manifest in its order.
        notes: what was left out, or read otherwise than it is written, in words.
    """

    files: Files
    notes: list[str]


def list_images(root: Path, columns: Mapping[str, str] | None = None, pixels: Pixels = "rgb") -> Listing:
    """All images under a root.

    The root is a manifest, or a folder that holds images, or one folder a class, or folders `train`, `val` and `test`
    of either.

    Args:
        root: the folder, or the file.
        columns: of a manifest, see `read_manifest`.
        pixels: what is made of the files, as it decides on which are images.

    Raises:
        DataError: if it is missing, empty, or has an empty class folder or an unclear layout.
    """
    if is_manifest(root):
        return Listing(*read_manifest(root, columns))
    if not root.is_dir():
        found = "is no folder" if root.exists() else "does not exist"
        raise DataError(
            f"{root}: {found}",
            help=f"set data.root to a folder of images or a .csv manifest; relative paths start at {Path.cwd()}",
        )
    if columns:
        raise DataError(f"{root}: a folder has no columns", help="leave data.columns away, or set data.root to a table")
    tree = scan(root, pixels)
    _check_layout(root, tree)
    places = [place_of(name, tree.split_level) for name in tree.names]
    files = Files.plain([str(root / name) for name in tree.names], tree.names)
    splits = np.array([SPLITS.index(place.split) for place in places], dtype=np.int64)
    return Listing(replace(files, labels=Names.of(place.label for place in places), splits=splits), tree.notes)


def is_manifest(root: Path) -> bool:
    """Whether a root is a table of images and not a folder of them."""
    return root.is_file() and is_table(root)


def _check_layout(root: Path, tree: Tree) -> None:
    if not tree.split_level:
        _check_classes(root, tree, "")
        return
    folders = [name for name in tree.folders if "/" not in name]
    require_only_splits(root, folders, [name for name in tree.names if "/" not in name], "image")
    for name in folders:
        _check_classes(root, tree, f"{name}/")


def _check_classes(root: Path, tree: Tree, prefix: str) -> None:
    names = list(_below(tree.names, prefix))
    classes = [name for name in _below(tree.folders, prefix) if "/" not in name]
    loose = [name for name in names if "/" not in name]
    folder = root / prefix
    if not loose and not classes:
        raise DataError(f"{folder}: the folder holds no image", help=ENDINGS)
    if loose and classes:
        raise DataError(
            f"{folder}: the image {loose[0]!r} lies beside the class folder {classes[0]!r}",
            help="move loose images into class folders, or elsewhere",
        )
    filled = {name.partition("/")[0] for name in names}
    for name in classes:
        if name not in filled:
            raise DataError(f"{folder / name}: the class folder holds no image", help=f"fill or remove it; {ENDINGS}")


def _below(names: list[str], prefix: str) -> Iterator[str]:
    return (name.removeprefix(prefix) for name in names if name.startswith(prefix))
