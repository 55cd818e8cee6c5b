"""Embeddings that exist already, as a data set."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt
from jaxtyping import Int64

from metriclab.core.protocols import Split
from metriclab.core.splits import SPLITS
from metriclab.datasets.folder import carve_missing
from metriclab.datasets.splits import require_split
from metriclab.errors import DataError
from metriclab.images.columns import Files, Made, Names
from metriclab.images.datasets import FileDataset
from metriclab.images.manifest import read_manifest
from metriclab.images.tables import is_table
from metriclab.images.tree import folder_places, names_below
from metriclab.registry import register
from metriclab.vectors.arrays import (
    Labels,
    column_in,
    embeddings_of,
    integers_of,
    labels_in,
    labels_of,
    require_order,
)
from metriclab.vectors.formats import Array, Arrays, read_arrays
from metriclab.vectors.rows import finite_norms


@register("dataset", "features")
def Features(
    split: Split,
    /,
    *,
    root: str,
    labels: str | None = None,
    splits: str | None = None,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
    test: Annotated[float, Ge(0), Lt(1)] = 0.2,
    disjoint: bool = False,
) -> FileDataset:
    """Features of images, or of anything, in a file: a head is trained on them and measured, and no image is read.

    It goes with `encoder.name = "features"`, which hands them on, and the views `plain`. What augments, changes or
    shows images is refused, or left out. Labels, splits, groups and categories are arrays or columns of these names in
    the same file, or the first two files of their own, a row each; else what the paths say that `metriclab embed`
    wrote, by the rules of the data set `folder`. A split that is not there is carved out of train as `folder` does it,
    by the paths of the rows or else their numbers. Rows that share a number in an array `items` are of one thing: where
    they are measured they never find each other, while training takes each as one of its own.

    Args:
        split: train, val or test.
        root: a `.npy`, `.npz`, `.safetensors` or `.parquet` file with an array of rows, called `embeddings` where it
            has several. A `.npy` stays on the disk.
        labels: a file of labels: one a line (`.txt`), or an array; whole numbers, negative for unknown, or names, empty
            for unknown. Or a table as `folder` takes it, of which a line is a row and all columns count.
        splits: a file that says train, val or test of each row: one a line (`.txt`), or an array.
        val: part of train that becomes val, if there is no val; 0 for none.
        test: part of train that becomes test, if there is no test; 0 for none.
        disjoint: whether whole classes are carved out, to measure on classes never trained on; else rows are.

    Raises:
        DataError: where a file cannot be read, or does not fit; it names the file.
        RecipeError: where `.parquet` lacks its extra.
    """
    require_split(split)
    path = Path(root)
    stored = read_arrays(path)
    z = embeddings_of(path, stored.arrays)
    finite_norms(z, path)
    notes, items = list[str](), integers_of(path, stored.arrays, "items")
    if items is not None:
        _require_one_each("items", items, path, len(z))
    listed = _rows(path, stored, len(z))
    if labels is not None and is_table(Path(labels), "labels"):
        listed, said = read_manifest(Path(labels))
        notes += said
        _require_one_each("lines", listed, path, len(z))
        require_order(Path(labels), listed.names, path, stored.paths)
    elif (given := labels_in(path, stored.arrays) if labels is None else labels_of(Path(labels))) is not None:
        _require_one_each("labels", given, path, len(z))
        listed = replace(listed, labels=_names(given))
    groups, categories = (_column(path, stored, name, len(z)) for name in ("groups", "categories"))
    listed = replace(listed, groups=groups or listed.groups, categories=categories or listed.categories)
    of_rows = stored.arrays.get("splits") if splits is None else labels_of(Path(splits), "splits")
    if of_rows is not None:
        _require_one_each("splits", of_rows, path, len(z))
        listed = replace(listed, splits=_split_numbers(of_rows, Path(splits or root)))
    listed, told = carve_missing(listed, {"val": val, "test": test}, disjoint, root)
    classes = sorted(listed.labels.names, key=_by_number)
    return FileDataset(listed, split, classes=classes, notes=[*notes, *told], features=z, items=items)


def _rows(path: Path, stored: Arrays, count: int) -> Files:
    """The rows by their paths, where they have any."""
    if stored.paths is None:
        return Files.plain(Made(count, lambda row: f"{path}/{row}"), Made(count, str))
    _require_one_each("paths", stored.paths, path, count)
    places = folder_places(stored.paths)
    splits = np.array([SPLITS.index(place.split) for place in places], dtype=np.int64)
    rows = Files.plain([str(Path(name)) for name in stored.paths], names_below(stored.paths))
    return replace(rows, labels=Names.of(place.label for place in places), splits=splits)


def _column(path: Path, stored: Arrays, name: str, count: int) -> Names | None:
    column = column_in(path, stored.arrays, name)
    if column is not None:
        _require_one_each(name, column, path, count)
    return None if column is None else _names(column)


def _require_one_each(what: str, values: Sized, path: Path, count: int) -> None:
    if len(values) != count:
        raise DataError(
            f"there are {len(values):,} {what} for the {count:,} embeddings of {path}",
            help="give one for each row, in their order",
        )


def _names(labels: Labels) -> Names:
    """Labels as names, none for unknown."""
    if labels.dtype.kind == "U":
        return Names.of(labels.tolist())
    different, codes = np.unique(np.maximum(labels, -1), return_inverse=True)
    return Names.numbered(codes.astype(np.int32), ["" if label < 0 else str(label) for label in different.tolist()])


def _split_numbers(values: Array, path: Path) -> Int64[np.ndarray, "n"]:
    number: dict[str, int] = {split: code for code, split in enumerate(SPLITS)}
    names: list[str] = np.asarray(values).tolist()
    for row, name in enumerate(names):
        if name not in number:
            raise DataError(
                f"{path}: the split {name!r} of row {row} is none of {', '.join(SPLITS)}", help="name one of them"
            )
    return np.array([number[name] for name in names], dtype=np.int64)


def _by_number(name: str) -> tuple[int, str]:
    return (len(name), name) if name.isdecimal() else (0, name)
