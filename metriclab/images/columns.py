"""The items of a data set as columns: five million fit into a gigabyte, where a tuple each would take four."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from metriclab.core.splits import SPLITS
from metriclab.errors import DataError
from metriclab.images.boxes import Box
from metriclab.images.sources import ImageSource, Source


class LabelledFile(NamedTuple):
    """One image of a data set: a file, or a box in one.

    Attributes:
        path: where it is, and its name in messages.
        label: name of its class, "" for unknown.
        split: "train", "val" or "test".
        key: its name within the data set, wherever that lies; only for who makes splits by it.
        group: name of what makes two images of a class too easy a match (camera, sequence), "" for unknown.
        category: name of its coarser class, "" for unknown.
        query, gallery: whether it is looked for, and looked among, in val and test; where none of a split is marked,
            each image is looked for among all others.
        box: the part of the file that is the image; None for all of it.
        source: where its bytes are, if not in a file at `path`.
    """

    path: Path
    label: str = ""
    split: str = "train"
    key: str = ""
    group: str = ""
    category: str = ""
    query: bool = False
    gallery: bool = False
    box: Box | None = None
    source: ImageSource | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """A name for each item: -1 for none, else its number among the different ones, which are sorted."""

    codes: Int32[np.ndarray, "n"]
    names: list[str]

    @classmethod
    def of(cls, values: Iterable[str]) -> Names:
        number = Numbers()
        codes = np.fromiter(map(number.__getitem__, values), dtype=np.int32)
        return cls.numbered(codes, list(number))

    @classmethod
    def numbered(cls, codes: Int32[np.ndarray, "n"], values: Sequence[str]) -> Names:
        """Of numbers of names in any order; equal names become one, and those of no item go."""
        used = np.zeros(len(values) + 1, dtype=np.bool_)
        used[codes] = True
        names = sorted({value for value, there in zip(values, used[:-1].tolist(), strict=True) if there} - {""})
        place = {name: number for number, name in enumerate(names)}
        order = np.array([*(place.get(value, -1) for value in values), -1], dtype=np.int32)
        return cls(order[codes], names)

    @classmethod
    def none(cls, count: int) -> Names:
        return cls(np.full(count, -1, dtype=np.int32), [])

    def __getitem__(self, item: int) -> str:
        code = self.codes[item]
        return self.names[code] if code >= 0 else ""

    def __iter__(self) -> Iterator[str]:
        names = [*self.names, ""]
        return (names[code] for code in self.codes.tolist())


class Numbers(dict[str, int]):
    """Numbers names as they come."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number


class Made(Sequence[str]):
    """Texts that are made when they are asked for."""

    def __init__(self, count: int, make: Callable[[int], str]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(eq, self, other))

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self._make(row) for row in range(self._count)[item]]
        return self._make(range(self._count)[item])


@dataclass(frozen=True, slots=True)
class Places:
    """Where items are in a table: of each the number of its line, and what stands before it."""

    path: Path
    before: str
    lines: Int64[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def noun(self) -> str:
        """What a line is called."""
        return "line" if self.before == ":" else "row"

    def of(self, line: int) -> str:
        """A line by its number."""
        return f"{self.path}{self.before}{line}"


def box_of(boxes: Int64[np.ndarray, "n 4"] | None, item: int) -> Box | None:
    """The box of an item; None for a whole image."""
    return Box(*boxes[item].tolist()) if boxes is not None and boxes[item].any() else None


@dataclass(frozen=True)
class Files:
    """The n items of a data set, of all splits.

    Attributes:
        paths: of the files.
        keys, labels, groups, categories, query, gallery, boxes: as those of `LabelledFile`; boxes are None where
            none has one.
        splits: numbers in `SPLITS`.
        places: where a table lists them; None where no table does.
        inside: where the bytes of each are, if any lie within files; None where each is in a file of its own.
    """

    paths: Sequence[str]
    keys: Sequence[str]
    labels: Names
    splits: Int64[np.ndarray, "n"]
    groups: Names
    categories: Names
    query: Bool[np.ndarray, "n"]
    gallery: Bool[np.ndarray, "n"]
    boxes: Int64[np.ndarray, "n 4"] | None = None
    places: Places | None = None
    inside: Sequence[Source] | None = None

    @classmethod
    def of(cls, files: Iterable[LabelledFile] | Files) -> Files:
        """Raises a DataError where there is no such split, and for a box of what lies within a file."""
        if isinstance(files, Files):
            return files
        files = list(files)
        number: dict[str, int] = {split: code for code, split in enumerate(SPLITS)}
        for file in files:
            if file.split not in number:
                raise DataError(
                    f"{file.path}: there is no split {file.split!r}", help=f"the splits are {', '.join(SPLITS)}"
                )
            if file.box is not None and file.source is not None:
                raise DataError(
                    f"{file.path}: boxes of images that lie within files are not read",
                    help="leave its box away, or store the image in a file of its own",
                )
        boxes = None
        if any(file.box is not None for file in files):
            boxes = np.array([file.box or (0, 0, 0, 0) for file in files], dtype=np.int64)
        inside: list[Source] | None = None
        if any(file.source is not None for file in files):
            inside = [f"{file.path}{file.box or ''}" if file.source is None else file.source for file in files]
        return cls(
            [str(file.path) for file in files],
            [file.key for file in files],
            Names.of(file.label for file in files),
            np.array([number[file.split] for file in files], dtype=np.int64),
            Names.of(file.group for file in files),
            Names.of(file.category for file in files),
            np.array([file.query for file in files], dtype=np.bool_),
            np.array([file.gallery for file in files], dtype=np.bool_),
            boxes,
            inside=inside,
        )

    @classmethod
    def plain(cls, paths: Sequence[str], keys: Sequence[str]) -> Files:
        """Items in train of which nothing else is known."""
        count = len(paths)
        nothing, neither = Names.none(count), np.zeros(count, dtype=np.bool_)
        return cls(paths, keys, nothing, np.zeros(count, dtype=np.int64), nothing, nothing, neither, neither)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> LabelledFile:
        source = None if self.inside is None else self.inside[item]
        return LabelledFile(
            Path(self.paths[item]),
            self.labels[item],
            SPLITS[self.splits[item]],
            self.keys[item],
            self.groups[item],
            self.categories[item],
            bool(self.query[item]),
            bool(self.gallery[item]),
            self.box(item),
            source if isinstance(source, ImageSource) else None,
        )

    def __iter__(self) -> Iterator[LabelledFile]:
        return map(self.__getitem__, range(len(self)))

    def box(self, item: int) -> Box | None:
        """The box of an item; None for a whole image."""
        return box_of(self.boxes, item)

    @cached_property
    def names(self) -> Sequence[str]:
        """A path each, with the box where there is one: see `boxes`."""
        return (
            self.paths
            if self.boxes is None
            else Made(len(self), lambda item: f"{self.paths[item]}{self.box(item) or ''}")
        )

    @property
    def sources(self) -> Sequence[Source]:
        """Where the images are: see `sources`."""
        return self.names if self.inside is None else self.inside

    def with_splits(self, splits: Int64[np.ndarray, "n"]) -> Files:
        """The same items in other splits: in one that nobody made, no image is marked as query or gallery."""
        stays = splits == self.splits
        return replace(self, splits=splits, query=self.query & stays, gallery=self.gallery & stays)

    def place(self, item: int) -> str:
        """Where a table lists an item, for the beginning of a message; nothing where no table does."""
        return "" if self.places is None else f"{self.places.of(int(self.places.lines[item]))}: "
