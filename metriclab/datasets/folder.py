"""The user's own images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le, Lt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from metriclab.core.protocols import Split
from metriclab.core.splits import SPLITS
from metriclab.datasets.splits import carve, require_split, shares
from metriclab.errors import DataError
from metriclab.images.datasets import FileDataset, LabelledFile
from metriclab.images.decode import Pixels
from metriclab.images.files import OnError
from metriclab.images.listing import list_images
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
        root: folder of images, or a `.csv`, `.tsv` or `.jsonl` file with a column path and perhaps label, split, query,
            gallery, group (camera, sequence) and category; paths in it start at its own folder, and what is left empty
            is unknown. Blanks around cells do not count.
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
    files, told = carve_missing(listed, {"val": val, "test": test}, disjoint, root)
    return FileDataset(files, split, size=size, on_error=on_error, pixels=pixels, notes=[*notes, *told])


def carve_missing(
    listed: list[LabelledFile], fractions: Mapping[str, float], disjoint: bool | str, root: str
) -> tuple[list[LabelledFile], list[str]]:
    """The items with a val and a test carved out of train, where they have none, and what to tell of it.

    Args:
        listed: the items; all that are in no other split are in train.
        fractions: the part of train that becomes val, and test; 0 for none.
        disjoint: what is carved out whole, see `Folder`; else items are.
        root: where they are, for messages.

    Raises:
        DataError: where they are all of one class, too few, or a split has no two of any class.
    """
    if len(classes := {entry.label for entry in listed} - {""}) == 1:
        raise DataError(
            f"{root}: all images are of one class, {min(classes)!r}",
            help="give it two classes or more, or put all images into one folder to train without classes",
        )
    made = {entry.split for entry in listed}
    wanted = {name: part for name, part in fractions.items() if name not in made and part > 0}
    listed = _carved(listed, wanted, disjoint, root)
    _check_singletons(listed, root)
    return listed, _shares_told(listed, wanted, root)


def _carved(
    listed: list[LabelledFile], fractions: dict[str, float], disjoint: bool | str, root: str
) -> list[LabelledFile]:
    """The images with these splits carved out of train."""
    train = [entry for entry in listed if entry.split == "train"]
    labelled = [entry for entry in train if entry.label]
    if not fractions:
        return listed
    if disjoint:
        moved = _carve_whole(train, "class" if disjoint is True else str(disjoint), fractions, root)
    else:
        moved = _carve_images(labelled or train, fractions, root)
    return [_moved(entry, moved.get(entry.key, "train")) if entry.split == "train" else entry for entry in listed]


def _moved(entry: LabelledFile, split: str) -> LabelledFile:
    """In a split that nobody made, no image is marked as query or gallery: there each is held against all others."""
    return entry if split == entry.split else entry._replace(split=split, query=False, gallery=False)


def _carve_whole(train: list[LabelledFile], what: str, fractions: dict[str, float], root: str) -> dict[str, str]:
    """Whole classes, groups, or sets of both; images that are of none stay in train."""
    if what == "class":
        whole = {entry.key: entry.label for entry in train if entry.label}
    elif what == "group":
        whole = {entry.key: entry.group for entry in train if entry.group}
    else:
        whole = _hanging_together([entry for entry in train if entry.label and entry.group])
    plural = {"class": "classes", "group": "groups"}.get(what, "sets of classes and groups that hang together")
    if not whole:
        raise DataError(f"{root}: there are no {plural} to carve out", help="set data.disjoint = false")
    names = sorted(set(whole.values()))
    # Two classes at least, as with one alone every neighbour would be right.
    least = 2 if what == "class" else 1
    splits = dict(zip(names, carve(names, fractions, least=least, what=plural, place=root).tolist(), strict=True))
    return {key: splits[name] for key, name in whole.items()}


def _hanging_together(entries: list[LabelledFile]) -> dict[str, str]:
    """The set of each image, by its first class: classes with a group in common are in one, and so are their groups."""
    labels, groups = (
        {name: number for number, name in enumerate(sorted({getattr(entry, key) for entry in entries}))}
        for key in ("label", "group")
    )
    edges = np.array([(labels[entry.label], len(labels) + groups[entry.group]) for entry in entries]).reshape(-1, 2)
    size = len(labels) + len(groups)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(size, size))
    of = connected_components(graph, directed=False)[1].tolist()
    first = dict(reversed([(of[number], name) for name, number in labels.items()]))
    return {entry.key: first[of[labels[entry.label]]] for entry in entries}


def _carve_images(entries: list[LabelledFile], fractions: dict[str, float], root: str) -> dict[str, str]:
    classes = defaultdict[str, list[str]](list)
    for entry in entries:
        classes[entry.label].append(entry.key)
    # Two of a class at least, as a query without another has nothing to find. Images without a class can be alone.
    least = 1 if "" in classes else 2
    needed = least * (len(fractions) + 1)
    large = {label: keys for label, keys in classes.items() if len(keys) >= needed}
    if not large:
        raise DataError(
            f"{root}: no class has {needed} images, {least} for each of train, {', '.join(fractions)}",
            help="add images, make folders train, val and test, or set data.disjoint = true to carve out whole classes",
        )
    giving = _giving({label: len(keys) for label, keys in large.items()}, fractions, least)
    moved = dict[str, str]()
    for label, keys in large.items():
        mine = {split: fraction for split, fraction in fractions.items() if label in giving[split]}
        moved.update(zip(keys, carve(keys, mine, least=least, place=root).tolist(), strict=True))
    return moved


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


def _shares_told(listed: list[LabelledFile], fractions: dict[str, float], root: str) -> list[str]:
    """A sentence for each split that has far more or less than was asked for."""
    counts = Counter(entry.split for entry in listed)
    carved = sum(counts[split] for split in {"train", *fractions})
    why = "as a class gives two images or none, and two classes at least give some"
    return [
        f"{root}: data.{split} = {fraction:g} gives {counts[split]:,} of {carved:,} images "
        f"({counts[split] / carved:.0%}), {why}"
        for split, fraction in fractions.items()
        if not 1 / _FAR < counts[split] / carved / fraction < _FAR
    ]


def _check_singletons(listed: list[LabelledFile], root: str) -> None:
    for split in SPLITS[1:]:
        counts = Counter(entry.label for entry in listed if entry.split == split and entry.label)
        if counts and max(counts.values()) == 1:
            raise DataError(
                f"{root}: every class of the split {split!r} has a single image, so no image has another to find",
                help=f"give its classes two images or more, raise data.{split}, or set data.disjoint = true",
            )
