"""Image files by their position in a list, decoded once into the cache."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from metriclab.core.batch import Images
from metriclab.core.cores import usable_cores
from metriclab.errors import DataError, StorageError
from metriclab.images.boxes import split_box
from metriclab.images.build import Room, read_files
from metriclab.images.cache_files import LIMIT, SKIPPED, alone, bytes_text, cache_folder, keeps, room, writing
from metriclab.images.decode import Decoded, Pixels, decode_file, giving_reasons
from metriclab.images.index import Index, PixelStore, Record, decoding, pixel_digest
from metriclab.images.sources import Source, folder_of, opened, state_of
from metriclab.images.stored import Stored, UnreadableImageError

_SHOWN = 5  # problems named in one message

_log = logging.getLogger(__name__)

OnError = Literal["error", "skip"]


class ImageFiles:
    """Images by their position in a list of files: padded uint8 batches out of the cache.

    A decoded image is known by the content of its file, the size and the version of the decoding. So as not to read all
    files at every start, an index has the content of each, by the path, bytes and times of change of the file: one that
    is changed in any way is read again, and decoded again only if its content is new.

    An image that is not in the cache, as there was no room, is decoded whenever it is read; one that is damaged there
    is decoded again and put right.

    Args:
        paths: the files, or what lies in files, in the order in which they are asked for; one or more. A path may have
            a box: see `boxes`.
        size: longest short side in pixels; see `decode`.
        on_error: "error" to refuse files that give no image, "skip" to leave them out of `readable`.
        pixels: "rgb", or "stored" for the channels and bits that the files have, which are then the same in all.
        place: what to say in messages before the path of a file, such as its line in a table.

    Attributes:
        size, pixels: as given.
        place: the index on the disk.
        index: what is known of the images.
        readable: whether each file gave an image.
        digests: 16 bytes for the pixels and shape of each image.
        skipped: the list of files left out, with the reasons, if there are any.

    Raises:
        DataError: naming the files that give no image, or two that do not have the same channels and bits.
        StorageError: if the cache cannot be written.
    """

    size: int
    pixels: Pixels
    place: Path
    index: Index
    readable: Bool[np.ndarray, "n"]
    digests: UInt8[np.ndarray, "n 16"]
    skipped: Path | None

    def __init__(
        self,
        paths: Sequence[Source],
        *,
        size: int,
        on_error: OnError = "error",
        pixels: Pixels = "rgb",
        place: Callable[[int], str] = lambda item: "",
    ) -> None:
        assert paths
        folder = cache_folder("decoded")
        self._paths, self.size, self.pixels = paths, size, pixels
        self._store = PixelStore(folder / "pixels", decoding(size, pixels))
        self.place = folder / f"{_name(paths, decoding(size, pixels))}.npz"
        self.index = self._open(retry=on_error == "error")
        _refuse(paths, self.index.problems, on_error, place)
        seen = np.flatnonzero(self.index.readable).tolist()
        require_one_format([paths[item] for item in seen], self.index.formats[seen])
        _say_lost(paths, self.index)
        _say_lacking(self.index, self.place.parent)
        self._mending = False
        self.readable, self.digests = self.index.readable, self.index.digests
        self.skipped = self.place.with_suffix(SKIPPED) if self.index.problems else None
        if keeps():
            with contextlib.suppress(OSError):  # it may be someone else's
                os.utime(self.place)

    def images(self, items: Int64[np.ndarray, "m"]) -> Images:
        """Pixels of the files at these positions, padded with zeros at the bottom and the right.

        Raises:
            DataError: where a file that has to be decoded again has changed since it was first.
        """
        assert self.readable[items].all()
        found = [self._cached(item) for item in items.tolist()]
        rest = [row for row, pixels in enumerate(found) if pixels is None]
        if rest:
            decoded = _decoding_threads().map(self._decode, items[rest].tolist())
            for row, pixels in zip(rest, decoded, strict=True):
                found[row] = pixels
        return Images.padded([pixels for pixels in found if pixels is not None])

    def _cached(self, item: int) -> Stored | None:
        if not self.index.cached[item]:
            return None
        decoded = self._store.get(self.index.contents[item].tobytes())
        return None if decoded is None else decoded.pixels

    def _decode(self, item: int) -> Stored:
        path, problem = self._paths[item], "the file has changed"
        name, box = split_box(path)
        try:
            with giving_reasons(), opened(name) as file:
                decoded = decode_file(file, self.size, self.pixels, box)
        except UnreadableImageError as error:
            problem = str(error)
        else:
            if pixel_digest(decoded.pixels) == self.digests[item].tobytes():
                if self.index.cached[item]:
                    self._mend(item, decoded)
                return decoded.pixels
        raise DataError(f"{path}: cannot be read again: {problem}", help="put it back as it was, or start again")

    def _mend(self, item: int, decoded: Decoded) -> None:
        if not self._mending:
            self._mending = True
            _log.warning(
                "%s: its pixels in the cache were damaged or removed, and are made again; so are all such from now on",
                self._paths[item],
            )
        with contextlib.suppress(StorageError):  # a cache of someone else's; the damage is met again
            self._store.put(self.index.contents[item].tobytes(), decoded)

    def _open(self, *, retry: bool) -> Index:
        """The index of these files as they are; with `retry`, files that gave no image are tried again."""
        states = _states(self._paths)
        index, items = self._outdated(states, retry)
        if index is not None and not len(items):
            return index
        with alone(self.place.with_suffix(".lock"), waiting=_say_waiting):
            index, items = self._outdated(states, retry)
            if index is None or len(items):
                index = self._build(states, index, items)
        return index

    def _outdated(self, states: Int64[np.ndarray, "n 3"], retry: bool) -> tuple[Index | None, Int64[np.ndarray, "m"]]:
        """The index there is, and the files that have to be read for it to be right."""
        index = Index.read(self.place)
        if index is None:
            return None, np.arange(len(states))
        changed = (index.states != states).any(axis=1)
        if index.lost is None:  # what is lost was not asked then; JPEG, most of all files, has 8 bits
            changed |= np.array([not str(path).lower().endswith((".jpg", ".jpeg")) for path in self._paths])
        if retry:  # disks and rights recover
            changed[list(index.problems)] = True
        lacking = index.lacking
        if lacking.any() and index.bytes(lacking) <= room(self.place.parent)[0]:
            changed |= lacking
        return index, np.flatnonzero(changed)

    def _build(self, states: Int64[np.ndarray, "n 3"], known: Index | None, items: Int64[np.ndarray, "m"]) -> Index:
        records = [Record()] * len(states) if known is None else list(known.records())
        left = Room(room(self.place.parent)[0])
        records = read_files(self._paths, self.size, self.pixels, self._store, left, records, items)
        source = os.path.commonpath(list({folder_of(path) for path in self._paths}))
        index = Index.of(records, states, decoding=decoding(self.size, self.pixels), source=source)
        if index.problems:
            with writing(self.place.with_suffix(SKIPPED)) as file:
                lines = [f"{self._paths[item]}\t{problem}\n" for item, problem in index.problems.items()]
                file.write("".join(lines).encode(errors="surrogateescape"))
        index.write(self.place)
        if index.reduced:
            _log.info(
                "%s of %s images are reduced to a short side of %d pixels (data.size)",
                f"{index.reduced:,}", f"{len(index):,}", self.size,
            )  # fmt: skip
        return index


def _name(paths: Sequence[Source], decoding: str) -> str:
    state, here = hashlib.sha256(decoding.encode()), os.getcwd()
    for path in paths:
        state.update(b"\n" + os.fsencode(os.path.join(here, str(path))))
    return state.hexdigest()[:32]


def _states(paths: Sequence[Source]) -> Int64[np.ndarray, "n 3"]:
    states = np.empty((len(paths), 3), dtype=np.int64)
    for row, path in enumerate(paths):
        try:
            states[row] = state_of(split_box(path)[0])
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}", help="check the path, and that you may read it") from error
    return states


def require_one_format(paths: Sequence[Source], formats: Int64[np.ndarray, "n 2"]) -> None:
    """Raises a DataError that names two images whose formats, see `format_of`, are not the same."""
    others = np.flatnonzero((formats != formats[:1]).any(axis=1))
    if len(others):
        one, other = (f"{paths[row]} has {_format_text(*formats[row].tolist())}" for row in (0, int(others[0])))
        raise DataError(
            f"{one}, and {other}: images of one data set have the same channels and bits",
            help='convert the ones or the others, or set data.pixels = "rgb" to make RGB of 8 bits of all',
        )


def _format_text(channels: int, value_bytes: int) -> str:
    return f"{channels} channel{'s' * (channels > 1)} of {8 * value_bytes} bits"


def _say_lost(paths: Sequence[Source], index: Index) -> None:
    for what, count in Counter((index.lost or {}).values()).items():
        first = next(item for item, lost in (index.lost or {}).items() if lost == what)
        say_once(
            f"{count:,} of {len(index):,} images lose {what} in RGB of 8 bits, first {paths[first]}; "
            'data.pixels = "stored" keeps the channels and bits of the files'
        )


def _say_waiting() -> None:
    _log.info("waiting for another process that decodes images")


def _say_lacking(index: Index, folder: Path) -> None:
    lacking = index.lacking
    if lacking.any() and keeps():
        left, bound = room(folder)
        needed = f"{int(lacking.sum()):,} of {len(index):,} images: they need {bytes_text(index.bytes(lacking))}"
        say_once(
            f"no room in the cache for {needed} and {bound} {bytes_text(left)}, so they are decoded anew whenever they "
            f"are read, which is slower; set a smaller data.size, raise {LIMIT}, or remove old caches with "
            "`metriclab data clean`"
        )


@functools.cache
def say_once(warning: str) -> None:
    """A warning in the log, once a process: data sets are often opened several times."""
    _log.warning("%s", warning)


def _refuse(paths: Sequence[Source], problems: dict[int, str], on_error: OnError, place: Callable[[int], str]) -> None:
    files = {str(paths[item]): problem for item, problem in problems.items()}
    bad = [f"{place(item)}{paths[item]}: {problem}" for item, problem in problems.items()]
    if len(problems) == len(paths):
        raise DataError(f"none of {len(paths)} files gives an image, the first is {bad[0]}", files=files)
    if bad and on_error == "error":
        shown = "\n  ".join(bad[:_SHOWN]) + (f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
        raise DataError(
            shown if len(bad) == 1 else f"{len(bad)} files give no image:\n  {shown}",
            help='repair or remove them, or set data.on_error = "skip" to go on without them and get a list of them',
            files=files,
        )


@functools.cache
def _decoding_threads() -> ThreadPoolExecutor:
    """Those of all data sets, kept from batch to batch."""
    return ThreadPoolExecutor(usable_cores(), thread_name_prefix="metriclab-decode")


if hasattr(os, "register_at_fork"):  # threads stay with the parent
    os.register_at_fork(after_in_child=_decoding_threads.cache_clear)
