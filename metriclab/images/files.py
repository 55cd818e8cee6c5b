"""Image files, decoded once into a cache that is mapped into memory from then on."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from metriclab.core.batch import Images
from metriclab.errors import DataError
from metriclab.images.arrays import digest, label_bytes
from metriclab.images.build import build, decoding, quiet_pillow
from metriclab.images.cache_files import cache_folder, room, writing
from metriclab.images.decode import UnreadableImageError, decode
from metriclab.images.lock import alone
from metriclab.images.store import ABOUT, SKIPPED, STAMP, ImageStore, Index, open_cache, pixel_digest

_SHOWN = 5  # problems named in one message

_log = logging.getLogger(__name__)

OnError = Literal["error", "skip"]


class ImageFiles:
    """Images by their position in a list of files: padded uint8 batches out of a cache.

    A cache is known by the content of its files, the size and the version of the decoding. So as not to read all files
    in order to find it, a stamp leads to it by path, bytes and times of change of every file: a file that is changed in
    any way is read again, and decoded again only if its content is new. Of several processes that want the same cache
    one builds it and the others wait; one that was killed is taken up by the next.

    Where there is no room for the pixels, images are decoded whenever they are read. Everything else stays the same.

    Args:
        paths: the files, in the order in which they are asked for.
        size: longest short side in pixels; see `decode`.
        on_error: "error" to refuse files that give no image, "skip" to leave them out of `readable`.

    Attributes:
        size: as given.
        place: folder of the cache.
        index: what is known of the images.
        readable: whether each file gave an image.
        digests: 16 bytes for the pixels and shape of each image.
        skipped: the list of files left out, with the reasons, if there are any.

    Raises:
        DataError: naming the files that give no image.
        StorageError: if the cache cannot be written.
    """

    size: int
    place: Path
    index: Index
    readable: Bool[np.ndarray, "n"]
    digests: UInt8[np.ndarray, "n 16"]
    skipped: Path | None

    def __init__(self, paths: Sequence[Path], *, size: int, on_error: OnError = "error") -> None:
        assert paths
        folder, stamp = cache_folder("images"), _stamp(paths, size)
        self._paths, self.size = paths, size
        self.place, self.index, self._store = _open(folder, stamp, paths, size, retry=on_error == "error")
        _refuse(paths, self.index.problems, on_error)
        self.readable, self.digests = self.index.readable, self.index.digests
        if self._store is None:
            _say_uncached(len(paths), self.place)
        self.skipped = _write_skipped(folder / f"{stamp}{SKIPPED}", paths, self.index.problems)
        with contextlib.suppress(OSError):  # it may be someone else's
            os.utime(self.place / ABOUT)
        used = _used.get()
        if used is not None:
            used.append(self)

    def images(self, items: Int64[np.ndarray, "m"]) -> Images:
        """Pixels of the files at these positions, padded with zeros at the bottom and the right.

        Raises:
            DataError: where a file that has to be decoded again has changed since it was first.
        """
        assert self.readable[items].all()
        read = self._decode if self._store is None else self._cached
        if self._store is None:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return Images.padded(list(pool.map(read, items.tolist())))
        return Images.padded([read(item) for item in items.tolist()])

    def _cached(self, item: int) -> UInt8[np.ndarray, "3 h w"]:
        assert self._store is not None
        pixels = self._store.read(item)
        if pixels is not None:
            return pixels
        pixels = self._decode(item)
        self._store.repair(item, pixels)
        _log.warning("%s: its pixels in the cache were damaged, and are repaired", self._paths[item])
        return pixels

    def _decode(self, item: int) -> UInt8[np.ndarray, "3 h w"]:
        path, problem = self._paths[item], "the file has changed"
        try:
            pixels = decode(path, self.size)
        except UnreadableImageError as error:
            problem = str(error)
        else:
            if pixel_digest(pixels) == self.digests[item].tobytes():
                return pixels
        raise DataError(f"{path}: cannot be read again: {problem}", help="put it back as it was, or start again")


@contextlib.contextmanager
def used_files() -> Iterator[list[ImageFiles]]:
    """A list of all that opens image files in this block, filled as it happens."""
    used: list[ImageFiles] = []
    token = _used.set(used)
    try:
        yield used
    finally:
        _used.reset(token)


_used: ContextVar[list[ImageFiles] | None] = ContextVar("used", default=None)


class FileImages:
    """One split as some of the images of `ImageFiles`; a data set holds one and hands out what is in it.

    Args:
        files: where the images are.
        items: positions in `files`, one an image of the split.
        labels: index into classes, negative for unknown.
        classes: names.
        names: one an image.
    """

    def __init__(
        self,
        files: ImageFiles,
        items: Int64[np.ndarray, "n"],
        labels: Int64[np.ndarray, "n"],
        classes: Sequence[str],
        names: Sequence[str],
    ) -> None:
        assert len(items) == len(labels) == len(names)
        self._files, self._items = files, items
        self.labels, self.classes, self.names = labels, classes, names

    @property
    def fingerprint(self) -> str:
        return digest([self._files.digests[self._items].tobytes(), label_bytes(self.labels, self.classes)])

    def images(self, items: Int64[np.ndarray, "m"]) -> Images:
        return self._files.images(self._items[items])


def _stamp(paths: Sequence[Path], size: int) -> str:
    state, here = hashlib.sha256(decoding(size).encode()), os.getcwd()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}", help="check the path, and that you may read it") from error
        # The last of the times is the one that nobody can set back.
        seen = f"\n{os.path.join(here, path)}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}"
        state.update(seen.encode(errors="surrogateescape"))
    return state.hexdigest()[:32]


_Opened = tuple[Path, Index, ImageStore | None]


def _open(folder: Path, stamp: str, paths: Sequence[Path], size: int, *, retry: bool) -> _Opened:
    """The cache of these files, built if need be; with `retry` also where a file that gave no image now does."""
    opened = _find(folder, stamp)
    if opened is not None:
        _, index, store = opened
        fits_now = store is None and index.bytes <= room(folder)[0]
        if not fits_now and not (retry and _any_readable(paths, size, index.problems)):
            return opened
    with alone(folder / f"{stamp}.lock", waiting=lambda: _log.info("waiting for another process that decodes images")):
        again = _find(folder, stamp)
        if again is not None and (opened is None or again[0] != opened[0]):
            return again
        name = build(paths, size, folder, stamp, None if opened is None else opened[1].bytes)
        with writing(folder / f"{stamp}{STAMP}") as file:
            file.write(name.encode())
        built = _find(folder, stamp)
        assert built is not None
        return built


def _find(folder: Path, stamp: str) -> _Opened | None:
    try:
        place = folder / (folder / f"{stamp}{STAMP}").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    opened = open_cache(place)
    return None if opened is None else (place, *opened)


@functools.cache
def _say_uncached(count: int, place: Path) -> None:
    _log.warning(
        "%s images are not cached, as there was no room (%s): each is decoded anew when read", f"{count:,}", place
    )


def _any_readable(paths: Sequence[Path], size: int, problems: Mapping[int, str]) -> bool:
    """Whether a file that gave no image gives one now: disks and rights recover."""
    for item in problems:
        with contextlib.suppress(UnreadableImageError), quiet_pillow():
            decode(paths[item], size)
            return True
    return False


def _refuse(paths: Sequence[Path], problems: Mapping[int, str], on_error: OnError) -> None:
    bad = [f"{paths[item]}: {problem}" for item, problem in problems.items()]
    files = {str(paths[item]): problem for item, problem in problems.items()}
    if len(bad) == len(paths):
        raise DataError(f"none of {len(paths)} files gives an image, the first is {bad[0]}", files=files)
    if bad and on_error == "error":
        shown = "\n  ".join(bad[:_SHOWN]) + (f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
        raise DataError(
            shown if len(bad) == 1 else f"{len(bad)} files give no image:\n  {shown}",
            help='repair or remove them, or set data.on_error = "skip" to go on without them and get a list of them',
            files=files,
        )


def _write_skipped(path: Path, paths: Sequence[Path], problems: Mapping[int, str]) -> Path | None:
    if not problems:
        return None
    if not path.exists():
        with writing(path) as file:
            lines = [f"{paths[item]}\t{problem}\n" for item, problem in problems.items()]
            file.write("".join(lines).encode(errors="surrogateescape"))
    return path
