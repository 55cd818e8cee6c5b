"""The user's own images."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le, Lt

from metriclab.core.protocols import Split
from metriclab.datasets.listing import list_images
from metriclab.datasets.splits import SPLITS, carve, require_split
from metriclab.errors import DataError
from metriclab.images.datasets import FileDataset, LabelledFile
from metriclab.images.files import OnError
from metriclab.registry import register


@register("dataset", "folder")
def Folder(
    split: Split,
    /,
    *,
    root: str,
    size: Annotated[int, Ge(8), Le(4096)] = 256,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
    test: Annotated[float, Ge(0), Lt(1)] = 0.2,
    disjoint: bool = False,
    on_error: OnError = "error",
) -> FileDataset:
    """A folder of images: one folder a class, or a flat folder without classes, or a CSV manifest.

    `root` may also hold folders `train`, `val` and `test`. A split that is not there is carved out of train: each
    image, or each class, falls into it by a hash of its own name, so that new files move no others (in small classes
    one at each border, where a split would get too few). Each class gives at least two images to each split, or stays
    in train if it has too few for that. Images without a class have label -1; where others have one, they stay in
    train. Files are decoded once, to upright RGB, into the cache, which `metriclab data` builds ahead, lists and
    removes. Views are made of what is cached: detail beyond `size` is lost to them, and the log says for how many
    images.

    Args:
        split: train, val or test.
        root: folder of images, or a `.csv` file with the columns path, label and perhaps split; paths in it start at
            its own folder, and a class left empty is unknown.
        size: images are reduced until their short side has this many pixels, never enlarged; choose it a little
            above the size of the crops. Their long side is at most 4 times that.
        val: part of train that becomes val, if there is no val; 0 for none.
        test: part of train that becomes test, if there is no test; 0 for none.
        disjoint: whether whole classes are carved out, to measure on classes never trained on; else images are.
        on_error: "error" to stop at files that give no image, "skip" to leave them out and list them in a file.

    Raises:
        DataError: if the images cannot be used as they are; it names the file or folder.
        StorageError: if the cache cannot be written.
    """
    require_split(split)
    listed = list_images(Path(root))
    if len(classes := {entry.label for entry in listed} - {""}) == 1:
        raise DataError(
            f"{root}: all images are of one class, {min(classes)!r}",
            help="give it two classes or more, or put all images into one folder to train without classes",
        )
    listed = _carved(listed, {"val": val, "test": test}, disjoint, root)
    _check_singletons(listed, root)
    return FileDataset(listed, split, size=size, on_error=on_error)


def _carved(listed: list[LabelledFile], fractions: dict[str, float], disjoint: bool, root: str) -> list[LabelledFile]:
    """The images with the splits that nobody made carved out of train."""
    made = {entry.split for entry in listed}
    wanted = {split: fraction for split, fraction in fractions.items() if split not in made and fraction > 0}
    train = [entry for entry in listed if entry.split == "train"]
    labelled = [entry for entry in train if entry.label]
    if not wanted:
        return listed
    moved = _carve_classes(labelled, wanted, root) if disjoint else _carve_images(labelled or train, wanted, root)
    return [entry._replace(split=moved.get(entry.key, entry.split)) for entry in listed]


def _carve_classes(labelled: list[LabelledFile], fractions: dict[str, float], root: str) -> dict[str, str]:
    if not labelled:
        raise DataError(f"{root}: there are no classes to carve out", help="set data.disjoint = false")
    names = sorted({entry.label for entry in labelled})
    # Two at least, as with one class alone every neighbour would be right.
    splits = dict(zip(names, carve(names, fractions, least=2, what="classes", place=root).tolist(), strict=True))
    return {entry.key: splits[entry.label] for entry in labelled}


def _carve_images(entries: list[LabelledFile], fractions: dict[str, float], root: str) -> dict[str, str]:
    classes = defaultdict[str, list[str]](list)
    for entry in entries:
        classes[entry.label].append(entry.key)
    # Two of a class at least, as a query without another has nothing to find. Images without a class can be alone.
    least = 1 if "" in classes else 2
    needed = least * (len(fractions) + 1)
    large = [keys for keys in classes.values() if len(keys) >= needed]
    if not large:
        raise DataError(
            f"{root}: no class has {needed} images, {least} for each of train, {', '.join(fractions)}",
            help="add images, make folders train, val and test, or set data.disjoint = true to carve out whole classes",
        )
    return {
        key: split
        for keys in large
        for key, split in zip(keys, carve(keys, fractions, least=least, place=root).tolist(), strict=True)
    }


def _check_singletons(listed: list[LabelledFile], root: str) -> None:
    for split in SPLITS[1:]:
        counts = Counter(entry.label for entry in listed if entry.split == split and entry.label)
        if counts and max(counts.values()) == 1:
            raise DataError(
                f"{root}: every class of the split {split!r} has a single image, so no image has another to find",
                help=f"give its classes two images or more, raise data.{split}, or set data.disjoint = true",
            )
