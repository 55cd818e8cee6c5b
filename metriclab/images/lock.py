"""One process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from metriclab.errors import StorageError


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
