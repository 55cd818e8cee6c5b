"""The published benchmarks of image retrieval: from the list of their original files to a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from metriclab.core.protocols import Split
from metriclab.core.reading import read_lines
from metriclab.datasets.splits import carve, require_split
from metriclab.errors import DataError
from metriclab.images.datasets import FileDataset, LabelledFile

_SHOWN = 5  # missing files named in one message


class Size(NamedTuple):
    """How much a split holds."""

    images: int
    classes: int

    def __str__(self) -> str:
        return f"{self.images:,} images of {self.classes:,} classes"


class Benchmark(NamedTuple):
    """What is known of a data set before its files are opened.

    Attributes:
        name: as its authors call it.
        page: where they offer it.
        layout: its original files, as they lie in one folder.
        folders: what this folder may be called, below the root.
        train: published size of the training split, val included.
        test: published size of the test split.
        queries: published number of its queries, where it has such beside a gallery.
    """

    name: str
    page: str
    layout: str
    folders: tuple[str, ...]
    train: Size
    test: Size
    queries: int | None = None

    def find(self, root: str, name: str) -> Path | None:
        """The folder that has this file, or folder: the root or one below it; None where none has."""
        folders = (Path(root), *(Path(root, below) for below in self.folders))
        return next((folder for folder in folders if (folder / name).exists()), None)

    def require(self, root: str, name: str) -> Path:
        """The same, with an error that says what to download where there is none."""
        folder = self.find(root, name)
        if folder is None:
            raise self.error(f"{root}: {self.name} is not here, there is no {name}")
        return folder

    def error(self, message: str, files: Mapping[str, str] | None = None) -> DataError:
        """An error whose repair is to get the original files."""
        return DataError(
            message,
            help=f"get {self.name} from {self.page}, unpack {self.layout} into one folder and set data.root to it; "
            f"relative paths start at {Path.cwd()}",
            files=files,
        )

    def table(self, path: Path, columns: int, *, head: int = 0) -> list[list[str]]:
        """The lines of a text file as cells between spaces, without its first `head` lines."""
        try:
            lines = read_lines(path)
        except OSError as error:
            raise self.error(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise self.error(f"{path}: this is no text") from error
        rows = [line.split() for line in lines[head:]]
        for number, row in enumerate(rows, start=head + 1):
            if len(row) != columns:
                raise self.error(f"{path}:{number}: {len(row)} cells where there should be {columns}")
        return rows

    def number(self, text: str, path: Path) -> int:
        """A whole number out of a file."""
        if not (text.isascii() and text.isdigit()):
            raise self.error(f"{path}: {text!r} is no number")
        return int(text)


def benchmark_split(
    benchmark: Benchmark, split: Split, listed: Sequence[LabelledFile], folder: Path, *, size: int, val: float
) -> FileDataset:
    """One split of a benchmark whose test classes are never trained on.

    Whole classes of train become val, each by a hash of its name.

    Args:
        benchmark: what has to be there.
        split: which one.
        listed: all images, in train or in test.
        folder: where they are, for messages.
        size: longest short side in pixels.
        val: part of the training classes that becomes val.

    Raises:
        DataError: if anything that was published is missing, or a file gives no image.
        StorageError: if the cache cannot be written.
    """
    require_split(split)
    _check_lists(benchmark, listed, folder)
    _check_files(benchmark, listed, folder)
    trained = sorted({entry.label for entry in listed if entry.split == "train"})
    carved = carve(trained, {"val": val}, least=2, what="classes", place=str(folder)).tolist()
    splits = dict(zip(trained, carved, strict=True))
    files = [entry._replace(split=splits.get(entry.label, "test")) for entry in listed]
    try:
        return FileDataset(files, split, size=size)
    except DataError as error:  # whose repair would be to leave files out, which a benchmark must not
        raise benchmark.error(error.message, error.files) from error


def _check_lists(benchmark: Benchmark, listed: Sequence[LabelledFile], folder: Path) -> None:
    sides = {name: [entry.label for entry in listed if entry.split == name] for name in ("train", "test")}
    for name, published in (("train", benchmark.train), ("test", benchmark.test)):
        found = Size(len(sides[name]), len(set(sides[name]) - {""}))
        if found != published:
            raise benchmark.error(f"{folder}: the lists have {found} for {name}, {benchmark.name} has {published}")
    queries = sum(entry.query for entry in listed)
    if queries != (benchmark.queries or 0):
        raise benchmark.error(
            f"{folder}: the lists have {queries:,} queries, {benchmark.name} has {benchmark.queries or 0:,}"
        )
    both = sorted((set(sides["train"]) & set(sides["test"])) - {""})
    if both:
        raise benchmark.error(f"{folder}: {len(both)} classes are in train and in test, the first is {both[0]!r}")


def _check_files(benchmark: Benchmark, listed: Sequence[LabelledFile], folder: Path) -> None:
    missing = [entry.key for entry in listed if not entry.path.is_file()]
    if missing:
        more = [f"and {len(missing) - _SHOWN:,} more"] if len(missing) > _SHOWN else []
        shown = "\n  ".join(missing[:_SHOWN] + more)
        raise benchmark.error(f"{folder}: {len(missing):,} of {len(listed):,} images are missing:\n  {shown}")
