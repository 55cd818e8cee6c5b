"""What is wrong in a table: of each line the first that is found, all lines at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from metriclab.errors import DataError
from metriclab.images.columns import Places

_SHOWN = 20
"""Problems told at once."""


class Problem(NamedTuple):
    """What is wrong in a line, and how it is put right."""

    text: str
    help: str


Say = Callable[[int], Problem]
"""What is wrong with an item, by its number."""


class Problems:
    """Problems of lines, as they are found.

    Args:
        places: of the lines.
        uneven: numbers of further lines, which do not have one cell for each column.
    """

    def __init__(self, places: Places, uneven: Sequence[int] = ()) -> None:
        self._places, self._uneven = places, uneven
        self._says, self._which = list[Say](), np.full(len(places), -1)

    def __bool__(self) -> bool:
        return bool(self._uneven) or bool((self._which >= 0).any())

    def add(self, wrong: Bool[np.ndarray, "n"], say: Say) -> None:
        """Lines that are wrong; of those that were so before, it is not said."""
        self._which[wrong & (self._which < 0)] = len(self._says)
        self._says.append(say)

    def refuse(self) -> None:
        """Raises a DataError of the first of them, if there are any, and how many more."""
        found = np.flatnonzero(self._which >= 0)
        numbers = [(number, -1) for number in self._uneven[:_SHOWN]]
        numbers += [(int(self._places.lines[line]), int(line)) for line in found[:_SHOWN]]
        problems = []
        for number, line in sorted(numbers)[:_SHOWN]:
            problem = _UNEVEN if line < 0 else self._says[self._which[line]](line)
            problems.append(problem._replace(text=f"{self._places.of(number)}: {problem.text}"))
        refuse(self._places.path, problems, len(found) + len(self._uneven))


_UNEVEN = Problem("this line does not have one cell for each column", "quote cells with commas")


def refuse(path: Path, problems: Sequence[Problem], count: int | None = None) -> None:
    """Raises a DataError of the problems of a file, the first of so many; nothing happens where there are none."""
    count = len(problems) if count is None else count
    if count == 1:
        raise DataError(problems[0].text, help=problems[0].help)
    if problems:
        shown = problems[:_SHOWN]
        more = [f"and {count - len(shown):,} more"] if count > len(shown) else []
        told = "\n  ".join([problem.text for problem in shown] + more)
        repairs = "; ".join(dict.fromkeys(problem.help for problem in shown))
        raise DataError(f"{path}: {count:,} lines cannot be used:\n  {told}", help=repairs)
