"""What is known of a list of image files without opening them, and where their decoded pixels lie."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from jaxtyping import Bool, Int64, UInt8

from metriclab.core.reading import without_waiting
from metriclab.errors import StorageError
from metriclab.images.cache_files import NO_ROOM, keeps, load_arrays, save_arrays
from metriclab.images.decode import DECODING, Decoded, Pixels
from metriclab.images.stored import Stored

_HEAD = struct.Struct("<I4I")  # CRC-32 of all that follows; height and width of the pixels, and in the image file
_KIND = 2**16  # the height is below; above stands 0 for RGB of 8 bits, else twice the channels, and 1 more for 16 bits
HEAD_BYTES = _HEAD.size


def decoding(size: int, pixels: Pixels = "rgb") -> str:
    """What pixels depend on besides the bytes of an image file."""
    as_stored = ", as stored" if pixels == "stored" else ""
    return f"{size} px, decoding {DECODING}, Pillow {PIL.__version__}{as_stored}"


def format_of(pixels: Stored) -> tuple[int, int]:
    """Channels, and bytes of a value."""
    return len(pixels), pixels.itemsize


RGB = (3, 1)
"""The format of most images, and of all that were cached before there were others."""


class PixelStore:
    """Reads and writes decoded images. Each is whole or not there, and is held against its checksum when read.

    Any number of processes may write the same image at once: they write the same bytes.

    Args:
        folder: where they lie; made when the first is written.
        decoding: see there.
    """

    def __init__(self, folder: Path, decoding: str) -> None:
        self._folder, self._decoding = os.fspath(folder), decoding.encode()

    def path(self, content: bytes) -> str:
        """Where the image made of a file of this content lies."""
        name = hashlib.blake2b(self._decoding + content, digest_size=16).hexdigest()
        return f"{self._folder}/{name[:2]}/{name[2:]}"

    def get(self, content: bytes) -> Decoded | None:
        """The image made of a file of this content; None where it is not there, or damaged."""
        try:
            with open(self.path(content), "rb", buffering=0, opener=without_waiting) as file:
                data = file.read()
        except OSError:
            return None
        if len(data) < HEAD_BYTES:
            return None
        checksum, height, width, *original = _HEAD.unpack_from(data)
        if zlib.crc32(memoryview(data)[4:]) != checksum:
            return None
        kind, height = divmod(height, _KIND)
        channels, sixteen = divmod(kind, 2) if kind else (3, 0)
        dtype = "<u2" if sixteen else "u1"
        pixels = np.frombuffer(data, dtype=dtype, offset=HEAD_BYTES).reshape(channels, height, width)
        return Decoded(pixels, (original[0], original[1]))

    def put(self, content: bytes, decoded: Decoded) -> None:
        """Writes an image, in place of a damaged one too.

        Raises:
            StorageError: if it cannot be written.
        """
        if not keeps():
            return
        (channels, value_bytes), (_, height, width) = format_of(decoded.pixels), decoded.pixels.shape
        kind = 0 if (channels, value_bytes) == RGB else 2 * channels + value_bytes - 1
        sizes = _HEAD.pack(0, kind * _KIND + height, width, *decoded.original)[4:]
        checksum = zlib.crc32(decoded.pixels.data, zlib.crc32(sizes))
        path = Path(self.path(content))
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Not synced: what a power cut tears is found by its checksum, and made again.
                with partial.open("wb") as file:
                    file.writelines((checksum.to_bytes(4, "little"), sizes, decoded.pixels.data))
                partial.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    partial.unlink()
                raise
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})", help=NO_ROOM) from error


def pixel_digest(pixels: Stored) -> bytes:
    """16 bytes for pixels and shape."""
    state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    state.update(pixels.data)
    return state.digest()


_ARRAYS = ("states", "contents", "digests", "sizes", "originals", "cached")
_ALL = (*_ARRAYS, "formats", "lossy", "losses")


class Record(NamedTuple):
    """What is known of one image file.

    Attributes:
        content: 16 bytes for the bytes of the file.
        digest: 16 bytes for pixels and shape, see `pixel_digest`.
        size: height and width of the pixels.
        original: height and width in the file.
        cached: whether there was room for the pixels.
        problem: why it gives no image; "" where it does.
        format: of the pixels, see `format_of`.
        lost: what of the file is not in the pixels, see `Decoded`.
    """

    content: bytes = bytes(16)
    digest: bytes = bytes(16)
    size: tuple[int, int] = (0, 0)
    original: tuple[int, int] = (0, 0)
    cached: bool = False
    problem: str = ""
    format: tuple[int, int] = RGB
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """The records of n files.

    Attributes:
        states: size and times of each file when it was read.
        contents, digests, sizes, originals, cached: as in `Record`.
        problems: position -> why that file gives no image.
        formats: as in `Record`.
        lost: position -> what of that file is not in its pixels; None in an index of before this was known.
        decoding: how pixels were made, see there.
        source: the folder that has all the files, for people.
    """

    states: Int64[np.ndarray, "n 3"]
    contents: UInt8[np.ndarray, "n 16"]
    digests: UInt8[np.ndarray, "n 16"]
    sizes: Int64[np.ndarray, "n 2"]
    originals: Int64[np.ndarray, "n 2"]
    cached: Bool[np.ndarray, "n"]
    problems: dict[int, str]
    decoding: str
    source: str
    formats: Int64[np.ndarray, "n 2"]
    lost: dict[int, str] | None

    @classmethod
    def of(cls, records: Sequence[Record], states: Int64[np.ndarray, "n 3"], *, decoding: str, source: str) -> Index:
        contents, digests, sizes, originals, cached, problems, formats, lost = zip(*records, strict=True)
        return cls(
            states,
            np.frombuffer(b"".join(contents), dtype=np.uint8).reshape(-1, 16),
            np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16),
            np.array(sizes, dtype=np.int64),
            np.array(originals, dtype=np.int64),
            np.array(cached, dtype=np.bool_),
            {item: problem for item, problem in enumerate(problems) if problem},
            decoding,
            source,
            np.array(formats, dtype=np.int64),
            {item: what for item, what in enumerate(lost) if what},
        )

    @classmethod
    def read(cls, path: Path) -> Index | None:
        """None where there is none, or a damaged one."""
        told = load_arrays(path, *_ALL, "bad", "reasons", "texts")
        loaded = told or load_arrays(path, *_ARRAYS, "bad", "reasons", "texts")
        if loaded is None:
            return None
        problems = dict(zip(loaded["bad"].tolist(), loaded["reasons"].tolist(), strict=True))
        decoding, source = loaded["texts"].tolist()
        arrays = {name: loaded[name] for name in _ARRAYS}
        formats = np.tile(np.array(RGB, dtype=np.int64), (len(arrays["sizes"]), 1)) if told is None else told["formats"]
        lost = None if told is None else dict(zip(told["lossy"].tolist(), told["losses"].tolist(), strict=True))
        return cls(**arrays, problems=problems, decoding=decoding, source=source, formats=formats, lost=lost)

    def write(self, path: Path) -> None:
        lost, texts = self.lost or {}, {"texts": np.array([self.decoding, self.source])}
        for places, reasons, told in (("bad", "reasons", self.problems), ("lossy", "losses", lost)):
            texts |= {
                places: np.array(list(told), dtype=np.int64),
                reasons: np.array(list(told.values()), dtype=np.str_),
            }
        arrays = {name: getattr(self, name) for name in (*_ARRAYS, "formats")}
        save_arrays(path, {**arrays, **texts})

    def __len__(self) -> int:
        return len(self.sizes)

    def records(self) -> Iterator[Record]:
        columns, lost = (self.sizes, self.originals, self.cached, self.formats), self.lost or {}
        for item, (size, original, cached, kind) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            content, digest = self.contents[item].tobytes(), self.digests[item].tobytes()
            problem, format = self.problems.get(item, ""), (kind[0], kind[1])
            yield Record(content, digest, tuple(size), tuple(original), cached, problem, format, lost.get(item, ""))

    @property
    def readable(self) -> Bool[np.ndarray, "n"]:
        """Whether each file gives an image."""
        readable = np.ones(len(self), dtype=np.bool_)
        readable[list(self.problems)] = False
        return readable

    @property
    def lacking(self) -> Bool[np.ndarray, "n"]:
        """Which images had no room."""
        lacking: Bool[np.ndarray, "n"] = self.readable & ~self.cached
        return lacking

    @property
    def reduced(self) -> int:
        """How many images have lost resolution."""
        return int((self.sizes.prod(axis=1) < self.originals.prod(axis=1)).sum())

    def bytes(self, chosen: Bool[np.ndarray, "n"]) -> int:
        """Size of the pixels of some of the images, cached or not."""
        return int((self.formats[chosen].prod(axis=1) * self.sizes[chosen].prod(axis=1)).sum())
