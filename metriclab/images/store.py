"""Decoded images on disk: one flat file of pixels, mapped into memory, and an index."""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from metriclab.images.cache_files import load_arrays, save_arrays

PIXELS, INDEX, JOURNAL, ABOUT = "pixels", "index.npz", "journal", "about.json"
FILES = (PIXELS, INDEX, JOURNAL, ABOUT)
"""All that is in the folder of a cache. `ABOUT` makes it one, and says to people what it is; `JOURNAL` is there while
it is built."""

PART, STAMP, SKIPPED = ".part", ".stamp", ".skipped.txt"
"""Endings of what lies beside the folders of caches: a folder that is being built or whose builder was killed, a file
with the name of the cache that a list of files leads to, a list of the files that gave no image."""

_SMALL = 2**26  # bytes of pixels that are read into memory at once
_MAPPED = 2**28  # bytes of a map that are read before its pages are given back


class Record(NamedTuple):
    """What is known of one image file.

    Attributes:
        size: height and width of the pixels.
        original: height and width in the file.
        content: hex digest of the file's bytes.
        digest: hex digest of pixels and shape.
        checksum: CRC-32 of the pixels, which is quick enough to be taken again when they are read.
        problem: why it gives no image; "" where it does.
    """

    size: tuple[int, int]
    original: tuple[int, int]
    content: str
    digest: str
    checksum: int
    problem: str


