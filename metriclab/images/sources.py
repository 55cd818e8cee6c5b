"""Where the bytes of an image file are: in a file of their own, or within another."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from metriclab.core.reading import open_regular

ImageBytes = io.BytesIO | io.BufferedReader
"""An image file that is open for reading, at its beginning."""

State = tuple[int, int, int]
"""Of the bytes: they are not read again while these three numbers stay as they are."""


@runtime_checkable
class ImageSource(Protocol):
    """The bytes of an image file that lie within another file; `str` gives a name that no other source has.

    Attributes:
        container: the file that they lie in.
    """

    @property
    def container(self) -> Path: ...

    def open(self) -> ImageBytes:
        """The bytes. May be called from several threads at once. Raises an OSError where they cannot be had."""

    def state(self) -> State:
        """What changes when the bytes change, such as size, time of change and place."""


Source = str | Path | ImageSource
"""Of an image: a file, or what lies in one."""


def opened(source: Source) -> ImageBytes:
    """The bytes of an image file, as `open_regular` gives them."""
    return source.open() if isinstance(source, ImageSource) else open_regular(source)


def state_of(source: Source) -> State:
    """The last of the times of a file is the one that nobody can set back."""
    if isinstance(source, ImageSource):
        return source.state()
    status = os.stat(source)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def folder_of(source: Source) -> str:
    """The folder of the file, absolute."""
    return os.path.abspath(os.path.dirname(source.container if isinstance(source, ImageSource) else source))


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar file.

    Attributes:
        container: the tar file.
        name: in it.
        offset, size: of its bytes.
        changed: time of change of the tar file, in nanoseconds.
    """

    container: Path
    name: str
    offset: int
    size: int
    changed: int

    def __str__(self) -> str:
        return f"{self.container}/{self.name}"

    def open(self) -> ImageBytes:
        with open_regular(self.container) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"the tar file ends after {len(content):,} of its {self.size:,} bytes")
        return io.BytesIO(content)

    def state(self) -> State:
        return self.size, self.changed, self.offset
