"""What metriclab keeps on this machine's disk: found without opening an image, and removed."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metriclab.errors import StorageError
from metriclab.images.cache_files import SKIPPED, alone, cache_base
from metriclab.images.index import Index, PixelStore

_DAY = 1  # a younger file may still be written


@dataclass(frozen=True, slots=True)
class Cached:
    """Something that metriclab made and can make again.

    Attributes:
        place: file or folder.
        kind: "images" that were decoded, "unfinished" ones that no index has, "glyphs" that were drawn, what is in
            "shards", or a "remnant" of a write that was killed.
        source: where images came from.
        images: how many; 0 where it is not known.
        bytes: on disk; of images that several caches have, with the one used last.
        used: when last, in seconds since 1970.
        files: all that has to be removed.
    """

    place: Path
    kind: Literal["images", "unfinished", "glyphs", "shards", "remnant"]
    source: str
    images: int
    bytes: int
    used: float
    files: tuple[str, ...]


def find_caches() -> list[Cached]:
    """All caches, the one used last first. What metriclab did not make is not among them."""
    base = cache_base()
    found = [*_image_caches(base / "decoded"), *_files(base / "glyphs", "glyphs", r"[0-9]+px-.*\.npz")]
    found += _files(base / "shards", "shards", r"[0-9a-f]{32}\.npz")
    for name in ("decoded", "glyphs", "shards"):
        found += [file for file in _files(base / name, "remnant", r"\..*\.part") if days_since(file.used) > _DAY]
    return sorted(found, key=lambda cache: -cache.used)


def remove_cache(cache: Cached) -> bool:
    """Removes a cache; False where it is unfinished and a process decodes images now.

    A run that uses it is not harmed: it decodes again what it misses.

    Raises:
        StorageError: where it cannot be removed.
    """
    if cache.kind == "unfinished" and _decoding_now(cache.place.parent):
        return False
    try:
        for file in cache.files:
            Path(file).unlink(missing_ok=True)
        for folder in {os.path.dirname(file) for file in cache.files} - {str(cache.place.parent)}:
            with contextlib.suppress(OSError):  # others are in it
                os.rmdir(folder)
    except OSError as error:
        raise StorageError(
            f"{cache.place}: cannot be removed ({error.strerror})", help="look into it, and remove it yourself"
        ) from error
    return True


def _image_caches(folder: Path) -> Iterator[Cached]:
    pixels = folder / "pixels"
    left = dict(_pixel_files(pixels))
    indexes = [path for path in folder.glob("*.npz") if re.fullmatch("[0-9a-f]{32}", path.stem)]
    for place in sorted(indexes, key=_used, reverse=True):
        index = Index.read(place)
        if index is None:  # what it had is told as unfinished
            yield Cached(place, "remnant", "", 0, place.stat().st_size, _used(place), (str(place),))
            continue
        store = PixelStore(pixels, index.decoding)
        own = {path: left.pop(path) for path in map(store.path, map(bytes, index.contents)) if path in left}
        files = (str(place), str(place.with_suffix(SKIPPED)), *own)
        size = place.stat().st_size + sum(own.values())
        yield Cached(place, "images", index.source, int(index.readable.sum()), size, _used(place), files)
    if left:
        used = max(_used(Path(path)) for path in left)
        yield Cached(pixels, "unfinished", "", len(left), sum(left.values()), used, tuple(left))


def _pixel_files(folder: Path) -> Iterator[tuple[str, int]]:
    """Path and bytes of all decoded images, and of those being written."""
    for group in folder.glob("[0-9a-f][0-9a-f]"):
        with os.scandir(group) as entries:
            for entry in entries:
                if re.fullmatch(r"[0-9a-f]{30}|\.[0-9a-f]{30}\..*\.part", entry.name):
                    with contextlib.suppress(FileNotFoundError):  # it has been written by now
                        yield entry.path, entry.stat().st_size


def _files(folder: Path, kind: Literal["glyphs", "shards", "remnant"], pattern: str) -> Iterator[Cached]:
    for path in folder.glob("*"):
        if re.fullmatch(pattern, path.name) and path.is_file():
            status = path.stat()
            used = max(status.st_mtime, status.st_atime)
            yield Cached(path, kind, "", 0, status.st_size, used, (str(path),))


def _used(path: Path) -> float:
    return path.stat().st_mtime


def _decoding_now(folder: Path) -> bool:
    for lock in folder.glob("*.lock"):
        with alone(lock, waiting=None) as mine:
            if not mine:
                return True
    return False


def days_since(moment: float) -> float:
    """Days from a moment, in seconds since 1970, until now."""
    return (time.time() - moment) / 86400
