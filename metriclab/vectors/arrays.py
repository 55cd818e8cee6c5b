"""Arrays of embeddings, labels and items from the files that people keep them in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metriclab.errors import DataError, RecipeError

Array = np.ndarray | Tensor
Labels = Shaped[np.ndarray, "n"]
"""int64, negative for unknown; or names, empty for unknown."""


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
    if not path.is_file():
        raise DataError(f"{path} is not there")
    try:
        return FORMATS[path.suffix](path)
    except RecipeError:
        raise
    except (OSError, ValueError, SafetensorError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}", help="is it whole, and is its ending right?") from error


def _npy(path: Path) -> Arrays:
    # Mapped copy-on-write: torch wants memory that may be written to.
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    names = path.with_suffix(".paths.txt")
    return Arrays({"": array}, names.read_text("utf-8").splitlines() if names.is_file() else None)


def _npz(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as archive:
        return Arrays(dict(archive), None)


def _safetensors(path: Path) -> Arrays:
    with safe_open(path, framework="pt") as file:
        paths = (file.metadata() or {}).get("paths")
        return Arrays({name: file.get_tensor(name) for name in file.keys()}, paths and json.loads(paths))  # noqa: SIM118


def _parquet(path: Path) -> Arrays:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise RecipeError("reading .parquet needs pyarrow", help="pip install 'metriclab-toolkit[parquet]'") from error
    table = pyarrow.parquet.read_table(path)
    found = {name: table.column(name) for name in table.column_names}
    embeddings = found["embedding"].combine_chunks()
    flat = embeddings.flatten().to_numpy(zero_copy_only=False)
    arrays = {"embeddings": np.array(flat).reshape(len(embeddings), -1)}
    arrays |= {f"{name}s": np.array(found[name].to_pylist()) for name in ("label", "item") if name in found}
    return Arrays(arrays, found["path"].to_pylist() if "path" in found else None)


FORMATS: dict[str, Callable[[Path], Arrays]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
"""How files of each ending are read."""


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
    return _labels(path, arrays["labels"]) if "labels" in arrays else None


def labels_of(path: Path, name: str = "labels") -> Labels:
    """The labels of a file of their own: of its array of that name, or of a text file (`.txt`) with one a line.

    Lines that are all whole numbers are numbers, else they are names.

    Raises:
        DataError: where they are no list of whole numbers or names.
    """
    if path.suffix != ".txt":
        return _labels(path, _chosen(path, read_arrays(path).arrays, name, 1))
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    try:
        return np.array([int(line) if line else -1 for line in lines], dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array(lines)


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
            return np.ascontiguousarray(values)
    raise DataError(
        f"{path}: labels are {_type(array)} of shape {tuple(array.shape)}, expected whole numbers or names, one a row",
        help="store them as int64; negative ones are unknown",
    )


def _chosen(path: Path, arrays: Mapping[str, Array], name: str, dimensions: int) -> Array:
    if name in arrays or len(arrays) == 1:
        return arrays[name] if name in arrays else next(iter(arrays.values()))
    fitting = [array for array in arrays.values() if array.ndim == dimensions]
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
