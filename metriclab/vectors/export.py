"""Embeddings of image files written to one file, with the order and the paths kept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from jaxtyping import Float
from torch import Tensor

from metriclab.core.files import replacing
from metriclab.core.parquet import pyarrow_for
from metriclab.core.reading import name_to_line, require_regular
from metriclab.errors import DataError, RecipeError, StorageError
from metriclab.images.decode import Pixels
from metriclab.images.files import say_once
from metriclab.images.listing import ENDINGS, is_manifest
from metriclab.images.manifest import read_manifest, require_files
from metriclab.images.tree import paths_of, scan
from metriclab.vectors.arrays import embeddings_of
from metriclab.vectors.formats import FORMATS, PATHS, read_arrays
from metriclab.vectors.rows import finite_norms


def find_images(places: Sequence[Path], pixels: Pixels = "rgb", columns: Mapping[str, str] | None = None) -> list[str]:
    """Image files among the places: files as given, those of a manifest, and folders searched through as a run does.

    A box of a manifest is named with its path, see `images/boxes.py`. Of one folder alone the paths tell the class of
    each image by `folder_classes`, as a run sees it. `pixels`, what is made of the files, decides on which are images.
    `columns`, what a run calls columns of a manifest, counts in those that have such.

    Raises:
        DataError: where a place is missing or neither file nor folder, or there is no image at all.
    """
    found: list[str] = []
    for place in places:
        if is_manifest(place):
            files, notes = read_manifest(place, columns, as_far_as_there=True)
            require_files(files)  # now, and not after hours of embedding
            found += files.names
        elif place.is_dir():
            tree = scan(place, pixels)
            notes = tree.notes
            alone = len(places) == 1  # of several, the root is what has them all
            found += paths_of(place, tree) if alone else [str(place / name) for name in tree.names]
        else:
            notes = []
            found.append(str(_regular(place)))
        for note in notes:
            say_once(note)
    if not found:
        raise DataError(f"no image in {', '.join(map(str, places))}", help=ENDINGS)
    return found


def named_features(places: Sequence[Path]) -> tuple[list[str], Float[Tensor, "n d"]]:
    """The rows of a file of features, and a name for each: its path, or its number below the file.

    Raises:
        DataError: where it is no such file, or there are several.
    """
    if len(places) != 1 or places[0].is_dir():
        raise DataError(
            f"{', '.join(map(str, places))}: this run embeds features, which lie in one file",
            help=f"name a file that ends in {', '.join(FORMATS)}",
        )
    path = places[0]
    arrays, paths = read_arrays(path)
    z = embeddings_of(path, arrays)
    finite_norms(z, path)
    if paths is not None and len(paths) != len(z):
        raise DataError(
            f"there are {len(paths):,} paths for the {len(z):,} embeddings of {path}", help="embed it again"
        )
    return [f"{path}/{row}" for row in range(len(z))] if paths is None else paths, z


def _regular(place: Path) -> Path:
    try:
        require_regular(place)
    except FileNotFoundError as error:
        dangling = ": it is a link to nothing" if place.is_symlink() else ""
        raise DataError(f"{place} is not there{dangling}") from error
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}", help="name images, or folders of them") from error
    return place


def writer_for(path: Path) -> Callable[[np.ndarray, Sequence[str]], None]:
    """What writes embeddings (n, d) and their n paths in the format that the file's ending names.

    `.npy` has no room for paths: they go into a `.paths.txt` beside it, a line each; where one file cannot be written,
    neither is. `.safetensors` holds a tensor "embeddings" and the paths as JSON in its metadata; `.parquet` a column
    "path" and a column "embedding". Any name of a file comes back from them: see `name_to_line`.

    Raises:
        RecipeError: for another ending, or where `.parquet` lacks its extra.
        StorageError: where there cannot be such a file.
    """
    writers: dict[str, Callable[[np.ndarray, Sequence[str]], list[bytes]]] = {
        ".npy": _npy,
        ".safetensors": _safetensors,
        ".parquet": _parquet,
    }
    if path.suffix not in writers:
        raise RecipeError(f"{path} has no format metriclab can write", help=f"end it in {', '.join(writers)}")
    if path.suffix == ".parquet":
        pyarrow_for("writing")  # looked for before the work begins
    beside = [path.with_suffix(PATHS)] if path.suffix == ".npy" else []
    targets = [path, *beside]
    for target in targets:
        _require_writable(target)

    def write(embeddings: np.ndarray, paths: Sequence[str]) -> None:
        assert len(embeddings) == len(paths)
        contents = writers[path.suffix](embeddings, paths)
        with contextlib.ExitStack() as stack:
            for target, content in reversed([*zip(targets, contents, strict=True)]):  # the last gets its name first
                file = stack.enter_context(replacing(target))
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # what a full disk refuses, it refuses before any file gets its name
            for target in beside:  # whoever is killed from here on leaves embeddings without paths, never with others'
                target.unlink(missing_ok=True)

    return write


def _require_writable(target: Path) -> None:
    """Looks before the work begins at whether there can be such a file after it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            require_regular(target)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", suffix=".part"):
            pass
    except OSError as error:
        raise StorageError(
            f"{target}: cannot be written ({error.strerror})", help="name a file in a folder that you may write to"
        ) from error


def _npy(embeddings: np.ndarray, paths: Sequence[str]) -> list[bytes]:
    buffer = io.BytesIO()
    np.save(buffer, embeddings, allow_pickle=False)
    return [buffer.getvalue(), "".join(f"{name_to_line(name)}\n" for name in paths).encode()]


def _safetensors(embeddings: np.ndarray, paths: Sequence[str]) -> list[bytes]:
    return [safetensors.numpy.save({"embeddings": embeddings}, metadata={"paths": json.dumps(list(paths))})]


def _parquet(embeddings: np.ndarray, paths: Sequence[str]) -> list[bytes]:
    import pyarrow
    import pyarrow.parquet

    rows = pyarrow.FixedSizeListArray.from_arrays(embeddings.reshape(-1), embeddings.shape[1])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"path": list(map(name_to_line, paths)), "embedding": rows}), buffer)
    return [buffer.getvalue()]
