"""Which images lie in a folder and below it, and of which class and split each is by its place."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from metriclab.core.protocols import Split
from metriclab.core.reading import printable
from metriclab.core.splits import SPLITS
from metriclab.errors import DataError
from metriclab.images.decode import Pixels, image_endings

_SHOWN = 3  # names of files left out
_LINKS_SHOWN = 20
_LEVELS = 2  # of folders that a layout is told by
_ROOT_ENDS = "/./"  # as rsync has it: any program opens such a path, and what stands before is the root

Identity = tuple[int, int]
"""Device and number of a folder: the same by whatever path one comes to it."""


class Place(NamedTuple):
    """What the path of an image says of it: its class, "" where it lies in no class folder, and its split."""

    label: str
    split: Split


class LeftOut:
    """What is no image, counted by the reason; the names of the first."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.links: dict[str, list[str]] = {}

    def file(self, name: str, kind: str) -> None:
        self.kinds[kind] += 1
        if len(self.names) < _SHOWN:
            self.names.append(name)

    def link(self, name: str, leads: str) -> None:
        self.links.setdefault(leads, []).append(name)

    def notes(self, root: Path) -> list[str]:
        """A sentence for the files, and one for each kind of links."""
        notes = []
        if self.kinds:
            count, kinds = self.kinds.total(), ", ".join(f"{n:,} {kind}" for kind, n in self.kinds.most_common())
            notes.append(f"left out {count_of(count, 'file')} ({kinds}): {_some(self.names, count)}")
        for leads, names in self.links.items():
            notes.append(f"left out {count_of(len(names), 'link')} {leads}: {_some(names[:_LINKS_SHOWN], len(names))}")
        return [f"{printable(str(root))}: {note}" for note in notes]


def count_of(number: int, noun: str) -> str:
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def _some(names: Sequence[str], count: int) -> str:
    return ", ".join(map(printable, names)) + (f" and {count - len(names):,} more" if count > len(names) else "")


class Tree(NamedTuple):
    """What lies in a folder and below.

    Attributes:
        names: paths of the images from the folder on, sorted by folder.
        folders: those in it and in its folders, by their paths, empty ones too.
        split_level: whether the first folders are splits.
        notes: what was left out, in words.
    """

    names: list[str]
    folders: list[str]
    split_level: bool
    notes: list[str]


def scan(root: Path, pixels: Pixels = "rgb") -> Tree:
    """The images in a folder and below: regular files, not hidden, with an ending of an image for these pixels.

    Links are followed, to files and to folders. A folder met again in one class, or inside itself, is not entered.

    Raises:
        DataError: where a folder cannot be read.
    """
    names, folders, left, endings = list[str](), list[str](), LeftOut(), image_endings(pixels)
    top = [entry.name for entry in _list(os.fspath(root), "", [], LeftOut(), endings)]
    nested = _list(os.path.join(root, "train"), "train/", [], LeftOut(), endings) if "train" in top else []
    split_level = has_split_level([*top, *(f"train/{entry.name}" for entry in nested)])
    # Levels whose folders are each looked at by themselves: what is met in one class says nothing of another.
    apart = 2 if split_level else 1
    stack = [(os.fspath(root), "", set[Identity](), apart)]
    while stack:
        folder, prefix, met, apart = stack.pop()
        if (identity := _identity(folder)) in met:
            left.link(prefix[:-1], "to a folder that is here already")
            continue
        met.add(identity)
        if 0 < prefix.count("/") <= _LEVELS:
            folders.append(prefix[:-1])
        inner = _list(folder, prefix, names, left, endings)
        # The last comes first off the stack: folders before links to them.
        for entry in sorted(inner, key=lambda entry: (entry.is_symlink(), entry.name), reverse=True):
            stack.append((entry.path, f"{prefix}{entry.name}/", set(met) if apart > 0 else met, apart - 1))
    return Tree(sorted(names, key=_parts), sorted(folders, key=_parts), split_level, left.notes(root))


def has_split_level(folders: Collection[str]) -> bool:
    """Whether the first of these folders, paths below the root of a data set, are splits and not classes.

    They are where all of them are called `train`, `val` or `test`, with a `train` among them; beside others too, as
    soon as `train` has folders itself.
    """
    first = {folder.partition("/")[0] for folder in folders}
    return "train" in first and (first <= set(SPLITS) or any(folder.startswith("train/") for folder in folders))


