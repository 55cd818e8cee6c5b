"""Tables in files: their cells by column, as text, equal ones kept once."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from metriclab.core.parquet import pyarrow_for
from metriclab.core.reading import open_regular, text_lines
from metriclab.errors import DataError
from metriclab.images.columns import Numbers, Places
from metriclab.images.table_problems import Problem, refuse

_PART = 2**9
"""Lines read at a time: few, so that the garbage collector does not look at many again and again."""

_ROWS = 2**16
"""Rows of parquet read at a time."""

_VECTORS = ("embedding", "embeddings")
_PLAIN = 'write one object a line, such as {"path": "a.png", "label": "cat"}'


class Cells:
    """The cells of a column from the top on: for each line the number of a text.

    Args:
        alike: whether equal cells are one text. Where hardly any are, that would cost more than it spares.
    """

    def __init__(self, *, alike: bool) -> None:
        self._codes, self._numbers, self._texts = array("i"), Numbers() if alike else None, list[str]()

    def add(self, cells: Iterable[str]) -> None:
        if self._numbers is None:
            self._texts.extend(cells)
        else:
            self._codes.extend(map(self._numbers.__getitem__, cells))

    def numbered(self) -> tuple[Int[np.ndarray, "n"], list[str]]:
        """The number of each line's text, and the texts."""
        if self._numbers is None:
            return np.arange(len(self._texts)), self._texts
        return np.array(self._codes), list(self._numbers)


class Table:
    """The columns of a table that are wanted.

    Args:
        path: its file.
        wanted: names of the columns to keep.
        paths: the one whose cells are hardly ever equal.
        before: what stands before the number of a line where it is named.

    Attributes:
        header: names of all columns.
        cells: of those that are wanted and there.
        uneven: the number of each line that does not have one cell for each column.
    """

    def __init__(self, path: Path, wanted: Container[str], paths: str, before: str = ":") -> None:
        self._paths = paths
        self.path, self.header, self.cells, self.uneven = path, list[str](), dict[str, Cells](), list[int]()
        self._wanted, self._before, self._numbers = wanted, before, array("q")

    def begin(self, header: Iterable[str]) -> None:
        """Gives the names of columns; further ones are empty above.

        Raises:
            DataError: where two that are wanted have the same.
        """
        for name in header:
            self.header.append(name)
            if name in self.cells:
                raise DataError(f"{self.head}: there are two columns {name!r}", help="keep the one that is meant")
            if name in self._wanted:
                self.cells[name] = Cells(alike=name != self._paths)
                self.cells[name].add([""] * len(self._numbers))

    def add(self, numbers: Iterable[int], columns: Mapping[str, Iterable[str]]) -> None:
        """Adds lines with these numbers, and a cell for each in each column that is kept."""
        self._numbers.extend(numbers)
        for name, cells in self.cells.items():
            cells.add(columns[name])

    @property
    def head(self) -> str:
        """Where the names of the columns are."""
        return f"{self.path}:1" if self._before == ":" else str(self.path)

    @property
    def places(self) -> Places:
        """Where each line is."""
        lines = np.frombuffer(self._numbers, dtype=np.int64) if self._numbers else np.empty(0, dtype=np.int64)
        return Places(self.path, self._before, lines)


def is_table(path: Path, wanted: str = "") -> bool:
    """Whether the ending of a file is that of a table; of parquet, whether its columns are those of one, too.

    It has none of embeddings then. Where something is wanted of it, such as "labels", it has a column `path`, and none
    that is called as an array of what is wanted.
    """
    ending = path.suffix.lower()
    if ending != ".parquet" or not path.is_file():
        return ending in FORMATS
    names = _columns(path)
    if names is None:  # whoever reads it tells what is wrong with it
        return True
    return names.isdisjoint(_VECTORS) and (not wanted or ("path" in names and wanted not in names))


def read_table(path: Path, wanted: Container[str], paths: str) -> Table:
    """The columns of these names, as far as they are there; `paths` is the one whose cells are hardly ever equal.

    Raises:
        DataError: where it cannot be read.
        RecipeError: where `.parquet` lacks its extra.
    """
    read, is_called = FORMATS[path.suffix.lower()]
    try:
        return read(path, wanted, paths)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", help="check that you may read it") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: this is no {is_called} file in UTF-8 ({error})", help=f"save it as {is_called}, in UTF-8"
        ) from error


