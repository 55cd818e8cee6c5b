"""Which images a folder or a manifest holds, with their classes and splits; no image is opened."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from metriclab.datasets.splits import SPLITS
from metriclab.errors import DataError
from metriclab.images.datasets import LabelledFile
from metriclab.images.decode import SUFFIXES

_SUFFIXES = frozenset(SUFFIXES)
_ENDINGS = f"files are taken for images if they end in {' '.join(SUFFIXES)}"


def list_images(root: Path) -> list[LabelledFile]:
    """All images under a root, sorted by path (of a manifest: in its order).

    The root is a CSV manifest `path,label[,split]`, or a folder that holds images, or one folder a class, or folders
    `train`, `val` and `test` of either.

    Raises:
        DataError: if it is missing, empty, or has an empty class folder or an unclear layout.
    """
    if root.suffix.lower() == ".csv" and root.is_file():
        return _read_manifest(root)
    if not root.is_dir():
        found = "is no folder" if root.exists() else "does not exist"
        raise DataError(
            f"{root}: {found}",
            help=f"set data.root to a folder of images or a .csv manifest; relative paths start at {Path.cwd()}",
        )
    folders = _subfolders(root)
    names = [folder.name for folder in folders]
    if "train" in names and (set(names) <= set(SPLITS) or _subfolders(root / "train")):
        strange = [name for name in names if name not in SPLITS]
        if strange:
            raise DataError(
                f"{root}: there is a folder {strange[0]!r} beside 'train'",
                help=f"folders of splits are named {', '.join(SPLITS)}: rename it or move it elsewhere",
            )
        listed = [entry for folder in folders for entry in _list_split(root, folder, folder.name)]
    else:
        listed = list(_list_split(root, root, "train"))
    return listed


def _list_split(root: Path, folder: Path, split: str) -> Iterator[LabelledFile]:
    loose = sorted(entry.name for entry in _scan(folder) if _is_image(entry))
    classes = _subfolders(folder)
    if not loose and not classes:
        raise DataError(f"{folder}: the folder holds no image", help=_ENDINGS)
    if loose and classes:
        raise DataError(
            f"{folder}: the image {loose[0]!r} lies beside the class folder {classes[0].name!r}",
            help="move loose images into class folders, or elsewhere",
        )
    prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    for name in loose:
        yield LabelledFile(folder / name, "", split, f"{prefix}{name}")
    for subfolder in classes:
        names = sorted(_walk(subfolder, ""), key=lambda name: name.split("/"))
        if not names:
            raise DataError(f"{subfolder}: the class folder holds no image", help=f"fill or remove it; {_ENDINGS}")
        label = subfolder.name
        for name in names:
            yield LabelledFile(subfolder / name, label, split, f"{prefix}{label}/{name}")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(folder / entry.name for entry in _scan(folder) if entry.is_dir() and not entry.name.startswith("."))


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Images in a folder and below, by their path from it; links to folders are not followed."""
    for entry in _scan(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/")
        elif _is_image(entry):
            yield f"{prefix}{entry.name}"


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}", help="check that you may read it") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    # Hidden files are such as macOS's ._photo.jpg, which hold no image.
    name = entry.name
    return name[name.rfind(".") :].lower() in _SUFFIXES and not name.startswith(".") and entry.is_file()


def _read_manifest(path: Path) -> list[LabelledFile]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            missing = [name for name in ("path", "label") if name not in columns]
            if missing:
                raise DataError(
                    f"{path}:1: the manifest has no column {missing[0]!r}",
                    help="its first line is path,label or path,label,split",
                )
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: this is no CSV file in UTF-8 ({error})") from error
    if not rows:
        raise DataError(f"{path}: the manifest lists no image", help="give each image a line")
    seen: dict[str, int] = {}
    return [_manifest_row(path, line, row, seen) for line, row in rows]


def _manifest_row(manifest: Path, line: int, row: dict[str, str], seen: dict[str, int]) -> LabelledFile:
    place = f"{manifest}:{line}"
    if None in row or None in row.values():
        raise DataError(f"{place}: this line does not have one cell for each column", help="quote cells with commas")
    name, label, split = row["path"], row["label"], row.get("split", "train")
    if split not in SPLITS:
        raise DataError(f"{place}: there is no split {split!r}", help=f"the splits are {', '.join(SPLITS)}")
    if not (manifest.parent / name).is_file():
        raise DataError(f"{place}: there is no file {name!r}", help=f"paths start at {manifest.parent.absolute()}")
    if seen.setdefault(name, line) != line:
        raise DataError(f"{place}: {name!r} is already in line {seen[name]}", help="list each image once")
    return LabelledFile(manifest.parent / name, label, split, name)
