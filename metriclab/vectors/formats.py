"""Files of arrays in the formats that people keep embeddings in, as they are; what they mean is for `arrays.py`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open
from torch import Tensor

from metriclab.core.parquet import pyarrow_for
from metriclab.core.reading import name_from_line, open_regular, read_lines, require_regular
from metriclab.errors import DataError, MetriclabError

PATHS = ".paths.txt"
"""The ending of the file with the paths of embedded images, beside an `.npy`: a line each, see `name_to_line`."""

NAMES = ("embeddings", "labels", "items", "splits", "groups", "categories")
"""Arrays that are read by their names; a column may be called as that of one row, such as `label`."""

HOW_TO_SAVE = "labels are whole numbers or text: np.save(path, labels.astype(str)) saves names"

Array = np.ndarray | Tensor

_log = logging.getLogger(__name__)


class Arrays(NamedTuple):
    """What a file holds.

    Attributes:
        arrays: by name; the one of a file that has no names is called "".
        paths: of the embedded images, where `metriclab embed` wrote the file.
    """

    arrays: Mapping[str, Array]
    paths: list[str] | None


def read_arrays(path: Path) -> Arrays:
    """The arrays of a file; those of `.npy` and `.safetensors` stay on the disk until they are looked at.

    Raises:
        DataError: where there is no such file, it is damaged, or its ending names no format.
        RecipeError: where `.parquet` lacks its extra.
    """
    if path.suffix not in FORMATS:
        raise DataError(f"{path} has no format metriclab can read", help=f"end it in {', '.join(FORMATS)}")
    try:
        require_regular(path)
        return FORMATS[path.suffix](path)
    except MetriclabError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there") from error
    except Exception as error:  # damage shows as nearly every exception there is
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{path} cannot be read: {reason}", help="is it whole, and is its ending right?") from error


def _npy(path: Path) -> Arrays:
    try:
        # Mapped copy-on-write: torch wants memory that may be written to.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except ValueError as error:
        if _are_objects(error):
            raise _no_objects(str(path)) from error
        raise
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} cannot be read: it is an archive of arrays", help="end its name in .npz")
    names = path.with_suffix(PATHS)
    return Arrays({"": array}, [name_from_line(line) for line in read_lines(names)] if names.exists() else None)


def _npz(path: Path) -> Arrays:
    arrays, left = dict[str, Array](), list[str]()
    with open_regular(path) as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
        for name in archive.files:
            array = _member(path, archive, name)
            if array is None:
                left.append(name)
            else:
                arrays[name] = array
    if left:
        _log.warning("%s: not read, as they are no arrays of numbers or text: %s", path, ", ".join(left))
    return Arrays(arrays, None)


def _member(path: Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray | None:
    try:
        array: Any = archive[name]
    except ValueError as error:
        if not _are_objects(error):
            raise
        if name in NAMES:
            raise _no_objects(f"{path}: its array '{name}'") from error
        return None
    return array if isinstance(array, np.ndarray) else None  # other files of an archive are bytes


def _are_objects(error: ValueError) -> bool:
    return "object" in str(error).lower()  # as NumPy says it where pickles are not allowed


def _no_objects(what: str) -> DataError:
    return DataError(f"{what} cannot be read: it holds Python objects", help=HOW_TO_SAVE)


def _safetensors(path: Path) -> Arrays:
    with safe_open(path, framework="pt") as file:
        paths = json.loads((file.metadata() or {}).get("paths", "null"))
        if paths is not None and not (isinstance(paths, list) and all(isinstance(name, str) for name in paths)):
            raise DataError(f"{path}: its paths are no list of names", help="write it by `metriclab embed`")
        return Arrays({name: file.get_tensor(name) for name in file.keys()}, paths)  # noqa: SIM118


def _parquet(path: Path) -> Arrays:
    parquet = pyarrow_for("reading")
    # By the file and not by its path, of which folders called `seed=1` would become columns.
    with open_regular(path) as file:
        table = parquet.ParquetFile(file).read()
    arrays, paths = dict[str, Array](), None
    for name in (*NAMES, "paths"):
        one = "category" if name == "categories" else name.removesuffix("s")
        columns = [column for column in table.column_names if column in (name, one)]
        if len(columns) > 1:
            raise DataError(f"{path}: there are the columns {' and '.join(columns)}", help="keep the one that is meant")
        if columns and name == "paths":
            paths = [name_from_line(line) for line in table.column(columns[0]).to_pylist()]
        elif columns:
            made = _vectors if name == "embeddings" else _values
            arrays[name] = made(f"{path}: the column '{columns[0]}'", table.column(columns[0]))
    if not arrays:
        held = ", ".join(table.column_names) or "nothing"
        help = "call the one that is meant so, or as that of one row: 'label'"
        raise DataError(f"{path} has none of the columns {', '.join(NAMES)}; it holds {held}", help=help)
    return Arrays(arrays, paths)


def _vectors(what: str, column: Any) -> np.ndarray:
    """A column of lists as rows."""
    import pyarrow
    from pyarrow import compute

    if not any(check(column.type) for check in (pyarrow.types.is_list, pyarrow.types.is_large_list, _is_fixed)):
        raise DataError(f"{what} is {column.type}, expected lists of numbers", help="store a list of numbers a row")
    sizes = compute.unique(compute.list_value_length(column)).to_pylist()
    if len(sizes) > 1 or None in sizes:
        lengths = " and ".join("no" if size is None else str(size) for size in sizes[:2])
        raise DataError(f"{what} has rows of {lengths} numbers", help="store as many numbers in each row")
    flat = compute.list_flatten(column).to_numpy()
    # Arrow's own memory may not be written to, which torch wants.
    return np.array(flat).reshape(len(column), sizes[0] if sizes else 0)


def _is_fixed(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_fixed_size_list(kind))


def _values(what: str, column: Any) -> np.ndarray:
    """A column of whole numbers or of text; where a cell is null, what is unknown: -1 or an empty name."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        _log.warning("%s has %s cells without a value: they are unknown", what, f"{column.null_count:,}")
    if pyarrow.types.is_integer(column.type):
        return np.array(column.cast(pyarrow.int64()).fill_null(-1).to_numpy())
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        return np.array(column.fill_null("").to_pylist(), dtype=str)
    return np.array(column.to_pylist())


FORMATS: dict[str, Callable[[Path], Arrays]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
"""How files of each ending are read."""