def _separated(delimiter: str) -> Read:
    def read(path: Path, wanted: Container[str], paths: str) -> Table:
        table = Table(path, wanted, paths)
        reader = csv.reader(text_lines(path), strict=True, delimiter=delimiter)
        table.begin(name.strip() for name in next(reader, []))
        width = len(table.header)
        for part in _parts((reader.line_num, cells) for cells in reader if cells):
            table.uneven += [number for number, cells in part if len(cells) != width]
            even = [line for line in part if len(line[1]) == width]
            columns = zip(*(cells for _, cells in even), strict=True) if even else [()] * width
            table.add((number for number, _ in even), dict(zip(table.header, columns, strict=True)))
        return table

    return read


def _json_lines(path: Path, wanted: Container[str], paths: str) -> Table:
    table, problems = Table(path, wanted, paths), list[Problem]()
    for part in _parts(enumerate(text_lines(path), start=1)):
        objects = dict[int, dict[str, Any]]()
        for number, line in part:
            value = _object(line)
            if value is None:
                problems.append(Problem(f"{path}:{number}: this line is no JSON object of plain values", _PLAIN))
            elif value:
                objects[number] = value
        known = set(table.header)
        table.begin(dict.fromkeys(name for value in objects.values() for name in value if name not in known))
        columns = {name: [_cell(value.get(name)) for value in objects.values()] for name in table.cells}
        table.add(objects, columns)
    refuse(path, problems)
    return table


def _object(line: str) -> dict[str, Any] | None:
    """The object of a line, empty for an empty line; None where it is none of plain values."""
    try:
        value = json.loads(line) if line.strip() else {}
        if "\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text: a ValueError
    except ValueError:
        return None
    plain = isinstance(value, dict) and not any(isinstance(cell, dict | list) for cell in value.values())
    return value if plain else None


def _parquet(path: Path, wanted: Container[str], paths: str) -> Table:
    parquet = pyarrow_for("reading")
    table, start = Table(path, wanted, paths, ": row "), 0
    try:
        # By the file and not by its path, of which folders called `seed=1` would become columns.
        with open_regular(path) as file:
            stored = parquet.ParquetFile(file)
            table.begin(stored.schema_arrow.names)
            for name in table.cells:
                _require_plain(path, name, stored.schema_arrow.field(name).type)
            for part in stored.iter_batches(_ROWS, columns=list(table.cells)):
                columns = {name: map(_cell, part.column(name).to_pylist()) for name in table.cells}
                table.add(range(start, start + part.num_rows), columns)
                start += part.num_rows
    except DataError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(path, error) from error
    except Exception as error:  # damage shows as nearly every exception there is
        raise _damaged(path, error) from error
    return table


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: this is no parquet file ({error})", help="is it whole, and is its ending right?")


def _require_plain(path: Path, name: str, kind: Any) -> None:
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    text = types.is_string(inner) or types.is_large_string(inner)
    if not (
        text or types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner) or types.is_null(inner)
    ):
        raise DataError(
            f"{path}: the column {name!r} is {kind}, and no text, numbers or true and false",
            help="store its values as text, or name another column in data.columns",
        )


def _columns(path: Path) -> set[str] | None:
    parquet = pyarrow_for("reading")
    try:
        with open_regular(path) as file:
            return set(parquet.ParquetFile(file).schema_arrow.names)
    except Exception:  # damage shows as nearly every exception there is
        return None


def _parts(lines: Iterable[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    lines = iter(lines)
    while part := list(islice(lines, _PART)):
        yield part


def _cell(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


Read = Callable[[Path, Container[str], str], Table]
FORMATS: Mapping[str, tuple[Read, str]] = {
    ".csv": (_separated(","), "CSV"),
    ".tsv": (_separated("\t"), "TSV"),
    ".jsonl": (_json_lines, "JSON lines"),
    ".parquet": (_parquet, "parquet"),
}
"""How tables of each ending are read, and what they are called."""