@dataclass(frozen=True, slots=True)
class Index:
    """What is known of all images of a cache; `digests` and `contents` are those of `Record` in bytes.

    Attributes:
        problems: position -> why that file gives no image.
        cached: whether the pixels are there.
    """

    sizes: Int64[np.ndarray, "n 2"]
    originals: Int64[np.ndarray, "n 2"]
    contents: UInt8[np.ndarray, "n 16"]
    digests: UInt8[np.ndarray, "n 16"]
    checksums: Int64[np.ndarray, "n"]
    problems: dict[int, str]
    cached: bool

    @classmethod
    def of(cls, records: Sequence[Record], *, cached: bool) -> Index:
        return cls(
            np.array([record.size for record in records], dtype=np.int64),
            np.array([record.original for record in records], dtype=np.int64),
            _unhex([record.content for record in records]),
            _unhex([record.digest for record in records]),
            np.array([record.checksum for record in records], dtype=np.int64),
            {item: record.problem for item, record in enumerate(records) if record.problem},
            cached,
        )

    @classmethod
    def read(cls, path: Path) -> Index | None:
        """None where there is none, or a damaged one."""
        names = ("sizes", "originals", "contents", "digests", "checksums", "bad", "reasons", "cached")
        arrays = load_arrays(path, *names)
        if arrays is None:
            return None
        problems = dict(zip(arrays["bad"].tolist(), arrays["reasons"].tolist(), strict=True))
        sizes, originals, contents, digests, checksums = (arrays[name] for name in names[:5])
        return cls(sizes, originals, contents, digests, checksums, problems, bool(arrays["cached"]))

    def write(self, path: Path) -> None:
        save_arrays(
            path,
            {
                "sizes": self.sizes,
                "originals": self.originals,
                "contents": self.contents,
                "digests": self.digests,
                "checksums": self.checksums,
                "bad": np.array(list(self.problems), dtype=np.int64),
                "reasons": np.array(list(self.problems.values()), dtype=np.str_),
                "cached": np.array(self.cached),
            },
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def bytes(self) -> int:
        """Size of all pixels, cached or not."""
        return int(3 * self.sizes.prod(axis=1).sum())

    @property
    def readable(self) -> Bool[np.ndarray, "n"]:
        readable = np.ones(len(self), dtype=np.bool_)
        readable[list(self.problems)] = False
        return readable

    @property
    def reduced(self) -> int:
        """How many images have lost resolution."""
        return int((self.sizes.prod(axis=1) < self.originals.prod(axis=1)).sum())


class ImageStore:
    """The pixels of a cache. Each image is held against its checksum when it is read for the first time.

    Pixels of few bytes are read into memory. Of a large map, pages that have been read are given back to the system
    every now and then, which keeps them as long as it has room: the memory of this process stays flat.

    Args:
        place: folder of a cache whose index says that it has pixels.
        index: its index.

    Raises:
        OSError: if the pixels are not there, or not as many as the index says.
    """

    def __init__(self, place: Path, index: Index) -> None:
        assert index.cached
        self._path, self._index = place / PIXELS, index
        self._offsets = np.concatenate([[0], 3 * index.sizes.prod(axis=1).cumsum()])
        self._checked = np.zeros(len(index), dtype=np.bool_)
        self._map: mmap.mmap | None = None
        self._read = 0
        with self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != index.bytes:
                raise OSError(f"{self._path} has not the size that its index gives")
            if index.bytes <= _SMALL:
                self._pixels = np.fromfile(file, dtype=np.uint8)
            else:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._pixels = np.frombuffer(self._map, dtype=np.uint8)

    def read(self, item: int) -> UInt8[np.ndarray, "3 h w"] | None:
        """The pixels of one image, read-only in a large cache; None where they are damaged."""
        start, stop = self._offsets[item], self._offsets[item + 1]
        self._read += int(stop - start)
        if self._map is not None and self._read > _MAPPED:
            self._read = 0
            self._map.madvise(mmap.MADV_DONTNEED)
        height, width = self._index.sizes[item]
        pixels = self._pixels[start:stop].reshape(3, height, width)
        if not self._checked[item]:
            if zlib.crc32(pixels.data) != self._index.checksums[item]:
                return None
            self._checked[item] = True
        return pixels

    def repair(self, item: int, pixels: UInt8[np.ndarray, "3 h w"]) -> None:
        """Puts right pixels in place of damaged ones, in memory and on disk where that can be written."""
        assert pixel_digest(pixels) == self._index.digests[item].tobytes()
        start = int(self._offsets[item])
        if self._map is None:
            self._pixels[start : start + pixels.size] = pixels.reshape(-1)
        try:
            descriptor = os.open(self._path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, pixels.tobytes(), start)
            finally:
                os.close(descriptor)
        except OSError:
            return  # a cache of someone else's; the damage is met again


def open_cache(place: Path) -> tuple[Index, ImageStore | None] | None:
    """The cache in a folder, without a store where it has no pixels; None where it is not whole."""
    index = Index.read(place / INDEX)
    if index is None:
        return None
    try:
        return index, ImageStore(place, index) if index.cached else None
    except OSError:
        return None


class Known:
    """Images that are in the whole caches of a folder already, by the content of their files."""

    def __init__(self, places: Iterable[Path]) -> None:
        self._found: dict[bytes, tuple[Path, Index, int]] = {}
        self._stores: dict[Path, ImageStore | None] = {}
        for place in places:
            index = Index.read(place / INDEX)
            if index is not None and index.cached:
                for item in np.flatnonzero(index.readable).tolist():
                    self._found[index.contents[item].tobytes()] = place, index, item

    def find(self, content: bytes) -> tuple[UInt8[np.ndarray, "3 h w"], tuple[int, int]] | None:
        """Pixels and original size; None where there is no such image."""
        if content not in self._found:
            return None
        place, index, item = self._found[content]
        if place not in self._stores:
            opened = open_cache(place)
            self._stores[place] = None if opened is None else opened[1]
        store = self._stores[place]
        pixels = None if store is None else store.read(item)
        height, width = index.originals[item].tolist()
        return None if pixels is None else (pixels, (height, width))


def pixel_digest(pixels: UInt8[np.ndarray, "3 h w"]) -> bytes:
    """16 bytes for pixels and shape."""
    state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    state.update(pixels.data)
    return state.digest()


def _unhex(digests: Sequence[str]) -> UInt8[np.ndarray, "n 16"]:
    return np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8).reshape(-1, 16)
