"""Files that are whole or not there: written beside their place, synced, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from metriclab.errors import StorageError


@contextlib.contextmanager
def replacing(path: Path, *, help: str = "free some space, or write somewhere else") -> Iterator[BinaryIO]:
    """A file that becomes `path` when the block ends; where the block fails, `path` stays what it was.

    A reader, or a crash at any moment, finds the old file or the new one. Several processes may do this at once: the
    last one wins, whole.

    Args:
        path: in a folder that exists.
        help: what to tell a user whose disk is full or whose folder cannot be written.

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
            raise StorageError(f"{path}: cannot be written ({error.strerror})", help=help) from error
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
