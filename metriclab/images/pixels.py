"""Decoded images on disk: one file each, known by the content of the image file it was made of."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import UInt8

from metriclab.core.reading import without_waiting
from metriclab.errors import StorageError
from metriclab.images.cache_files import NO_ROOM
from metriclab.images.decode import DECODING, Decoded

_HEAD = struct.Struct("<I4I")  # CRC-32 of all that follows; height and width of the pixels, and in the image file
HEAD_BYTES = _HEAD.size


def decoding(size: int) -> str:
    """What pixels depend on besides the bytes of an image file."""
    return f"{size} px, decoding {DECODING}, Pillow {PIL.__version__}"


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
        pixels = np.frombuffer(data, dtype=np.uint8, offset=HEAD_BYTES).reshape(3, height, width)
        return Decoded(pixels, (original[0], original[1]))

    def put(self, content: bytes, decoded: Decoded) -> None:
        """Writes an image, in place of a damaged one too.

        Raises:
            StorageError: if it cannot be written.
        """
        sizes = _HEAD.pack(0, *decoded.pixels.shape[1:], *decoded.original)[4:]
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


def pixel_digest(pixels: UInt8[np.ndarray, "3 h w"]) -> bytes:
    """16 bytes for pixels and shape."""
    state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    state.update(pixels.data)
    return state.digest()
