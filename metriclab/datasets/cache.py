"""Files that metriclab can make again at any time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped

from metriclab.core.errors import StorageError
from metriclab.core.files import replacing

_HELP = "set the environment variable METRICLAB_CACHE to a folder that can be written and has room"


def cache_folder(name: str) -> Path:
    """The folder for one data set's cache, made if need be.

    `METRICLAB_CACHE` chooses where all caches lie; else it is `metriclab` in `XDG_CACHE_HOME` or in `~/.cache`.

    Raises:
        StorageError: if it cannot be made.
    """
    base = os.environ.get("METRICLAB_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "metriclab")
    folder = Path(base).absolute() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot make the cache folder ({error.strerror})", help=_HELP) from error
    return folder


def writing(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """A file of the cache that becomes `path`, whole, when the block ends; see `replacing`."""
    return replacing(path, help=_HELP)


def save_arrays(path: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Writes arrays by name, whole or not at all."""
    with writing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes `allow_pickle` for one of the arrays


def load_arrays(path: Path, *names: str) -> dict[str, np.ndarray] | None:
    """Those arrays that `save_arrays` wrote; None where there are none, or where their checksums show damage."""
    try:
        # Opened here, as `np.load` leaves its own file open where the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except Exception:  # damage shows as nearly every exception there is; a cache is made again rather than repaired
        return None
