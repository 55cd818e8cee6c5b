"""A table of images: a CSV file with the columns path, label and perhaps split."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from metriclab.core.protocols import Split
from metriclab.core.reading import is_missing, read_text, require_regular
from metriclab.core.splits import SPLITS
from metriclab.errors import DataError
from metriclab.images.datasets import LabelledFile
from metriclab.images.tree import count_of

_COLUMNS = ("path", "label", "split")


class Row(NamedTuple):
    """One line of a manifest.

    Attributes:
        line: its number.
        path: where the file is.
        name: the path in the manifest, in its shortest form.
        label: "" for unknown.
        split: "train" without such a column.
    """

    line: int
    path: Path
    name: str
    label: str
    split: Split


def read_manifest(path: Path) -> tuple[list[LabelledFile], list[str]]:
    """The images of a manifest in its order, and what was read otherwise than it is written, in words.

    Blanks around cells are left out. A label left empty is unknown. Paths start at the manifest's folder.

    Raises:
        DataError: naming the line, where it is no such table or names what is not there.
    """
    header, lines = _table(path)
    if not lines:
        raise DataError(f"{path}: the manifest lists no image", help="give each image a line")
    rows, seen, blank = [], dict[str, Row](), 0
    for line, cells in lines:
        if len(cells) != len(header):
            raise DataError(
                f"{path}:{line}: this line does not have one cell for each column", help="quote cells with commas"
            )
        values = dict(zip(header, cells, strict=True))
        row = _row(path, line, {name: values[name].strip() for name in _COLUMNS if name in values})
        blank += any(values[name] != values[name].strip() for name in _COLUMNS if name in values)
        _refuse_repeat(path, seen.setdefault(os.path.abspath(row.path), row), row)
        rows.append(row)
    notes = [f"{path}: left out the blanks around cells of {count_of(blank, 'line')}"] if blank else []
    unused = [repr(name) for name in header if name not in _COLUMNS]
    if unused:
        notes.append(f"{path}: of its columns {', '.join(_COLUMNS)} are read, and not {', '.join(unused)}")
    return [LabelledFile(row.path, row.label, row.split, row.name) for row in rows], notes


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the cells of each other line that is not empty with its number."""
    try:
        reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        header = [name.strip() for name in next(reader, [])]
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", help="check that you may read it") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: this is no CSV file in UTF-8 ({error})", help="save it as CSV with commas, in UTF-8"
        ) from error
    for name in ("path", "label"):
        if name not in header:
            raise DataError(
                f"{path}:1: the manifest has no column {name!r}",
                help="its first line is path,label or path,label,split",
            )
    for name in _COLUMNS:
        if header.count(name) > 1:
            raise DataError(f"{path}:1: there are two columns {name!r}", help="keep the one that is meant")
    return header, lines


def _row(manifest: Path, line: int, cells: Mapping[str, str]) -> Row:
    place = f"{manifest}:{line}"
    label = cells["label"]
    split = next((split for split in SPLITS if split == cells.get("split", "train")), None)
    if is_missing(label):
        raise DataError(
            f"{place}: the cell {label!r} of the column 'label' is a missing value and no class",
            help="leave the cell empty where the class is unknown",
        )
    if not cells["path"]:
        raise DataError(f"{place}: the cell of the column 'path' is empty", help="name the image of this line")
    if split is None:
        raise DataError(f"{place}: there is no split {cells['split']!r}", help=f"the splits are {', '.join(SPLITS)}")
    name = os.path.normpath(cells["path"])
    path = manifest.parent / name
    try:
        require_regular(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{place}: there is no file {name!r}", help=f"paths start at {manifest.parent.absolute()}"
        ) from error
    except OSError as error:
        raise DataError(f"{place}: {name!r} cannot be used: {error.strerror}", help="name an image file") from error
    return Row(line, path, name, label, split)


def _refuse_repeat(manifest: Path, first: Row, row: Row) -> None:
    if first is not row:
        differs = "" if first.label == row.label else f", with the label {first.label!r} and not {row.label!r}"
        raise DataError(
            f"{manifest}:{row.line}: {row.name!r} is already in line {first.line}{differs}",
            help="list each image once",
        )
