"""Image files, decoded once into a flat file that is mapped into memory from then on."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL
from jaxtyping import Bool, Int64, Shaped, UInt8

from metriclab.core.batch import Images
from metriclab.core.errors import DataError
from metriclab.datasets.arrays import digest, label_bytes
from metriclab.datasets.cache import cache_folder, load_arrays, save_arrays, writing
from metriclab.datasets.decode import DECODING, UnreadableImageError, decode

_CHUNK = 256  # files decoded between two writes: bounds what is held
_SHOWN = 5  # problems named in one message

_log = logging.getLogger(__name__)

OnError = Literal["error", "skip"]


class _Decoded(NamedTuple):
    pixels: UInt8[np.ndarray, "3 h w"]
    problem: str


class ImageFiles:
    """Images by their position in a list of files: padded batches out of a cache.

    The cache is found again by path, bytes and time of change of every file, so a changed file is decoded anew.

    Args:
        paths: the files, in the order in which they are asked for.
        size: longest short side in pixels; see `decode`.
        on_error: "error" to refuse files that give no image, "skip" to leave them out of `readable`.

    Attributes:
        readable: whether each file gave an image.
        digests: 16 bytes for the pixels and shape of each image.
        skipped: the list of files left out, with the reasons, if there are any.

    Raises:
        DataError: naming the files that give no image.
        StorageError: if the cache cannot be written.
    """

    readable: Bool[np.ndarray, "n"]
    digests: UInt8[np.ndarray, "n 16"]
    skipped: Path | None

    def __init__(self, paths: Sequence[Path], *, size: int, on_error: OnError = "error") -> None:
        assert paths
        folder, key = cache_folder("images"), _key(paths, size)
        pixels_path = folder / f"{key}.pixels"
        index = _read_index(folder / f"{key}.npz", pixels_path)
        if index is None or (on_error == "error" and not index["readable"].all()):
            _log.info("decoding %d images into %s", len(paths), folder)
            index = _build(paths, size, on_error, pixels_path)
            save_arrays(folder / f"{key}.npz", index)
        self.readable, self.digests = index["readable"], index["digests"]
        self._sizes, self._offsets = index["sizes"], index["offsets"]
        self._pixels = np.memmap(pixels_path, dtype=np.uint8, mode="r")
        self.skipped = None if self.readable.all() else folder / f"{key}.skipped.txt"
        if self.skipped is not None:
            _write_skipped(self.skipped, paths, index)

    def images(self, items: Int64[np.ndarray, "m"]) -> Images:
        """Pixels of the files at these positions, padded with zeros at the bottom and the right."""
        sizes = self._sizes[items]
        assert self.readable[items].all()
        parts = (
            self._pixels[start : start + 3 * h * w] for start, (h, w) in zip(self._offsets[items], sizes, strict=True)
        )
        return Images.padded([part.reshape(3, h, w) for part, (h, w) in zip(parts, sizes, strict=True)])


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


def _key(paths: Sequence[Path], size: int) -> str:
    state = hashlib.sha256(f"{size} {DECODING} {PIL.__version__}".encode())
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}", help="check the path, and that you may read it") from error
        state.update(f"\n{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape"))
    return state.hexdigest()[:32]


def _read_index(path: Path, pixels: Path) -> dict[str, np.ndarray] | None:
    index = load_arrays(path, "sizes", "offsets", "digests", "readable", "problems")
    if index is None or not pixels.exists() or pixels.stat().st_size != 3 * index["sizes"].prod(axis=1).sum():
        return None
    return index


def _build(paths: Sequence[Path], size: int, on_error: OnError, target: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    sizes = np.zeros((len(paths), 2), dtype=np.int64)
    digests = np.zeros((len(paths), 16), dtype=np.uint8)
    problems = [""] * len(paths)
    with writing(target) as file:
        for item, (pixels, problem) in enumerate(_decode_all(paths, size)):
            sizes[item], problems[item] = pixels.shape[1:], problem
            state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
            state.update(pixels.data)
            digests[item] = np.frombuffer(state.digest(), dtype=np.uint8)
            file.write(pixels.data)
        _refuse(paths, problems, on_error)
    offsets = np.concatenate([[0], 3 * sizes.prod(axis=1).cumsum()[:-1]])
    readable = np.array([not problem for problem in problems])
    return {
        "sizes": sizes,
        "offsets": offsets,
        "digests": digests,
        "readable": readable,
        "problems": np.array(problems),
    }


def _decode_all(paths: Sequence[Path], size: int) -> Iterator[_Decoded]:
    def attempt(path: Path) -> _Decoded:
        try:
            return _Decoded(decode(path, size), "")
        except UnreadableImageError as error:
            return _Decoded(np.empty((3, 0, 0), dtype=np.uint8), str(error))

    # Filters are global and threads have none of their own, so they are set here, around all threads.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for start in range(0, len(paths), _CHUNK):
            yield from pool.map(attempt, paths[start : start + _CHUNK])


def _refuse(paths: Sequence[Path], problems: Sequence[str], on_error: OnError) -> None:
    bad = [f"{path}: {problem}" for path, problem in zip(paths, problems, strict=True) if problem]
    files = {str(path): problem for path, problem in zip(paths, problems, strict=True) if problem}
    if len(bad) == len(paths):
        raise DataError(f"none of {len(paths)} files gives an image, the first is {bad[0]}", files=files)
    if bad and on_error == "error":
        shown = "\n  ".join(bad[:_SHOWN]) + (f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
        raise DataError(
            shown if len(bad) == 1 else f"{len(bad)} files give no image:\n  {shown}",
            help='repair or remove them, or set data.on_error = "skip" to go on without them and get a list of them',
            files=files,
        )


def _write_skipped(path: Path, paths: Sequence[Path], index: dict[str, Shaped[np.ndarray, "..."]]) -> None:
    if not path.exists():
        lines = [f"{paths[item]}\t{index['problems'][item]}\n" for item in np.flatnonzero(~index["readable"]).tolist()]
        with writing(path) as file:
            file.write("".join(lines).encode(errors="surrogateescape"))
