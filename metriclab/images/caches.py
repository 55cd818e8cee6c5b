"""What metriclab keeps on this machine's disk: found without opening an image, and removed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metriclab.errors import StorageError
from metriclab.images.cache_files import bytes_in, cache_base
from metriclab.images.lock import alone
from metriclab.images.store import ABOUT, FILES, PART, SKIPPED, STAMP

_NAME = "[0-9a-f]{32}"
_DAY = 1  # a younger file may still be written


@dataclass(frozen=True, slots=True)
class Cached:
    """Something that metriclab made and can make again.

    Attributes:
        place: file or folder.
        kind: "images" that were decoded, an "unfinished" cache of images, "glyphs" that were drawn, or a "remnant" of a
            write that was killed.
        source: where images came from.
        images: how many; 0 where it is not known.
        bytes: on disk.
        used: when last, in seconds since 1970.
    """

    place: Path
    kind: Literal["images", "unfinished", "glyphs", "remnant"]
    source: str
    images: int
    bytes: int
    used: float


def find_caches() -> list[Cached]:
    """All caches, the one used last first. What metriclab did not make is not among them."""
    base = cache_base()
    found = [*_image_caches(base / "images"), *_files(base / "glyphs", "glyphs", r"[0-9]+px-.*\.npz")]
    for name in ("images", "glyphs"):
        found += [file for file in _files(base / name, "remnant", r"\..*\.part") if days_since(file.used) > _DAY]
    return sorted(found, key=lambda cache: -cache.used)


def remove_cache(cache: Cached) -> bool:
    """Removes a cache, with what leads to it; False where another process is building it.

    A run that uses it now is not harmed: what it has mapped stays until it ends.

    Raises:
        StorageError: where it cannot be removed, or there are other files in its folder; those stay.
    """
    try:
        if cache.kind in ("glyphs", "remnant"):
            cache.place.unlink(missing_ok=True)
        elif cache.kind == "unfinished":
            with alone(cache.place.with_suffix(".lock"), waiting=None) as mine:
                if not mine:
                    return False
                _remove_folder(cache.place)
        else:
            _remove_folder(cache.place)
            _remove_stamps(cache.place)
    except OSError as error:
        raise StorageError(
            f"{cache.place}: cannot be removed ({error.strerror})", help="look into it, and remove it yourself"
        ) from error
    return True


def _image_caches(folder: Path) -> Iterator[Cached]:
    for place in folder.glob("*/"):
        if re.fullmatch(_NAME, place.name) and (about := _about(place)) is not None:
            used = (place / ABOUT).stat().st_mtime
            yield Cached(place, "images", str(about["source"]), int(about["images"]), bytes_in(place), used)
        elif re.fullmatch(f"{_NAME}{re.escape(PART)}", place.name):
            yield Cached(place, "unfinished", "", 0, bytes_in(place), place.stat().st_mtime)


def _about(place: Path) -> dict[str, Any] | None:
    try:
        about = json.loads((place / ABOUT).read_text())
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and {"decoding", "source", "images"} <= about.keys() else None


def _files(folder: Path, kind: Literal["glyphs", "remnant"], pattern: str) -> Iterator[Cached]:
    for path in folder.glob("*"):
        if re.fullmatch(pattern, path.name) and path.is_file():
            status = path.stat()
            yield Cached(path, kind, "", 0, status.st_size, max(status.st_mtime, status.st_atime))


def _remove_folder(place: Path) -> None:
    for name in FILES:  # the one that makes it a cache at last, so that what is left after a crash is found again
        (place / name).unlink(missing_ok=True)
    for remnant in place.glob(".*.part"):
        remnant.unlink(missing_ok=True)
    place.rmdir()


def _remove_stamps(place: Path) -> None:
    for stamp in place.parent.glob(f"*{STAMP}"):
        if stamp.read_text(errors="replace") == place.name:
            stamp.with_suffix(SKIPPED).unlink(missing_ok=True)
            stamp.unlink(missing_ok=True)


def days_since(moment: float) -> float:
    """Days from a moment, in seconds since 1970, until now."""
    return (time.time() - moment) / 86400
