"""Where the keys and values of a TOML document stand: `tomllib` gives what they are, but not where.

The scanner reads text that `tomllib` has accepted, at least up to its end, so it checks nothing.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Keys from the root of the document, and indices into arrays: ("evaluate", 0, "k")."""

DEPTH = 32
"""Keys of more parts are cut: a hostile one would take memory that grows with the square of its length."""

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*+"|'[^'\n]*+'""")
_STRING = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|"(?:\\.|[^"\\\n])*+"|'''  # an ending may have two quotes of the text before it
    r"""'{3}.*?'{3,5}|'[^'\n]*+'""",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\[\]{}#\n\"']*")


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """One key or array element as it stands in the text.

    Attributes:
        path: from the root.
        key: offset of the key's text; of the value for an array element.
        value: offset of the value; of the key for a table header.
        stated: False for the tables that a dotted key or header names on its way.
    """

    path: Path
    key: int
    value: int
    stated: bool


def scan(text: str) -> list[KeyLocation]:
    """Every key and array element of a document, in the order of the text. Line ends must be plain newlines."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: list[KeyLocation] = []
        self.lengths: dict[Path, int] = {}  # of arrays of tables, so far

    def document(self) -> None:
        table: Path = ()
        while self.more():
            table = self.header() if self.take("[") else self.pair(table)

    def header(self) -> Path:
        many = self.take("[")
        parts = self.key()
        path: Path = ()
        for part, offset in parts[:-1]:
            path = self.last((*path, part))
            self.found.append(KeyLocation(path, offset, offset, stated=False))
        part, offset = parts[-1]
        path = (*path, part)
        self.found.append(KeyLocation(path, offset, offset, stated=True))
        if many:
            self.lengths[path] = self.lengths.get(path, 0) + 1
            path = self.last(path)
            self.found.append(KeyLocation(path, offset, offset, stated=True))
        self.take("]")
        self.take("]")
        return path

    def last(self, path: Path) -> Path:
        """The table that later text means by this path: of an array of tables, its last one."""
        return (*path, self.lengths[path] - 1) if path in self.lengths else path

    def pair(self, table: Path) -> Path:
        parts = self.key()
        self.take("=")
        self.skip(_SPACE)
        path = table
        for index, (part, offset) in enumerate(parts, 1):
            path = (*path, part)
            self.found.append(KeyLocation(path, offset, self.at, stated=index == len(parts)))
        self.value(path)
        return table

    def key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key, each with its offset."""
        parts = []
        while True:
            self.skip(_SPACE)
            match = _KEY.match(self.text, self.at)
            assert match is not None, "tomllib has accepted this text"
            name = match[0]
            parts.append((tomllib.loads(f"key = {name}")["key"] if name[0] in "\"'" else name, self.at))
            self.at = match.end()
            self.skip(_SPACE)
            if not self.take("."):
                return parts[:DEPTH]

    def value(self, path: Path) -> None:
        if self.take("["):
            index = 0
            while self.more() and not self.take("]"):
                self.found.append(KeyLocation((*path, index), self.at, self.at, stated=True))
                self.value((*path, index))
                index += 1
                self.skip(_BLANK)
                self.take(",")
        elif self.take("{"):
            while self.more() and not self.take("}"):
                self.pair(path)
                self.skip(_BLANK)
                self.take(",")
        else:
            self.skip(_STRING if self.text[self.at : self.at + 1] in ('"', "'") else _SCALAR)

    def more(self) -> bool:
        self.skip(_BLANK)
        return self.at < len(self.text)

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        assert match is not None, "tomllib has accepted this text"
        self.at = match.end()

    def take(self, character: str) -> bool:
        taken = self.text.startswith(character, self.at)
        self.at += taken
        return taken
