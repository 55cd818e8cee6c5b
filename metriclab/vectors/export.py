"""Embeddings of image files written to one file, with the order and the paths kept."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from metriclab.errors import DataError, RecipeError, StorageError
from metriclab.images.decode import image_endings
from metriclab.runs.files import write_atomic


def find_images(places: Sequence[Path]) -> list[Path]:
    """Image files among the places: files as given, folders searched through and sorted by path.

    Raises:
        DataError: where a place is missing, or there is no image at all.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise DataError(f"{place} is not there")
        found += sorted(path for path in place.rglob("*") if _is_image(path)) if place.is_dir() else [place]
    if not found:
        raise DataError(
            f"no image in {', '.join(map(str, places))}", help=f"images end in {', '.join(sorted(image_endings()))}"
        )
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in image_endings() and not path.name.startswith(".") and path.is_file()


def writer_for(path: Path) -> Callable[[np.ndarray, Sequence[str]], None]:
    """What writes embeddings (n, d) and their n paths in the format that the file's ending names.

    `.npy` has no room for paths: they go line by line into a `.paths.txt` beside it. `.safetensors` holds a tensor
    "embeddings" and the paths as JSON in its metadata; `.parquet` a column "path" and a column "embedding".

    Raises:
        RecipeError: for another ending, or where `.parquet` lacks its extra.
    """
    writers: dict[str, Callable[[np.ndarray, Sequence[str]], bytes]] = {
        ".npy": _npy,
        ".safetensors": _safetensors,
        ".parquet": _parquet,
    }
    if path.suffix not in writers:
        raise RecipeError(f"{path} has no format metriclab can write", help=f"end it in {', '.join(writers)}")
    if path.suffix == ".parquet":
        _pyarrow()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path.parent}: {error.strerror}") from error

    def write(embeddings: np.ndarray, paths: Sequence[str]) -> None:
        write_atomic(path, writers[path.suffix](embeddings, paths))
        if path.suffix == ".npy":
            write_atomic(path.with_suffix(".paths.txt"), "".join(f"{name}\n" for name in paths).encode())

    return write


def _npy(embeddings: np.ndarray, paths: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, embeddings, allow_pickle=False)
    return buffer.getvalue()


def _safetensors(embeddings: np.ndarray, paths: Sequence[str]) -> bytes:
    content: bytes = safetensors.numpy.save({"embeddings": embeddings}, metadata={"paths": json.dumps(list(paths))})
    return content


def _pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401  # an extra, looked for before the work begins
    except ImportError as error:
        raise RecipeError("writing .parquet needs pyarrow", help="pip install 'metriclab-toolkit[parquet]'") from error


def _parquet(embeddings: np.ndarray, paths: Sequence[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = pyarrow.FixedSizeListArray.from_arrays(embeddings.reshape(-1), embeddings.shape[1])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"path": list(paths), "embedding": rows}), buffer)
    return buffer.getvalue()
