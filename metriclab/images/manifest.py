"""A table of images: a file with a column `path`, and others that say of what class, split and group each is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_not, not_
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from metriclab.core.reading import require_regular
from metriclab.core.splits import SPLITS
from metriclab.errors import DataError
from metriclab.images.boxes import Box
from metriclab.images.columns import Files, Made, Names, Numbers, Places, box_of
from metriclab.images.table_cells import CORNERS, NOUN, Column, boxes, flags, require_known, splits
from metriclab.images.table_problems import Problem, Problems, refuse
from metriclab.images.tables import Table, read_table
from metriclab.images.tree import count_of

_BOX = Box._fields
COLUMNS = ("path", "label", "split", "query", "gallery", "group", "category", *_BOX)
"""What is read; of these only `path` has to be there."""

_ALSO = {"is_query": "query", "is_gallery": "gallery"}
"""Names that open-metric-learning has for the same."""


def read_manifest(
    path: Path, columns: Mapping[str, str] | None = None, *, as_far_as_there: bool = False
) -> tuple[Files, list[str]]:
    """The images of a manifest in its order, and what was read otherwise than it is written, in words.

    Blanks around cells are left out. A label, group or category left empty is unknown. Paths start at the manifest's
    folder; `require_files` looks whether there are such files.

    Args:
        path: a file of one of the formats of `tables`.
        columns: what columns are called there, by the names of `COLUMNS`, where that differs.
        as_far_as_there: whether those of `columns` that the table lacks are no error, as they are of another one.

    Raises:
        DataError: naming the lines, where it is no such table.
        RecipeError: where `.parquet` lacks its extra.
    """
    columns = columns or {}
    table = read_table(path, {*COLUMNS, *_ALSO, *columns.values()}, columns.get("path", "path"))
    there = {name: column for name, column in columns.items() if name in COLUMNS and column in table.header}
    if as_far_as_there and there != columns:
        return read_manifest(path, there)
    names, places = _names(table, columns), table.places
    if not len(places) + len(table.uneven):
        raise DataError(f"{path}: the manifest lists no image", help="give each image a line")
    read, problems = {name: _column(table, called) for name, called in names.items()}, Problems(places, table.uneven)
    files = _checked(places, read, problems)
    if problems:  # what else a repair has to know of
        gone = {item: why for item in range(len(files)) if (why := _missing(files, item)) is not None}
        problems.add(np.isin(np.arange(len(files)), list(gone)), gone.__getitem__)
        problems.refuse()
    _check_roles(path, files)
    blank = int(np.logical_or.reduce([column.blank for column in read.values()]).sum())
    return files, [f"{path}: {note}" for note in _notes(blank, table.header, names, files)]


def require_files(files: Files) -> None:
    """Raises a DataError that names the lines of a table whose files are not there or cannot be images."""
    if files.places is not None:
        gone = ((item, _missing(files, item)) for item in range(len(files)))
        refuse(files.places.path, [why._replace(text=files.place(item) + why.text) for item, why in gone if why])


@contextmanager
def missing_files_first(files: Files) -> Iterator[None]:
    """What goes wrong with the data in the block gives way to what `require_files` has to say."""
    try:
        yield
    except DataError:
        require_files(files)
        raise


def _missing(files: Files, item: int) -> Problem | None:
    box, path = files.box(item), files.paths[item]
    name = files.keys[item].removesuffix(str(box or ""))
    try:
        require_regular(path)
    except FileNotFoundError:
        place = files.places.path.parent.absolute() if files.places else Path.cwd()
        return Problem(f"there is no file {name!r}", f"paths start at {place}")
    except OSError as error:
        return Problem(f"{name!r} cannot be used: {error.strerror}", "name an image file")
    return None


def _names(table: Table, columns: Mapping[str, str]) -> dict[str, str]:
    """What each column that is read is called in this table."""
    header = table.header
    for name, column in columns.items():
        if name not in COLUMNS:
            raise DataError(
                f"columns.{name}: there is no column {name!r} to read", help=f"the columns are {', '.join(COLUMNS)}"
            )
        if column not in header:
            raise DataError(
                f"{table.head}: the manifest has no column {column!r}, which columns.{name} names",
                help=f"it has {', '.join(map(repr, header))}",
            )
    taken = set(columns.values())
    standard = {_ALSO.get(column, column): column for column in header if column not in taken}
    called = {**standard, **columns}
    names = {name: called[name] for name in COLUMNS if name in called}
    if "path" not in names:
        raise DataError(
            f"{table.head}: the manifest has no column 'path'",
            help=f"name that of the paths so, or in data.columns; there is {', '.join(map(repr, header)) or 'none'}",
        )
    lacking = [name for name in _BOX if name not in names]
    if 0 < len(lacking) < len(_BOX):
        raise DataError(
            f"{table.head}: a box has four columns, and there is no {' and no '.join(map(repr, lacking))}",
            help=f"add what is lacking, or name it in data.columns; {CORNERS}",
        )
    return names


def _column(table: Table, called: str) -> Column:
    codes, texts = table.cells.pop(called).numbered()  # and no longer held twice
    stripped = [text.strip() for text in texts]  # the same object where there is nothing to strip
    blank = np.fromiter(map(is_not, stripped, texts), dtype=np.bool_, count=len(texts))
    return Column(called, codes, stripped, blank[codes])


def _checked(places: Places, read: Mapping[str, Column], problems: Problems) -> Files:
    """The images of the lines; what is wrong with some goes into `problems`."""
    count, path = len(places), read["path"]
    for name in (name for name in NOUN if name in read):
        require_known(name, read[name], problems)
    empty = Problem(f"the cell {path} is empty", "name the image of this line")
    problems.add(path.where(not_), lambda _: empty)
    split = splits(read.get("split"), problems, count)
    query, gallery = (flags(read.get(name), problems, count) for name in ("query", "gallery"))
    box = boxes([read[name] for name in _BOX], problems) if _BOX[0] in read else None
    labels, groups, categories = (
        Names.numbered(read[name].codes, read[name].texts) if name in read else Names.none(count) for name in NOUN
    )
    names, numbers = _normal(places.path, path.texts)
    folder = "" if places.path.parent == Path() else f"{places.path.parent}"
    keys: Sequence[str] = names
    if box is not None:
        keys = Made(count, lambda item: f"{names[item]}{box_of(box, item) or ''}")
    paths = Made(count, lambda item: os.path.join(folder, names[item]))
    files = Files(paths, keys, labels, split, groups, categories, query, gallery, box, places)
    _require_once(files, numbers, problems)
    return files


def _normal(table: Path, texts: list[str]) -> tuple[list[str], Int64[np.ndarray, "n"]]:
    """The paths without needless parts, and numbers of them, which are equal for equal files."""
    if all(_are_plain(texts[start : start + _PART]) for start in range(0, len(texts), _PART)):
        names = below = texts
    else:
        names = list(map(os.path.normpath, texts))
        folder = os.path.join(os.path.abspath(table.parent), "")
        below = [os.path.normpath(os.path.join(folder, name)).removeprefix(folder) for name in names]
    if len(set(below)) == len(below):
        return names, np.arange(len(names))
    number = Numbers()
    return names, np.fromiter(map(number.__getitem__, below), dtype=np.int64, count=len(names))


_PART = 2**16


def _are_plain(texts: list[str]) -> bool:
    """Whether the paths lie below their folder and have no needless parts; False in doubt."""
    joined = "\n".join(["", *texts, ""])
    return not any(part in joined for part in ("//", "/.", "/\n", "\n/", "\n."))


def _require_once(files: Files, numbers: Int64[np.ndarray, "n"], problems: Problems) -> None:
    """Refuses lines of a file, and a box, that are in a line before."""
    parts = [numbers] if files.boxes is None else [numbers, *files.boxes.T]
    order = np.lexsort(parts)  # those of one item in the order of their lines
    first = np.ones(len(files), dtype=np.bool_)
    first[1:] = np.logical_or.reduce([part[order][1:] != part[order][:-1] for part in parts])
    before = np.empty(len(files), dtype=np.int64)
    before[order] = order[np.maximum.accumulate(np.where(first, np.arange(len(files)), 0))]

    def say(item: int) -> Problem:
        other = int(before[item])
        labels = files.labels[other], files.labels[item]
        differs = "" if labels[0] == labels[1] else f", with the label {labels[0]!r} and not {labels[1]!r}"
        assert files.places is not None
        where = f"{files.places.noun} {files.places.lines[other]}"
        return Problem(f"{files.keys[item]!r} is already in {where}{differs}", "list each image once")

    problems.add(before != np.arange(len(files)), say)


def _check_roles(path: Path, files: Files) -> None:
    for code, split in enumerate(SPLITS[1:], start=1):
        mine = files.splits == code
        queries, gallery = (bool((mine & marked).any()) for marked in (files.query, files.gallery))
        if queries != gallery:
            there, lacking = ("query", "gallery") if queries else ("gallery", "query")
            raise DataError(
                f"{path}: the split {split!r} has images for {there} and none for {lacking}",
                help=f"mark some in a column {lacking!r}, or leave both columns away to look for each among all others",
            )


def _notes(blank: int, header: Sequence[str], names: Mapping[str, str], files: Files) -> Iterator[str]:
    if blank:
        yield f"left out the blanks around cells of {count_of(blank, 'line')}"
    unused = [repr(column) for column in header if column not in names.values()]
    if unused:
        read = ", ".join(names[name] for name in COLUMNS if name in names)
        yield f"of its columns {read} are read, and not {', '.join(unused)}"
    for code, split in enumerate(SPLITS):
        mine = files.splits == code
        count, marked = int(mine.sum()), int((mine & (files.query | files.gallery)).sum())
        if split == "train" and marked:
            yield f"{count_of(marked, 'image')} of train marked query or gallery: these columns count in val and test"
        elif 0 < marked < count:
            yield f"{count_of(count - marked, 'image')} of {split} are for neither query nor gallery, and left out"
