"""The text of a recipe file, and its offsets as places."""

from __future__ import annotations

import bisect
from pathlib import Path

from metriclab.recipe.problems import Place, RecipeProblems
from metriclab.registry.problems import suggest

LIMIT = 1_000_000
"""Bytes of a recipe: a larger file is no recipe and is not read."""


def read_text(path: Path, place: Place, name: str | None = None) -> str:
    """The text of a recipe file.

    Args:
        path: the file.
        place: where to point if it cannot be read.
        name: how another recipe, at that place, calls the file.

    Raises:
        RecipeProblems: for anything but a regular file of UTF-8 text of at most `LIMIT` bytes.
    """
    subject = "" if name is None else f"cannot extend {name!r}: "

    def refuse(message: str, help: str | None = None) -> RecipeProblems:
        return RecipeProblems([place.problem(subject + message, help)])

    try:
        if path.is_dir():
            raise refuse("this is a folder", "name the recipe file in it")
        if not path.exists():
            raise refuse("no such file", _neighbour(path, path if name is None else Path(name)))
        if not path.is_file():
            raise refuse("this is not a regular file")
        size = path.stat().st_size
        if size > LIMIT:
            raise refuse(f"the file has {size:,} bytes; a recipe has at most {LIMIT:,}", "is it a recipe?")
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise refuse(f"line {line} is not UTF-8 (byte 0x{byte:02x})", "save the file as UTF-8") from None


def _neighbour(path: Path, typed: Path) -> str | None:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    return suggest(str(typed), (str(typed.with_name(other.name)) for other in path.parent.glob("*.toml")))


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
