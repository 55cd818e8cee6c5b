"""One process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from metriclab.errors import StorageError


@contextlib.contextmanager
def alone(path: Path, *, waiting: Callable[[], None] | None) -> Iterator[bool]:
    """Holds a lock that lives in this file, which is gone when nobody holds or wants it.

    The kernel gives it up when its holder ends in any way, so that no lock is ever left behind by a process killed.

    Args:
        path: in a folder that exists.
        waiting: called once before waiting for another process; None does not wait, and yields False.

    Raises:
        StorageError: where the folder cannot be written or its file system has no locks.
    """
    try:
        descriptor = _acquire(path, waiting)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be locked ({error.strerror})",
            help="set the environment variable METRICLAB_CACHE to a folder on a disk of this machine",
        ) from error
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _acquire(path: Path, waiting: Callable[[], None] | None) -> int | None:
    said = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    os.close(descriptor)
                    return None
                if not said:
                    said = True
                    waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder has removed this file; whoever comes now makes another


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
