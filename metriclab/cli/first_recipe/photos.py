"""What a first recipe depends on: how many images and classes there are, how large, and in which splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from PIL import Image

from metriclab.core.protocols import Dataset
from metriclab.core.reading import open_regular, printable
from metriclab.core.splits import SPLITS, build_splits
from metriclab.datasets.folder import Folder
from metriclab.errors import DataError
from metriclab.images.columns import Files, LabelledFile
from metriclab.images.datasets import without_decoding
from metriclab.images.decode import giving_reasons, image_formats
from metriclab.images.listing import list_images

LOOKED_AT = 200
MANY_CLASSES = 20
"""From so many on, whole classes can be kept apart to measure on."""


@dataclass(frozen=True, slots=True)
class Photos:
    """Images of a user, as a run would see them.

    Attributes:
        root: folder or table.
        images, classes: of all splits.
        splits: the settings of the data set `folder` that make them.
        why: those settings, in words.
        train: labels of the training split, negative for unknown.
        held: images and classes of val and of test.
        short_side, aspect: medians over the files looked at; the aspect is long by short side. None without a file that
            could be opened.
        unreadable: of those looked at.
    """

    root: Path
    images: int
    classes: int
    splits: dict[str, Any]
    why: str
    train: Int64[np.ndarray, "n"]
    held: dict[str, tuple[int, int]]
    short_side: int | None
    aspect: float | None
    unreadable: int


def look(root: Path) -> Photos:
    """Lists the images as a run does, and opens some of them for their size; none is decoded.

    Raises:
        DataError: where no run could use them.
    """
    files = list_images(root).files
    root, files, alone = _without_its_one_class(root, files)
    splits, why, (train, *held) = _first_that_works(root, files)
    sizes, unreadable = _sizes([files[item] for item in _spread(len(files))])
    short = [min(size) for size in sizes]
    return Photos(
        root=root,
        images=len(files),
        classes=len(files.labels.names),
        splits=splits,
        why=alone + why,
        train=train.labels,
        held={name: _counted(data.labels) for name, data in zip(SPLITS[1:], held, strict=True)},
        short_side=int(np.median(short)) if short else None,
        aspect=float(np.median([max(size) / min(size) for size in sizes])) if sizes else None,
        unreadable=unreadable,
    )


def _without_its_one_class(root: Path, files: Files) -> tuple[Path, Files, str]:
    """Images of one class have nothing to be told from: where they lie in one folder, that is taken as it is."""
    names, codes = files.labels.names, files.labels.codes
    if len(names) != 1 or (codes < 0).any() or not root.is_dir() or len(np.unique(files.splits)) > 1:
        return root, files, ""
    inner = root / names[0]
    if not inner.is_dir() or list_images(inner).files.labels.names:
        return root, files, ""
    alone = f"all images are of one class, {printable(inner.name)}: its folder is taken, without classes; "
    return inner, list_images(inner).files, alone


def _first_that_works(root: Path, files: Files) -> tuple[dict[str, Any], str, list[Dataset]]:
    """The first way to make splits that the data set takes; where it takes none, its reason against the last."""
    refused: DataError | None = None
    for settings, why in _ways(files):
        try:
            with without_decoding():
                chosen = settings
                return settings, why, build_splits(lambda split: Folder(split, root=str(root), **chosen), SPLITS)  # noqa: B023
        except DataError as error:
            refused = error
    assert refused is not None
    raise refused


def _ways(files: Files) -> Iterator[tuple[dict[str, Any], str]]:
    """Settings of the data set for its splits, the best ones first, each with its reason."""
    made, labels = {SPLITS[code] for code in np.unique(files.splits)}, files.labels.names
    if made == set(SPLITS):
        yield {}, "its own splits are kept"
        return
    if "test" in made:
        val = {} if "val" in made else {"val": 0.15}
        yield {**val, "disjoint": _are_disjoint(files)}, "its own splits are kept"
        yield {"val": 0.0}, "its own splits are kept, and train is too small to give a val"
        return
    if not labels:
        yield {"val": 0.0, "test": 0.05}, "without classes nothing can be measured: most images are trained on"
        return
    apart = {"disjoint": True, "val": 0.15, "test": 0.25}
    if len(labels) >= MANY_CLASSES:
        yield apart, f"of {len(labels):,} classes whole ones are kept apart, to measure on classes never trained on"
    yield (
        {"val": 0.15, "test": 0.25},
        f"{_number(len(labels), 'class', 'classes')}, all trained on: images are kept apart",
    )
    yield {"val": 0.0, "test": 0.3}, "so few images give no val: the last step is the result"
    yield apart, "classes of so few images cannot be divided: whole ones are kept apart"
    yield {**apart, "val": 0.0}, "so few classes give no val: the last step is the result"


def _are_disjoint(files: Files) -> bool:
    """Whether test has classes of its own, as val should have then."""
    codes, splits = files.labels.codes, files.splits
    train, test = (set(codes[splits == SPLITS.index(split)].tolist()) - {-1} for split in ("train", "test"))
    return bool(test) and not train & test


def _number(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _spread(count: int) -> list[int]:
    spread: list[int] = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).round().astype(int)).tolist()
    return spread


def _sizes(files: list[LabelledFile]) -> tuple[list[tuple[int, int]], int]:
    """Width and height by the boxes or the heads of files, and how many files have none."""
    found: Counter[str] = Counter()
    sizes = []
    for path, box in ((file.path, file.box) for file in files):
        try:
            with giving_reasons(), open_regular(path) as file, Image.open(file, formats=list(image_formats())) as image:
                sizes.append(image.size if box is None else box.size)
        except Exception:  # what is wrong with it is `check --data`'s to say
            found["unreadable"] += 1
    return sizes, found["unreadable"]


def _counted(labels: Int64[np.ndarray, "n"]) -> tuple[int, int]:
    return len(labels), len(np.unique(labels[labels >= 0]))
