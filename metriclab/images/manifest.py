"""A table of images: a file with a column `path`, and others that say of what class, split and group each is."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from metriclab.core.reading import is_missing, read_text, require_regular
from metriclab.core.splits import SPLITS
from metriclab.errors import DataError
from metriclab.images.datasets import LabelledFile
from metriclab.images.tree import count_of

COLUMNS = ("path", "label", "split", "query", "gallery", "group", "category")
"""What is read; of these only `path` has to be there."""

_ALSO = {"is_query": "query", "is_gallery": "gallery"}
"""Names that open-metric-learning has for the same."""

_NO, _YES = ("", "0", "0.0", "false", "no"), ("1", "1.0", "true", "yes")
_FLAGS = dict.fromkeys(_NO, False) | dict.fromkeys(_YES, True)
_SHOWN = 20
"""Problems told at once."""

Line = tuple[int, list[str]]
"""Its number, and a cell for each column."""


class Problem(NamedTuple):
    """What is wrong in a table, and how it is put right."""

    text: str
    help: str


class Row(NamedTuple):
    """The cells of one line that are read, without the blanks around them."""

    place: str
    line: int
    cells: Mapping[str, str]

    def wrong(self, text: str, help: str) -> Problem:
        return Problem(f"{self.place}: {text}", help)


def read_manifest(path: Path, columns: Mapping[str, str] | None = None) -> tuple[list[LabelledFile], list[str]]:
    """The images of a manifest in its order, and what was read otherwise than it is written, in words.

    Blanks around cells are left out. A label, group or category left empty is unknown. Paths start at the manifest's
    folder.

    Args:
        path: a file of one of `FORMATS`.
        columns: what columns are called there, by the names of `COLUMNS`, where that differs.

    Raises:
        DataError: naming the lines, where it is no such table or names what is not there.
    """
    header, lines = _read(path)
    names = _names(path, header, columns or {})
    if not lines:
        raise DataError(f"{path}: the manifest lists no image", help="give each image a line")
    files, problems, seen, blank = list[LabelledFile](), list[Problem](), dict[str, tuple[int, str]](), 0
    places = {name: header.index(column) for name, column in names.items()}
    for number, cells in lines:
        place = f"{path}:{number}"
        if len(cells) != len(header):
            problems.append(Problem(f"{place}: this line does not have one cell for each column", _QUOTE))
            continue
        used = {name: cells[at] for name, at in places.items()}
        row = Row(place, number, {name: cell.strip() for name, cell in used.items()})
        blank += any(used[name] != cell for name, cell in row.cells.items())
        entry = _entry(path, row, names)
        repeated = _repeat(row, entry, seen) if isinstance(entry, LabelledFile) else entry
        if repeated is not None:
            problems.append(repeated)
        elif isinstance(entry, LabelledFile):
            files.append(entry)
    _refuse(path, problems)
    _check_roles(path, names, files)
    return files, [f"{path}: {note}" for note in _notes(blank, header, names, files)]


def _names(path: Path, header: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """What each column that is read is called in this table."""
    for name, column in columns.items():
        if name not in COLUMNS:
            raise DataError(
                f"columns.{name}: there is no column {name!r} to read", help=f"the columns are {', '.join(COLUMNS)}"
            )
        if column not in header:
            raise DataError(
                f"{path}:1: the manifest has no column {column!r}, which columns.{name} names",
                help=f"it has {', '.join(map(repr, header))}",
            )
    taken = set(columns.values())
    standard = {_ALSO.get(column, column): column for column in header if column not in taken}
    called = {**standard, **columns}
    names = {name: called[name] for name in COLUMNS if name in called}
    if "path" not in names:
        raise DataError(
            f"{path}:1: the manifest has no column 'path'",
            help=f"name that of the paths so, or in data.columns; there is {', '.join(map(repr, header)) or 'none'}",
        )
    for column in names.values():
        if header.count(column) > 1:
            raise DataError(f"{path}:1: there are two columns {column!r}", help="keep the one that is meant")
    return names


def _entry(manifest: Path, row: Row, names: Mapping[str, str]) -> LabelledFile | Problem:
    """The image of a line, or what is wrong with it."""
    cells = row.cells
    for name in ("label", "group", "category"):
        if is_missing(cells.get(name, "")):
            return row.wrong(
                f"the cell {cells[name]!r} of the column {names[name]!r} is a missing value and no {_NOUN[name]}",
                f"leave the cell empty where the {_NOUN[name]} is unknown",
            )
    if not cells["path"]:
        return row.wrong(f"the cell of the column {names['path']!r} is empty", "name the image of this line")
    split = next((split for split in SPLITS if split == cells.get("split", "train")), None)
    if split is None:
        return row.wrong(f"there is no split {cells['split']!r}", f"the splits are {', '.join(SPLITS)}")
    flags = {name: _FLAGS.get(cells.get(name, "").lower()) for name in ("query", "gallery")}
    for name, flag in flags.items():
        if flag is None:
            return row.wrong(
                f"the cell {cells[name]!r} of the column {names[name]!r} is neither true nor false",
                "write true or false, 1 or 0, or leave it empty",
            )
    name = os.path.normpath(cells["path"])
    path = manifest.parent / name
    try:
        require_regular(path)
    except FileNotFoundError:
        return row.wrong(f"there is no file {name!r}", f"paths start at {manifest.parent.absolute()}")
    except OSError as error:
        return row.wrong(f"{name!r} cannot be used: {error.strerror}", "name an image file")
    group, category = cells.get("group", ""), cells.get("category", "")
    query, gallery = bool(flags["query"]), bool(flags["gallery"])
    return LabelledFile(path, cells.get("label", ""), split, name, group, category, query, gallery)


def _repeat(row: Row, entry: LabelledFile, seen: dict[str, tuple[int, str]]) -> Problem | None:
    line, label = seen.setdefault(os.path.abspath(entry.path), (row.line, entry.label))
    if line == row.line:
        return None
    differs = "" if label == entry.label else f", with the label {label!r} and not {entry.label!r}"
    return row.wrong(f"{entry.key!r} is already in line {line}{differs}", "list each image once")


def _refuse(path: Path, problems: Sequence[Problem]) -> None:
    if len(problems) == 1:
        raise DataError(problems[0].text, help=problems[0].help)
    if problems:
        shown = [problem.text for problem in problems[:_SHOWN]]
        more = [f"and {len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
        told = "\n  ".join(shown + more)
        raise DataError(
            f"{path}: {len(problems):,} lines cannot be used:\n  {told}",
            help="; ".join(dict.fromkeys(problem.help for problem in problems[:_SHOWN])),
        )


def _check_roles(path: Path, names: Mapping[str, str], files: Sequence[LabelledFile]) -> None:
    for split in SPLITS[1:]:
        mine = [file for file in files if file.split == split]
        queries, gallery = (any(getattr(file, side) for file in mine) for side in ("query", "gallery"))
        if queries != gallery:
            there, lacking = ("query", "gallery") if queries else ("gallery", "query")
            raise DataError(
                f"{path}: the split {split!r} has images for {there} and none for {lacking}",
                help=f"mark some in a column {lacking!r}, or leave both columns away to look for each among all others",
            )


def _notes(blank: int, header: Sequence[str], names: Mapping[str, str], files: Sequence[LabelledFile]) -> Iterator[str]:
    if blank:
        yield f"left out the blanks around cells of {count_of(blank, 'line')}"
    unused = [repr(column) for column in header if column not in names.values()]
    if unused:
        read = ", ".join(names[name] for name in COLUMNS if name in names)
        yield f"of its columns {read} are read, and not {', '.join(unused)}"
    for split in SPLITS:
        mine = [file for file in files if file.split == split]
        marked = sum(file.query or file.gallery for file in mine)
        if split == "train" and marked:
            yield f"{count_of(marked, 'image')} of train marked query or gallery: these columns count in val and test"
        elif 0 < marked < len(mine):
            yield f"{count_of(len(mine) - marked, 'image')} of {split} are for neither query nor gallery, and left out"


def _read(path: Path) -> tuple[list[str], list[Line]]:
    """The names of the columns, and the cells of each other line that is not empty with its number."""
    read, is_called = FORMATS[path.suffix.lower()]
    try:
        return read(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", help="check that you may read it") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: this is no {is_called} file in UTF-8 ({error})", help=f"save it as {is_called}, in UTF-8"
        ) from error


def _separated(delimiter: str) -> Callable[[Path], tuple[list[str], list[Line]]]:
    def read(path: Path) -> tuple[list[str], list[Line]]:
        reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True, delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        return header, [(reader.line_num, cells) for cells in reader if cells]

    return read


def _json_lines(path: Path) -> tuple[list[str], list[Line]]:
    objects, problems = list[tuple[int, dict[str, object]]](), list[Problem]()
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        try:
            value = json.loads(line) if line.strip() else {}
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text: a ValueError
        except ValueError as error:
            value = error
        if not isinstance(value, dict) or any(isinstance(cell, dict | list) for cell in value.values()):
            problems.append(Problem(f"{path}:{number}: this line is no JSON object of plain values", _PLAIN))
        elif value:
            objects.append((number, value))
    _refuse(path, problems)
    header = list(dict.fromkeys(name for _, value in objects for name in value))
    return header, [(number, [_cell(value.get(name)) for name in header]) for number, value in objects]


def _cell(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


_QUOTE = "quote cells with commas"
_PLAIN = 'write one object a line, such as {"path": "a.png", "label": "cat"}'
_NOUN = {"label": "class", "group": "group", "category": "category"}
FORMATS: Mapping[str, tuple[Callable[[Path], tuple[list[str], list[Line]]], str]] = {
    ".csv": (_separated(","), "CSV"),
    ".tsv": (_separated("\t"), "TSV"),
    ".jsonl": (_json_lines, "JSON lines"),
}
"""How tables of each ending are read, and what they are called."""