def require_only_splits(root: Path, folders: Collection[str], loose: Sequence[str], noun: str) -> None:
    """Raises a DataError where something else lies beside the folders of the splits, as it would be of train unseen.

    Args:
        root: what they lie in.
        folders: the names of those in it.
        loose: the names of its own files.
        noun: what such a file is called.
    """
    beside = next(split for split in SPLITS if split in folders)
    for name in folders:
        if name not in SPLITS:
            raise DataError(
                f"{root}: there is a folder {name!r} beside {beside!r}",
                help=f"folders of splits are named {', '.join(SPLITS)}: rename it or move it elsewhere",
            )
    if loose:
        raise DataError(
            f"{root}: the {noun} {loose[0]!r} lies beside the folder {beside!r}",
            help="move it into the folder of a split, or elsewhere",
        )


def place_of(name: str, split_level: bool) -> Place:
    """The class of an image is the first folder in its path below the root; after the split, where folders are splits.

    How deep it lies in that folder does not matter.
    """
    split, slash, rest = name.partition("/")
    chosen = next((known for known in SPLITS if split_level and slash and known == split), None)
    label, slash, _ = (name if chosen is None else rest).partition("/")
    return Place(label if slash else "", chosen or "train")


def paths_of(root: Path, tree: Tree) -> list[str]:
    """The path of each image, so that `folder_classes` gives it the class that it has here.

    Where all images lie in one class folder, say, their paths alone do not tell the root: there it ends in `/./`.
    """
    paths = [str(root / name) for name in tree.names]
    if folder_classes(paths) == [place_of(name, tree.split_level).label for name in tree.names]:
        return paths
    return [f"{root}{_ROOT_ENDS}{name}" for name in tree.names]


def folder_classes(paths: Sequence[str]) -> list[str]:
    """The class of each image by its path alone: see `folder_places`."""
    return [place.label for place in folder_places(paths)]


def folder_places(paths: Sequence[str]) -> list[Place]:
    """The class and the split of each image by its path alone, below the root: see `names_below` and `place_of`."""
    names = names_below(paths)
    split_level = has_split_level({os.path.dirname(name) for name in names} - {""})
    return [place_of(name, split_level) for name in names]


def names_below(paths: Sequence[str]) -> list[str]:
    """The paths from the root on.

    The root is what stands before `/./` in each path (`pets/./red/2020/1.jpg`); without that, the folder that has all.
    """
    if not all(_ROOT_ENDS in path for path in paths):
        absolute = [os.path.abspath(path) for path in paths]
        root = os.path.commonpath([os.path.dirname(path) for path in absolute])
        return [path[len(root) :].lstrip("/") for path in absolute]
    return [path.rpartition(_ROOT_ENDS)[2] for path in paths]


def _list(
    folder: str, prefix: str, names: list[str], left: LeftOut, endings: Collection[str]
) -> list[os.DirEntry[str]]:
    """The folders in a folder; its images go into `names`, all else into `left`."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}", help="check that you may read it") from error
    folders = []
    for entry in entries:
        name, kind = f"{prefix}{entry.name}", _kind(entry)
        if entry.name.startswith("."):  # such as macOS's ._photo.jpg, which holds no image
            left.file(name, "hidden")
        elif kind == "folder":
            folders.append(entry)
        elif kind == "nowhere":
            left.link(name, "to nothing that can be read")
        elif kind == "other":
            left.file(name, "neither file nor folder")
        elif (ending := os.path.splitext(name)[1].lower()) in endings:
            names.append(name)
        else:
            left.file(name, printable(ending) or "without an ending")
    return folders


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "other", "nowhere"]:
    try:
        if entry.is_symlink():
            entry.stat()  # raises where it leads nowhere, also round in a circle
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:
        return "nowhere"


def _identity(folder: str) -> Identity:
    try:
        state = os.stat(folder)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}", help="check that you may read it") from error
    return state.st_dev, state.st_ino


def _parts(name: str) -> list[str]:
    return name.split("/")
