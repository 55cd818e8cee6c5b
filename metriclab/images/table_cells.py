"""What the cells of a table of images say: classes, splits, flags and boxes, or what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from metriclab.core.reading import is_missing
from metriclab.core.splits import SPLITS
from metriclab.images.table_problems import Problem, Problems

NOUN = {"label": "class", "group": "group", "category": "category"}
"""Columns of names, and what is named."""

CORNERS = "(x_1, y_1) is the upper left pixel of a box, and (x_2, y_2) the first one below and to the right of it"

_NO, _YES = ("", "0", "0.0", "false", "no"), ("1", "1.0", "true", "yes")
_FLAGS = dict.fromkeys(_NO, 0) | dict.fromkeys(_YES, 1)
_PIXELS = re.compile(r"(?P<whole>-?\d{1,9})(\.0*)?")
_NO_NUMBER = -(10**9)


class Column(NamedTuple):
    """The cells of a column without the blanks around them; equal ones are one text.

    Attributes:
        called: its name in the table.
        codes: of each line, the number of its text.
        texts: the different ones.
        blank: whether there were blanks around a cell.
    """

    called: str
    codes: Int[np.ndarray, "n"]
    texts: list[str]
    blank: Bool[np.ndarray, "n"]

    def __str__(self) -> str:
        return f"of the column {self.called!r}"

    def cell(self, line: int) -> str:
        return repr(self.texts[self.codes[line]])

    def values(self, of: Callable[[str], int]) -> Int64[np.ndarray, "n"]:
        """A number of each line, by its text."""
        return np.array([of(text) for text in self.texts], dtype=np.int64).take(self.codes)

    def where(self, holds: Callable[[str], bool]) -> Bool[np.ndarray, "n"]:
        """The lines of whose texts something holds."""
        return np.array([holds(text) for text in self.texts], dtype=np.bool_).take(self.codes)


def require_known(name: str, column: Column, problems: Problems) -> None:
    """Refuses cells of what programs write for a missing value; `name` is one of those of `NOUN`."""

    def say(line: int) -> Problem:
        told = f"the cell {column.cell(line)} {column} is a missing value and no {NOUN[name]}"
        return Problem(told, f"leave the cell empty where the {NOUN[name]} is unknown")

    problems.add(column.where(is_missing), say)


def splits(column: Column | None, problems: Problems, count: int) -> Int64[np.ndarray, "n"]:
    """The split of each line, by its number in `SPLITS`; train without such a column."""
    if column is None:
        return np.zeros(count, dtype=np.int64)
    number: dict[str, int] = {name: code for code, name in enumerate(SPLITS)}
    splits = column.values(lambda text: number.get(text, -1))
    help = f"the splits are {', '.join(SPLITS)}"
    problems.add(splits < 0, lambda line: Problem(f"there is no split {column.cell(line)}", help))
    return splits


def flags(column: Column | None, problems: Problems, count: int) -> Bool[np.ndarray, "n"]:
    """Whether the cell of each line says yes; none does without such a column."""
    if column is None:
        return np.zeros(count, dtype=np.bool_)
    flags = column.values(lambda text: _FLAGS.get(text.lower(), -1))
    help = "write true or false, 1 or 0, or leave it empty"
    problems.add(
        flags < 0, lambda line: Problem(f"the cell {column.cell(line)} {column} is neither true nor false", help)
    )
    return flags > 0


def boxes(columns: Sequence[Column], problems: Problems) -> Int64[np.ndarray, "n 4"] | None:
    """The box of each line, of the columns x_1, y_1, x_2 and y_2; None where all lines leave all of them empty."""
    empty = np.stack([column.where(lambda text: not text) for column in columns], axis=1)
    if empty.all():
        return None
    whole = Problem("this line has no box, and others have one", f"give it that of the whole image; {CORNERS}")
    problems.add(np.logical_and.reduce(empty, axis=1), lambda _: whole)
    boxes = np.stack([column.values(_pixels) for column in columns], axis=1)
    for column, values, gaps in zip(columns, boxes.T, empty.T, strict=True):
        problems.add(gaps, partial(_say_gap, column))
        problems.add(values == _NO_NUMBER, partial(_say_no_number, column))
        problems.add(values < 0, partial(_say_outside, column))
    for axis in (0, 1):
        problems.add(
            np.less_equal(boxes[:, axis + 2], boxes[:, axis]), partial(_say_empty, columns[axis], columns[axis + 2])
        )
    return boxes


def _pixels(text: str) -> int:
    found = _PIXELS.fullmatch(text)
    return _NO_NUMBER if found is None else int(found["whole"])


def _say_gap(column: Column, line: int) -> Problem:
    return Problem(f"the cell {column} is empty, and others of its box are not", CORNERS)


def _say_no_number(column: Column, line: int) -> Problem:
    return Problem(f"the cell {column.cell(line)} {column} is no whole number of pixels", f"round it; {CORNERS}")


def _say_outside(column: Column, line: int) -> Problem:
    told = f"the cell {column.cell(line)} {column} is below 0, outside of the image"
    return Problem(told, "cut the box off at the border of its image")


def _say_empty(low: Column, high: Column, line: int) -> Problem:
    told = f"the box is empty: the cell {high.cell(line)} {high} is not above the cell {low.cell(line)} {low}"
    return Problem(told, CORNERS)
