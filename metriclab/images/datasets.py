"""The two kinds of data sets there are: images that fit into memory, and image files."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from metriclab.core.batch import Images
from metriclab.core.protocols import Split
from metriclab.core.splits import SPLITS
from metriclab.errors import DataError
from metriclab.images.columns import Files, Made
from metriclab.images.columns import LabelledFile as LabelledFile  # where data sets look for it
from metriclab.images.decode import Pixels, decode
from metriclab.images.files import ImageFiles, OnError, say_once
from metriclab.images.sources import Source
from metriclab.images.stored import Stored, UnreadableImageError

_log = logging.getLogger(__name__)
_decoded: ContextVar[bool] = ContextVar("files are decoded", default=True)
_ROWS = 2**14  # of features, that are hashed at a time
_TRIED = 20  # files that may give no image before their channels stay unknown


@contextmanager
def without_decoding() -> Iterator[None]:
    """Data sets of files that are made inside the block list them only: all count as readable, and are black."""
    token = _decoded.set(False)
    try:
        yield
    finally:
        _decoded.reset(token)


class ArrayDataset:
    """One split of images of one shape, in memory.

    Args:
        pixels: of any number of channels.
        labels: index into classes, negative for unknown.
        classes: names.
        names: one an image.
        origin: what the fingerprint depends on besides pixels and labels.

    Example:
        >>> data = ArrayDataset(np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 1]), ["cat", "dog"], ["a", "b"])
        >>> data.images(np.array([1])).pixels.shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        pixels: UInt8[np.ndarray, "n c h w"],
        labels: Int64[np.ndarray, "n"],
        classes: Sequence[str],
        names: Sequence[str],
        *,
        origin: str = "",
    ) -> None:
        assert len(pixels) == len(labels) == len(names)
        self.pixels, self.labels, self.classes, self.names = pixels, labels, classes, names
        self._origin = origin

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of images and labels."""
        head = repr((self._origin, self.pixels.shape)).encode()
        return _digest([head, np.ascontiguousarray(self.pixels).data, _label_bytes(self.labels, self.classes)])

    def images(self, items: Int64[np.ndarray, "m"], /) -> Images:
        """Copies of these images."""
        pixels = self.pixels[items]
        sizes = torch.tensor(pixels.shape[2:], dtype=torch.int64).expand(len(pixels), 2).contiguous()
        return Images(torch.from_numpy(pixels), sizes)


class FileDataset:
    """One split of a data set of image files, decoded once into the cache: upright, of a bounded size.

    The files of all splits are given, so that they are listed and decoded together: `with_split` gives the other
    splits without looking at the disk again, and a run asks for them so. Features that exist already may stand in place
    of the images, which are not read then.

    Args:
        files: of all splits.
        split: which one this is; val may have no files.
        size: images are reduced until their short side has this many pixels, never enlarged.
        on_error: "error" to refuse files that give no image, "skip" to leave them out and list them in a file.
        pixels: "rgb" to make RGB of 8 bits of all, "stored" to keep the channels and bits of the files.
        classes: their names in the order of the labels; by default the sorted labels of all files.
        notes: what a user should know of how the files were found; the log says it, and `metriclab check --data`.
        features: of all files, in place of images.
        items: numbers of all files, equal for those of one thing, which evaluation never lets find each other.

    Attributes:
        labels: index into classes, -1 for unknown.
        classes: names.
        groups, categories: as labels, numbered over all splits; None where no file has one.
        items: as given, of this split; None where each image is a thing of its own.
        is_query, is_gallery: whether each image is looked for, and among; None where none is marked.
        names: the paths, with the box where an image is one of several of a file: see `boxes`.
        fingerprint: hex digest of images and labels, wherever the files lie.
        files: all images of all splits, see `ImageFiles`.
        has_features: whether it has features in place of images.
        notes: as given.

    Raises:
        DataError: naming the files that give no image, or the split that has none.
        StorageError: if the cache cannot be written.

    Example:
        A data set of one's own, in which `pets/test/cat/1.jpg` is an image of a cat to measure on:

        >>> @register("dataset", "pets")
        ... def Pets(split: Literal["train", "val", "test"], /, *, root: str = "pets") -> FileDataset:
        ...     paths = sorted(Path(root).glob("*/*/*.jpg"))
        ...     files = [LabelledFile(path, path.parts[-2], path.parts[-3]) for path in paths]
        ...     return FileDataset(files, split, size=224)
    """

    def __init__(
        self,
        files: Iterable[LabelledFile] | Files,
        split: Split,
        /,
        *,
        size: int = 256,
        on_error: OnError = "error",
        pixels: Pixels = "rgb",
        classes: Sequence[str] | None = None,
        notes: Sequence[str] = (),
        features: Float[Tensor, "n d"] | None = None,
        items: Int64[np.ndarray, "n"] | None = None,
    ) -> None:
        self._numbers = items
        self._listed, self.notes = Files.of(files), notes
        if not len(self._listed):
            raise DataError("the data set has no image file", help="check where it looks for them")
        for note in notes:
            say_once(note)
        self.classes = self._listed.labels.names if classes is None else classes
        self.has_features = features is not None
        self.files: ImageFiles | _ListedFiles | _FeatureRows
        if features is not None:
            self.files = _FeatureRows(features)
        elif _decoded.get():
            place = self._listed.place
            self.files = ImageFiles(self._listed.sources, size=size, on_error=on_error, pixels=pixels, place=place)
        else:
            self.files = _ListedFiles(self._listed.sources, size, pixels)
        self._choose(split)

    def with_split(self, split: Split, /) -> FileDataset:
        """Another split of the same data set."""
        other = copy.copy(self)
        other._choose(split)
        return other

    def _choose(self, split: Split) -> None:
        files = self._listed
        mine = np.flatnonzero(files.splits == SPLITS.index(split))
        self._items = readable = mine[self.files.readable[mine]]
        if not len(readable) and (len(mine) or split != "val"):
            place = os.path.commonpath([os.path.abspath(os.path.dirname(path)) for path in files.paths])
            raise DataError(
                f"{place}: the split {split!r} has no image",
                help=f"give it a folder of its own, or raise data.{split} above 0",
            )
        if len(readable) < len(mine):
            skipped = len(mine) - len(readable)
            _log.warning("%s: left out %d of %d files, listed in %s", split, skipped, len(mine), self.files.skipped)
        number = {name: number for number, name in enumerate(self.classes)}
        numbers = np.array([*(number[name] for name in files.labels.names), -1], dtype=np.int64)
        self.labels = numbers[files.labels.codes[readable]]
        self.items = None if self._numbers is None else self._numbers[readable]
        self.names = Made(len(readable), lambda row: files.names[readable[row]])
        self.groups, self.categories = (
            known.codes[readable].astype(np.int64) if known.names else None
            for known in (files.groups, files.categories)
        )
        marked = bool((files.query | files.gallery)[readable].any()) and split != "train"
        self.is_query, self.is_gallery = (side[readable] if marked else None for side in (files.query, files.gallery))

    @property
    def fingerprint(self) -> str:
        """Hex digest of images, labels, groups and categories, and of what is query and gallery."""
        parts = [self.files.digests[self._items].tobytes(), _label_bytes(self.labels, self.classes)]
        for key, known, numbers in (
            ("group", self._listed.groups, self.groups),
            ("category", self._listed.categories, self.categories),
        ):
            if numbers is not None:
                parts += [f"\0{key}\0".encode(), _label_bytes(numbers, known.names)]
        if self.items is not None:
            parts += [b"\0items\0", np.unique(self.items, return_inverse=True)[1].astype(np.int64).tobytes()]
        if self.is_query is not None and self.is_gallery is not None:
            parts += [b"\0roles\0", self.is_query.tobytes(), self.is_gallery.tobytes()]
        return _digest(parts)

    def images(self, items: Int64[np.ndarray, "m"], /) -> Images:
        """Pixels of these images, padded with zeros at the bottom and the right."""
        return self.files.images(self._items[items])


class _ListedFiles:
    """What stands in for `ImageFiles` where nothing is decoded, but for one image where its channels are to be told.

    Where none of the first files gives one, it is grey, which fits everywhere.
    """

    def __init__(self, paths: Sequence[Source], size: int, pixels: Pixels) -> None:
        self.size, self.readable, self.skipped = size, np.ones(len(paths), dtype=bool), None
        self.digests = np.zeros((len(paths), 16), np.uint8)
        self._black: Stored = np.zeros((1 if pixels == "stored" else 3, size, size), np.uint8)
        for path in paths[:_TRIED] if pixels == "stored" else ():
            with contextlib.suppress(UnreadableImageError):
                image = decode(path, size, pixels)
                self._black = np.zeros((len(image), size, size), image.dtype)
                break

    def images(self, items: Int64[np.ndarray, "m"]) -> Images:
        return Images.padded([self._black] * len(items))


class _FeatureRows:
    """What stands in for `ImageFiles` where features do in place of images."""

    def __init__(self, features: Float[Tensor, "n d"]) -> None:
        self.features, self.readable, self.skipped = features, np.ones(len(features), dtype=bool), None

    @cached_property
    def digests(self) -> UInt8[np.ndarray, "n 16"]:
        rows = b"".join(
            hashlib.blake2b(row.data, digest_size=16).digest()
            for part in torch.split(self.features, _ROWS)
            for row in part.float().contiguous().numpy()
        )
        return np.frombuffer(rows, dtype=np.uint8).reshape(len(self.features), 16)

    def images(self, items: Int64[np.ndarray, "m"]) -> Images:
        return Images.of_features(self.features[torch.from_numpy(items)])


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    """Hex digest of the parts one after the other."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()


def _label_bytes(labels: Int64[np.ndarray, "n"], classes: Sequence[str]) -> bytes:
    """The name of each item's class: it says what labels mean even where another split adds classes."""
    return "\0".join(classes[label] if label >= 0 else "" for label in labels).encode(errors="surrogateescape")
