"""Files that are whole or not there: written beside their place, synced, then renamed. Only regular ones are read."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from metriclab.core.reading import open_regular
from metriclab.errors import StorageError

_REPAIRS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "mount the disk for writing",
    errno.ENOENT: "put its folder back, which was moved or removed",
    errno.ENOTDIR: "make its parent a folder, which is a file",
    errno.EISDIR: "move the folder of this name away",
}
_PUT_BACK = "put the file back that belongs there"


def repair(error: OSError, elsewhere: str) -> str:
    """What to do where a file cannot be written: what the error calls for, or to write `elsewhere`."""
    first = _REPAIRS.get(error.errno or 0)
    return elsewhere if first is None else f"{first}, or {elsewhere}"


@contextlib.contextmanager
def replacing(path: Path, *, elsewhere: str = "write somewhere else") -> Iterator[BinaryIO]:
    """A file that becomes `path` when the block ends; where the block fails, `path` stays what it was.

    A reader, or a crash at any moment, finds the old file or the new one. Several processes may do this at once: the
    last one wins, whole.

    Args:
        path: in a folder that exists.
        elsewhere: how a user chooses another place, told beside the repair that the error calls for.

    Raises:
        StorageError: if it cannot be written.
    """
    partial: Path | None = None
    try:
        # Opened as any other file, and not by tempfile, whose files are the owner's alone: the umask says whose it is.
        with (beside := path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")).open("xb") as file:
            partial = beside
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(
                f"{path}: cannot be written ({error.strerror})", help=repair(error, elsewhere)
            ) from error
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_regular(path: Path, *, most: int | None = None) -> bytes:
    """The content of a regular file; opening a pipe or a device in its place would wait, or never end.

    Args:
        path: of the file; a link to one will do.
        most: bytes; a larger file is not read.

    Raises:
        FileNotFoundError: where there is nothing at the path.
        StorageError: where it is no regular file, too large, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if most is not None and size > most:
                raise StorageError(
                    f"{path} cannot be read: it has {size:,} bytes, and may have {most:,}", help=_PUT_BACK
                )
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.EINVAL):
            raise StorageError(f"{path} is no regular file", help=_PUT_BACK) from error
        raise StorageError(f"{path} cannot be read: {error.strerror}", help="let this user read it") from error
