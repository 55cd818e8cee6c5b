"""Embeddings that exist already, as a data set."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Lt
from jaxtyping import Float, Int64
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.protocols import Split
from metriclab.core.splits import SPLITS
from metriclab.datasets.folder import carve_missing
from metriclab.datasets.splits import require_split
from metriclab.errors import DataError
from metriclab.images.datasets import LabelledFile
from metriclab.images.files import say_once
from metriclab.images.tree import Place, folder_places, names_below
from metriclab.registry import register
from metriclab.vectors.arrays import Labels, embeddings_of, labels_in, labels_of
from metriclab.vectors.formats import Array, read_arrays
from metriclab.vectors.rows import finite_norms

_PART = 2**14  # rows that are hashed at a time


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
) -> FeatureDataset:
    """Features of images, or of anything, in a file: a head is trained on them and measured, and no image is read.

    It goes with `encoder.name = "features"`, which hands them on, and the views `plain`. What augments, changes or
    shows images is refused, or left out. Labels and splits are arrays or columns `labels` and `splits` of the same
    file, or files of their own, a row each; else what the paths say that `metriclab embed` wrote, by the rules of the
    data set `folder`. A split that is not there is carved out of train as `folder` does it, by the paths of the rows or
    else their numbers.

    Args:
        split: train, val or test.
        root: a `.npy`, `.npz`, `.safetensors` or `.parquet` file with an array of rows, called `embeddings` where it
            has several. A `.npy` stays on the disk.
        labels: a file of labels: one a line (`.txt`), the column of a table (`.csv`), or an array. Whole numbers,
            negative for unknown, or names, empty for unknown.
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
    arrays, paths = read_arrays(path)
    z = embeddings_of(path, arrays)
    finite_norms(z, path)
    given = labels_in(path, arrays) if labels is None else labels_of(Path(labels))
    places = folder_places(paths) if paths is not None else [Place("", "train")] * len(z)
    own = labels_of(Path(splits), "splits") if splits is not None else _array(path, arrays.get("splits"))
    for what, values in (("paths", places), ("labels", given), ("splits", own)):
        if values is not None and len(values) != len(z):
            raise DataError(
                f"there are {len(values):,} {what} for the {len(z):,} embeddings of {path}",
                help="give one for each row, in their order",
            )
    named = [place.label for place in places] if given is None else _names(given)
    of_split = [place.split for place in places] if own is None else _splits(own, Path(splits or root))
    names = [str(row) for row in range(len(z))] if paths is None else paths
    keys = names if paths is None else names_below(paths)
    listed = [LabelledFile(Path(name), *known) for name, *known in zip(names, named, of_split, keys, strict=True)]
    rows, notes = carve_missing(listed, {"val": val, "test": test}, disjoint, root)
    return FeatureDataset(z, rows, split, place=root, notes=notes)


class FeatureDataset:
    """One split of features that exist already.

    Args:
        z: all rows, of all splits.
        rows: the path or another name, the label and the split of each.
        split: which one this is; val may have no rows.
        place: where they are, for messages.
        notes: what a user should know of how the splits were made; the log says it.

    Attributes:
        labels: index into classes, -1 for unknown.
        classes: names.
        names: of the rows.
        fingerprint: hex digest of features and labels.

    Raises:
        DataError: where the split has no row.
    """

    has_features = True

    def __init__(
        self,
        z: Float[Tensor, "n d"],
        rows: Sequence[LabelledFile],
        split: Split,
        /,
        *,
        place: str,
        notes: Sequence[str] = (),
    ) -> None:
        self._z, self._rows, self._place, self.notes = z, rows, place, notes
        for note in notes:
            say_once(note)
        self.classes = sorted({row.label for row in rows} - {""}, key=_by_number)
        self._choose(split)

    def with_split(self, split: Split, /) -> FeatureDataset:
        """Another split of the same data set."""
        other = copy.copy(self)
        other._choose(split)
        return other

    def _choose(self, split: Split) -> None:
        self._items = np.array([at for at, row in enumerate(self._rows) if row.split == split], dtype=np.int64)
        if not len(self._items) and split != "val":
            raise DataError(
                f"{self._place}: the split {split!r} has no row",
                help=f"give it some rows, or raise data.{split} above 0",
            )
        numbers = {name: number for number, name in enumerate(self.classes)} | {"": -1}
        mine = [self._rows[item] for item in self._items.tolist()]
        self.labels = np.array([numbers[row.label] for row in mine], dtype=np.int64)
        self.names = [str(row.path) for row in mine]

    @property
    def fingerprint(self) -> str:
        """Hex digest of features and labels."""
        state = hashlib.sha256(repr(tuple(self._z.shape[1:])).encode())
        for start in range(0, len(self._items), _PART):
            part = self._z[torch.from_numpy(self._items[start : start + _PART])].float()
            state.update(part.contiguous().numpy().data)
        state.update("\0".join(self._rows[item].label for item in self._items.tolist()).encode())
        return state.hexdigest()

    def images(self, items: Int64[np.ndarray, "m"], /) -> Images:
        """These rows, handed on as features."""
        return Images.of_features(self._z[torch.from_numpy(self._items[items])])


def _array(path: Path, array: Array | None) -> Labels | None:
    return None if array is None else np.asarray(array)


def _names(labels: Labels) -> list[str]:
    """Labels as names, "" for unknown."""
    if labels.dtype.kind == "U":
        return [str(label) for label in labels.tolist()]
    return ["" if label < 0 else str(label) for label in labels.tolist()]


def _splits(values: Labels, path: Path) -> Iterator[str]:
    for row, split in enumerate(values.tolist()):
        if split not in SPLITS:
            raise DataError(
                f"{path}: the split {split!r} of row {row} is none of {', '.join(SPLITS)}", help="name one of them"
            )
        yield split


def _by_number(name: str) -> tuple[int, str]:
    return (len(name), name) if name.isdecimal() else (0, name)
