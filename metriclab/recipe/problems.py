"""What is wrong with a recipe: one `Problem` a mistake, each pointing at its place."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metriclab.errors import RecipeError
from metriclab.registry.toml import show as show

_WIDTH = 100
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Place:
    """A spot in a recipe file or in a `--set` option.

    Attributes:
        path: the file, or the whole option as it was typed.
        line: from 1; None for a spot in an option, or for a file as a whole.
        column: of a character in `source`, from 1.
        source: the text of that line; None for a file as a whole.
    """

    path: str
    line: int | None = None
    column: int = 1
    source: str | None = None

    def problem(self, message: str, help: str | None = None) -> Problem:
        """What is wrong here, and the repair."""
        return Problem(message, self, help)


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a recipe; `str(problem)` is the text that users see."""

    message: str
    place: Place
    help: str | None = None

    def __str__(self) -> str:
        at = self.place
        place = _printable(at.path) if at.line is None else f"{_printable(at.path)}:{at.line}:{at.column}"
        message, help = _printable(self.message), "" if self.help is None else f"help: {_printable(self.help)}"
        if at.source is None:
            return f"{place}: {message}" + (help and f"\n  {help}")
        source, caret = _excerpt(at.source, at.column)
        number = "" if at.line is None else str(at.line)
        return f"{place}: {message}\n{number:>6} | {source}\n       | {caret} {help}".rstrip()


class Lines:
    """A text whose offsets are places: lines and columns from 1."""

    def __init__(self, text: str, path: str) -> None:
        self.text, self.path = text, path
        self.lines = text.split("\n")
        self.offsets = [0]
        for line in self.lines:
            self.offsets.append(self.offsets[-1] + len(line) + 1)

    def place(self, offset: int) -> Place:
        line = bisect.bisect_right(self.offsets, offset)
        return Place(self.path, line, offset - self.offsets[line - 1] + 1, self.lines[line - 1])


class RecipeProblems(RecipeError):
    """All that is wrong with a recipe. `str(error)` is the text of every problem, in the order of the file.

    A single problem's message and help are those of the error.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems
        texts = [str(problem) for problem in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            texts.append(f"and {len(problems) - _SHOWN} problems more")
        self.problems, self._text = list(problems), "\n".join(texts)
        if len(problems) == 1:
            super().__init__(problems[0].message, help=problems[0].help)
        else:
            super().__init__(self._text)

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return RecipeProblems, (self.problems,)


def in_order(problems: Sequence[Problem], path: str) -> list[Problem]:
    """By place: first the recipe itself, then the one it extends, then the options."""

    def position(problem: Problem) -> tuple[bool, bool, int, int]:
        at = problem.place
        return at.path != path, at.line is None, at.line or 0, at.column if at.line else 0

    return sorted(problems, key=position)


def _excerpt(source: str, column: int) -> tuple[str, str]:
    """The part of the line around the column, safe to print, and a caret that stands below that column."""
    start = max(0, column - _WIDTH * 2 // 3) if len(source) > _WIDTH else 0
    before = ("..." if start else "") + source[start : column - 1]
    after = source[column - 1 : start + _WIDTH]
    tail = "..." if len(source) > start + _WIDTH else ""
    caret = "".join("\t" if character == "\t" else " " for character in before) + "^"
    return _printable(before + after + tail), caret


def _printable(text: str) -> str:
    # A control sequence in a recipe must not reach the terminal.
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
