"""Files that metriclab can make again at any time, and the lock under which one process makes them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Shaped

from metriclab.core.files import replacing
from metriclab.core.reading import open_regular
from metriclab.errors import RecipeError, StorageError

LIMIT = "METRICLAB_CACHE_LIMIT"
"""The environment variable with the most that all caches of images may take together."""

NO_ROOM = (
    "set the environment variable METRICLAB_CACHE to a folder that can be written and has room, or remove old caches "
    "with `metriclab data clean`"
)
"""The repair of a cache that cannot be written."""

SKIPPED = ".skipped.txt"
"""The ending of a list of the files that gave no image, beside the index of all."""

_SPARE = 2**28  # bytes of the disk that are left to others
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


_keeping = True  # of the process: threads that decode have no context of their own


@contextlib.contextmanager
def without_caching() -> Iterator[None]:
    """Within, caches are read and neither made nor changed: what is not in them is made again, and not kept."""
    global _keeping
    before, _keeping = _keeping, False
    try:
        yield
    finally:
        _keeping = before


def keeps() -> bool:
    """Whether caches may be made and changed."""
    return _keeping


def cache_base() -> Path:
    """Where all caches lie, whether or not there are any.

    `METRICLAB_CACHE` chooses it; else it is `metriclab` in `XDG_CACHE_HOME` or in `~/.cache`.
    """
    base = os.environ.get("METRICLAB_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "metriclab")
    return Path(base).absolute()


def cache_folder(name: str) -> Path:
    """The folder for one data set's cache in `cache_base()`, made if need be.

    Raises:
        StorageError: if it cannot be made.
    """
    folder = cache_base() / name
    if not _keeping:
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot make the cache folder ({error.strerror})", help=NO_ROOM) from error
    return folder


def room(folder: Path) -> tuple[int, str]:
    """How many bytes a new cache in this folder may take, and what bounds them.

    That is what the disk has, but for a little, and no more than `METRICLAB_CACHE_LIMIT` leaves (`20GB`; no limit where
    it is not set).

    Raises:
        RecipeError: where the limit is no size.
    """
    if not _keeping:
        return 0, "nothing is to be kept:"
    on_disk = max(0, shutil.disk_usage(folder).free - _SPARE), f"beyond {bytes_text(_SPARE)} kept free the disk has"
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return on_disk
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)B?", text.upper())
    if match is None:
        raise RecipeError(f"{LIMIT} = {text!r} is no size", help="write it like 500MB or 20GB")
    allowed = float(match[1]) * _UNITS[match[2]]
    within = max(0, int(allowed) - bytes_in(folder)), f"{LIMIT} = {text} leaves"
    return min(on_disk, within)


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder and below."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # another process may remove it now
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def bytes_text(count: int) -> str:
    """A size for people: 3 kB, 24.1 GB."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def writing(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """A file of the cache that becomes `path`, whole, when the block ends; see `replacing`."""
    return replacing(path, elsewhere=NO_ROOM) if _keeping else contextlib.nullcontext(io.BytesIO())


def save_arrays(path: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Writes arrays by name, whole or not at all."""
    with writing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes `allow_pickle` for one of the arrays


def load_arrays(path: Path, *names: str) -> dict[str, np.ndarray] | None:
    """Those arrays that `save_arrays` wrote; None where there are none, or where their checksums show damage."""
    try:
        # Opened here, as `np.load` leaves its own file open where the archive is damaged.
        with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except Exception:  # damage shows as nearly every exception there is; a cache is made again rather than repaired
        return None


@contextlib.contextmanager
def alone(path: Path, *, waiting: Callable[[], None] | None) -> Iterator[bool]:
    """Holds a lock that lives in this file, which goes with its holder.

    The kernel gives it up when its holder ends in any way, so that no lock is ever left behind by a process killed.
    Whoever gets it after waiting looks first whether the work is done: the file may be a new one by then, with a
    holder of its own, so the lock spares work and does not keep anything safe.

    Args:
        path: in a folder that exists.
        waiting: called once before waiting for another process; None does not wait, and yields False.

    Raises:
        StorageError: where the folder cannot be written or its file system has no locks.
    """
    if not _keeping:
        yield True
        return
    lock = FileLock(path)
    try:
        held = _acquire(lock, waiting)
    except (OSError, NotImplementedError) as error:
        raise StorageError(
            f"{path}: cannot be locked ({getattr(error, 'strerror', None) or error})",
            help="set the environment variable METRICLAB_CACHE to a folder on a disk of this machine",
        ) from error
    try:
        yield held
    finally:
        if held:
            path.unlink(missing_ok=True)
            lock.release()


def _acquire(lock: FileLock, waiting: Callable[[], None] | None) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            return False
        waiting()
        lock.acquire()
    return True
