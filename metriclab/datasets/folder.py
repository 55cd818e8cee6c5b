"""The user's own images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le, Lt
from jaxtyping import Int, Int64, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from metriclab.core.protocols import Split
from metriclab.core.splits import SPLITS
from metriclab.datasets.splits import carve, require_split, shares
from metriclab.errors import DataError
from metriclab.images.columns import Files
from metriclab.images.datasets import FileDataset
from metriclab.images.decode import Pixels
from metriclab.images.files import OnError
from metriclab.images.listing import list_images
from metriclab.images.manifest import missing_files_first
from metriclab.registry import register

_FEWEST_CLASSES = 2
"""In a split, if there are so many: with one class alone every neighbour would be right."""

_FAR = 1.5
"""How many times the part that was asked for is told."""


@register("dataset", "folder")
def Folder(
    split: Split,
    /,
    *,
    root: str,
    size: Annotated[int, Ge(8), Le(4096)] = 256,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
    test: Annotated[float, Ge(0), Lt(1)] = 0.2,
    disjoint: bool | Literal["class", "group", "class-and-group"] = False,
    columns: dict[str, str] | None = None,
    on_error: OnError = "error",
    pixels: Pixels = "rgb",
) -> FileDataset:
    """A folder of images: one folder a class, or a flat folder without classes, or a table of images.

    The class of an image is the first folder below `root`, however deep it lies in it. `root` may also hold folders
    `train`, `val` and `test`, with the classes in them. A split that is not there is carved out of train: each image,
    or each class, falls into it by a hash of its own name, so that new files move no others, but for one at a border.
    A class gives two images to a split or none, and stays in train if it is too small to give two to each. Where its
    part would be less than two, so many classes give two, chosen by their names, that the split gets its part of all
    images; two classes give some in any case. The log says what each split really has. Images without a class have
    label -1; where others have one, they stay in train.

    Files count as images by their endings, as far as Pillow decodes them; hidden ones do not. Links to files and
    folders are followed. The log says what is left out. Files are decoded once, upright, into the cache, which
    `metriclab data` builds ahead, lists and removes. Views are made of what is cached: detail beyond `size` is lost to
    them, and the log says for how many images.

    Args:
        split: train, val or test.
        root: folder of images, or a `.csv`, `.tsv`, `.jsonl` or `.parquet` file with a column path and perhaps label,
            split, query, gallery, group (camera, sequence), category, and x_1, y_1, x_2 and y_2, of a box that is cut
            out; paths in it start at its own folder, and what is left empty is unknown. Blanks around cells do not
            count.
        size: images are reduced until their short side has this many pixels, never enlarged; choose it a little
            above the size of the crops. Their long side is at most 4 times that.
        val: part of train that becomes val, if there is no val; 0 for none.
        test: part of train that becomes test, if there is no test; 0 for none.
        disjoint: what is carved out whole: "class" (or true), to measure on classes never trained on; "group", on
            cameras or sequences never seen; "class-and-group", on both, by classes and groups that hang together; else
            images are.
        columns: what columns are called in the table, where that differs: `{ label = "product_id", group = "camera" }`.
        on_error: "error" to stop at files that give no image, "skip" to leave them out and list them in a file.
        pixels: "rgb" makes RGB of 8 bits of all files, and the log says what that loses. "stored" keeps the channels
            and the bits, 8 or 16, that the files have, the same in all: grey is one channel, the pages of a TIFF are
            channels, as its bands are (with the extra `tiff`), and `.npy` files are images too.

    Raises:
        DataError: if the images cannot be used as they are; it names the file or folder.
        StorageError: if the cache cannot be written.
    """
    require_split(split)
    listed, notes = list_images(Path(root), columns, pixels)
    with missing_files_first(listed):
        files, told = carve_missing(listed, {"val": val, "test": test}, disjoint, root)
        return FileDataset(files, split, size=size, on_error=on_error, pixels=pixels, notes=[*notes, *told])


def carve_missing(
    listed: Files, fractions: Mapping[str, float], disjoint: bool | str, root: str
) -> tuple[Files, list[str]]:
    """The items with a val and a test carved out of train, where they have none, and what to tell of it.

    Args:
        listed: the items; all that are in no other split are in train.
        fractions: the part of train that becomes val, and test; 0 for none.
        disjoint: what is carved out whole, see `Folder`; else items are.
        root: where they are, for messages.

    Raises:
        DataError: where they are all of one class, too few, or a split has no two of any class.
    """
    if len(listed.labels.names) == 1:
        raise DataError(
            f"{root}: all images are of one class, {listed.labels.names[0]!r}",
            help="give it two classes or more, or put all images into one folder to train without classes",
        )
    made = {SPLITS[code] for code in np.unique(listed.splits)}
    wanted = {name: part for name, part in fractions.items() if name not in made and part > 0}
    if wanted:
        listed = _carved(listed, wanted, disjoint, root)
    _check_singletons(listed, root)
    return listed, _shares_told(listed, wanted, root)


def _carved(listed: Files, fractions: dict[str, float], disjoint: bool | str, root: str) -> Files:
    """The images with these splits carved out of train."""
    train = np.flatnonzero(listed.splits == 0)
    if disjoint:
        items, carved = _carve_whole(listed, train, "class" if disjoint is True else str(disjoint), fractions, root)
    else:
        labelled = train[listed.labels.codes[train] >= 0]
        items, carved = _carve_images(listed, labelled if len(labelled) else train, fractions, root)
    splits = listed.splits.copy()
    splits[items] = carved
    return listed.with_splits(splits)


Carved = tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]
"""Some items, and the split of each by its number."""


def _carve_whole(
    listed: Files, train: Int64[np.ndarray, "t"], what: str, fractions: dict[str, float], root: str
) -> Carved:
    """Whole classes, groups, or sets of both; images that are of none stay in train."""
    labels, groups = listed.labels.codes[train], listed.groups.codes[train]
    of = {"class": labels, "group": groups}.get(what, np.minimum(labels, groups))
    train, labels, groups = (values[of >= 0] for values in (train, labels, groups))
    plural = {"class": "classes", "group": "groups"}.get(what, "sets of classes and groups that hang together")
    if not len(train):
        raise DataError(f"{root}: there are no {plural} to carve out", help="set data.disjoint = false")
    names = listed.groups.names if what == "group" else listed.labels.names
    whole = {"class": labels, "group": groups}.get(what)
    used, places = np.unique(_hanging_together(labels, groups) if whole is None else whole, return_inverse=True)
    # Two classes at least, as with one alone every neighbour would be right.
    least = 2 if what == "class" else 1
    splits = carve([names[code] for code in used], fractions, least=least, what=plural, place=root)
    return train, _numbers(splits)[places]


def _hanging_together(labels: Int[np.ndarray, "m"], groups: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
    """The set of each image, by its first class: classes with a group in common are in one, and so are their groups."""
    classes = int(labels.max()) + 1
    size = classes + int(groups.max()) + 1
    graph = coo_array((np.ones(len(labels)), (labels, classes + groups)), shape=(size, size))
    of = connected_components(graph, directed=False)[1]
    first = np.full(size, classes)
    np.minimum.at(first, of[labels], labels)
    sets: Int[np.ndarray, "m"] = first[of[labels]]
    return sets


def _numbers(splits: Shaped[np.ndarray, "k"]) -> Int64[np.ndarray, "k"]:
    return np.array([SPLITS.index(name) for name in splits.tolist()], dtype=np.int64)


def _carve_images(listed: Files, items: Int64[np.ndarray, "t"], fractions: dict[str, float], root: str) -> Carved:
    # Two of a class at least, as a query without another has nothing to find. Images without a class can be alone.
    of = listed.labels.codes[items]
    items, of = (values[np.argsort(of, kind="stable")] for values in (items, of))
    starts = np.flatnonzero(np.diff(of, prepend=-2))
    classes = {
        ("" if of[start] < 0 else listed.labels.names[of[start]]): part
        for start, part in zip(starts, np.split(items, starts[1:]), strict=True)
    }
    least = 1 if "" in classes else 2
    needed = least * (len(fractions) + 1)
    large = {label: part for label, part in classes.items() if len(part) >= needed}
    if not large:
        raise DataError(
            f"{root}: no class has {needed} images, {least} for each of train, {', '.join(fractions)}",
            help="add images, make folders train, val and test, or set data.disjoint = true to carve out whole classes",
        )
    giving = _giving({label: len(part) for label, part in large.items()}, fractions, least)
    moved = []
    for label, part in large.items():
        mine = {split: fraction for split, fraction in fractions.items() if label in giving[split]}
        keys = [listed.keys[item] for item in part.tolist()]
        moved.append(_numbers(carve(keys, mine, least=least, place=root)))
    return np.concatenate(list(large.values())), np.concatenate(moved)


def _giving(sizes: dict[str, int], fractions: dict[str, float], least: int) -> dict[str, set[str]]:
    """The classes that give images to each split: those whose part is `least`, and of smaller ones as many as it takes.

    A class whose part is a third of `least` gives `least` images with a chance of a third, by a hash of its name.
    """
    labels, giving = sorted(sizes), {}
    for split, fraction in fractions.items():
        chances = np.minimum(1, np.array([sizes[label] for label in labels]) * fraction / least)
        reached = shares([f"{split}/{label}" for label in labels]) / chances
        count = max(int((reached < 1).sum()), min(_FEWEST_CLASSES, len(labels)))
        giving[split] = {labels[place] for place in np.argsort(reached, kind="stable")[:count]}
    return giving


def _shares_told(listed: Files, fractions: dict[str, float], root: str) -> list[str]:
    """A sentence for each split that has far more or less than was asked for."""
    counts = dict(zip(SPLITS, np.bincount(listed.splits, minlength=len(SPLITS)).tolist(), strict=True))
    carved = sum(counts[split] for split in {"train", *fractions})
    why = "as a class gives two images or none, and two classes at least give some"
    return [
        f"{root}: data.{split} = {fraction:g} gives {counts[split]:,} of {carved:,} images "
        f"({counts[split] / carved:.0%}), {why}"
        for split, fraction in fractions.items()
        if not 1 / _FAR < counts[split] / carved / fraction < _FAR
    ]


def _check_singletons(listed: Files, root: str) -> None:
    for code, split in enumerate(SPLITS[1:], start=1):
        labels = listed.labels.codes[(listed.splits == code) & (listed.labels.codes >= 0)]
        if len(labels) and np.bincount(labels).max() == 1:
            raise DataError(
                f"{root}: every class of the split {split!r} has a single image, so no image has another to find",
                help=f"give its classes two images or more, raise data.{split}, or set data.disjoint = true",
            )
