"""Embeddings, labels and items out of the arrays of files."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from metriclab.core.reading import is_missing, read_lines
from metriclab.core.splits import SPLITS
from metriclab.errors import DataError
from metriclab.images.columns import Files
from metriclab.images.files import say_once
from metriclab.images.manifest import read_manifest
from metriclab.images.tables import is_table
from metriclab.images.tree import names_below
from metriclab.vectors.formats import HOW_TO_SAVE, NAMES, Array, read_arrays

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # as many digits as int64 has in any case

_OF_TABLES: Mapping[str, Callable[[Files], list[str]]] = {
    "labels": lambda files: list(files.labels),
    "groups": lambda files: list(files.groups),
    "splits": lambda files: [SPLITS[code] for code in files.splits],
}
"""What a table of images has of what files of their own may have."""

_log = logging.getLogger(__name__)

Labels = Shaped[np.ndarray, "n"]
"""int64, negative for unknown; or names, empty for unknown."""


def embeddings_of(path: Path, arrays: Mapping[str, Array]) -> Float[Tensor, "n d"]:
    """The embeddings of a file: its array "embeddings", or its only one of two dimensions.

    Raises:
        DataError: where there are none, or not n x d floating-point numbers with n and d at least 1.
    """
    array = _chosen(path, arrays, "embeddings", 2)
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(
            f"{path}: embeddings have shape {tuple(array.shape)}, expected (rows, dimensions), both above 0"
        )
    if not (array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"):
        help = "store them as float32; whole numbers of a quantised index have to be scaled back"
        raise DataError(f"{path}: embeddings are {_type(array)}, not floating-point numbers", help=help)
    return _tensor(array)


def labels_in(path: Path, arrays: Mapping[str, Array]) -> Labels | None:
    """The labels beside embeddings, if there are any. Raises as `labels_of`."""
    return column_in(path, arrays, "labels")


def column_in(path: Path, arrays: Mapping[str, Array], name: str) -> Labels | None:
    """Numbers or names of another kind than labels beside embeddings, if there are any. Raises as `labels_of`."""
    return _labels(path, arrays[name]) if name in arrays else None


def groups_in(path: Path, arrays: Mapping[str, Array], labels: Path | None) -> Labels | None:
    """The groups beside embeddings, or beside labels in a table; None where there are none. Raises as `labels_of`."""
    if (beside := column_in(path, arrays, "groups")) is not None:
        return beside
    groups = labels_of(labels, "groups") if labels is not None and is_table(labels, "groups") else None
    return groups if groups is not None and (groups != "").any() else None


def require_order(table: Path, names: Sequence[str], embeddings: Path, paths: Sequence[str] | None) -> None:
    """Raises a DataError where a table lists other images than those of the embeddings, or in another order."""
    if paths is None or len(names) != len(paths):
        return
    for row, (name, path) in enumerate(zip(names_below(names), names_below(paths), strict=True)):
        if name != path:
            raise DataError(
                f"{table}: its image {row + 1} is {name!r}, and that of row {row} of {embeddings} is {path!r}",
                help="list the images in the order of the rows, or embed the table itself",
            )


def labels_of(path: Path, name: str = "labels") -> Labels:
    """The labels of a file of their own: of its array of that name, or of a text file (`.txt`) with one a line.

    Lines that are all whole numbers are numbers, else they are names. Of a table of images they are its labels, groups
    or splits, by the name.

    Raises:
        DataError: where they are no list of whole numbers or names, or a table tells no splits.
    """
    if name in _OF_TABLES and is_table(path, name):
        files, notes = read_manifest(path)
        for note in notes:
            say_once(note)
        if name == "splits" and not files.splits.any():
            help = "name them in a column 'split', or leave splits away to have them carved out"
            raise DataError(f"{path}: the table has no image in val or test", help=help)
        return np.array(_OF_TABLES[name](files))
    if path.suffix != ".txt":
        return _labels(path, _chosen(path, read_arrays(path).arrays, name, 1))
    lines = _stripped_lines(path)
    for number, line in enumerate(lines, 1):
        if is_missing(line):
            raise _no_class(f"{path}:{number}: {line!r}")
    if all(_INTEGER.fullmatch(line) for line in lines if line):
        return np.array([int(line) if line else -1 for line in lines], dtype=np.int64)
    return np.array(lines)


def _stripped_lines(path: Path) -> list[str]:
    try:
        written = read_lines(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", help="name a file of labels") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}", help="save it as text in UTF-8") from error
    lines = [line.strip() for line in written]
    changed = sum(line != stripped for line, stripped in zip(written, lines, strict=True))
    if changed:
        _log.warning("%s: left out the blanks around %s of %s labels", path, f"{changed:,}", f"{len(lines):,}")
    return lines


def _no_class(what: str) -> DataError:
    return DataError(f"{what} is a missing value and no class", help="leave it empty where the class is unknown")


def integers_of(path: Path, arrays: Mapping[str, Array] | None, name: str) -> Int64[np.ndarray, "n"] | None:
    """The whole numbers of a name: of a file of their own where `arrays` is None, else among those if they are there.

    Raises:
        DataError: where they are no list of whole numbers.
    """
    if arrays is not None and name not in arrays:
        return None
    values = _labels(path, arrays[name]) if arrays is not None else labels_of(path, name)
    if values.dtype.kind != "i":
        raise DataError(f"{path}: {name} are not whole numbers", help="number them; rows of one thing share a number")
    return values


def _labels(path: Path, array: Array) -> Labels:
    values = array.numpy() if isinstance(array, Tensor) and array.dtype != torch.bfloat16 else array
    if isinstance(values, np.ndarray) and values.ndim == 1:
        if values.dtype.kind in "iu" and (values.dtype != np.uint64 or not (values >= 2**63).any()):
            return np.ascontiguousarray(values, dtype=np.int64)
        if values.dtype.kind == "U":
            for missing in filter(is_missing, set(values.tolist())):
                row = int(np.flatnonzero(values == missing)[0])
                raise _no_class(f"{path}: the label {missing!r} of row {row}")
            return np.ascontiguousarray(values)
    raise DataError(
        f"{path}: labels are {_type(array)} of shape {tuple(array.shape)}, expected whole numbers or names, one a row",
        help=f"{HOW_TO_SAVE}; negative numbers and empty names are unknown",
    )


def _chosen(path: Path, arrays: Mapping[str, Array], name: str, dimensions: int) -> Array:
    if name in arrays:
        return arrays[name]
    alone = len(arrays) == 1 and arrays.keys().isdisjoint(NAMES)
    fitting = [array for array in arrays.values() if alone or array.ndim == dimensions]
    if len(fitting) == 1:
        return fitting[0]
    held = ", ".join(f"{other} {tuple(array.shape)}" for other, array in arrays.items()) or "nothing"
    raise DataError(f"{path} has no array '{name}'; it holds {held}", help=f"call the one that is meant '{name}'")


def _tensor(array: Array) -> Tensor:
    if isinstance(array, Tensor):
        return array
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    swapped = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(swapped if min(swapped.strides) >= 0 else swapped.copy())


def _type(array: Array) -> str:
    return str(array.dtype).removeprefix("torch.")
