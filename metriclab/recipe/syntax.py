"""What `tomllib` does not tell of a document: where its keys and values stand, and its mistakes with their repair."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass

from metriclab.recipe.problems import Lines, Problem

KeyPath = tuple[str | int, ...]
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

    path: KeyPath
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
        self.lengths: dict[KeyPath, int] = {}  # of arrays of tables, so far

    def document(self) -> None:
        table: KeyPath = ()
        while self.more():
            table = self.header() if self.take("[") else self.pair(table)

    def header(self) -> KeyPath:
        many = self.take("[")
        parts = self.key()
        path: KeyPath = ()
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

    def last(self, path: KeyPath) -> KeyPath:
        """The table that later text means by this path: of an array of tables, its last one."""
        return (*path, self.lengths[path] - 1) if path in self.lengths else path

    def pair(self, table: KeyPath) -> KeyPath:
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

    def value(self, path: KeyPath) -> None:
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


_ERROR = re.compile(r"(?P<message>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)

_REPEATED = ("Cannot overwrite", "Cannot declare", "Cannot mutate", "Cannot redefine", "Duplicate inline table key")

_TEXTS = (  # how tomllib's message begins, ours, and the repair
    ("Expected '='", "'=' is missing after this key", 'TOML writes key = value, for example name = "simclr"'),
    ("Illegal character '\\n'", "the text in quotes does not end on its line", "close the quotes"),
    ("Illegal character", "a control character cannot stand here", 'remove it, or write it as an escape: "\\u001b"'),
    ("Unterminated string", "the text in quotes does not end", "close the quotes"),
    ('Expected \'"""\'', "the text in triple quotes does not end", "close the quotes"),
    ("Expected \"'''\"", "the text in triple quotes does not end", "close the quotes"),
    ('Expected "\'"', "the text in quotes does not end", "close the quotes"),
    ("Unescaped '\\'", "'\\' starts an escape that TOML does not know", "put a path in single quotes: 'C:\\images'"),
    ("Unclosed array", "the list does not end before this", "a ']' or a ',' is missing"),
    ("Unclosed inline table", "the inline table does not end before this", "a '}' or a ',' is missing"),
    ("Expected ']' at", "']' is missing at the end of this table's name", "write [table] on a line of its own"),
    ("Expected ']]'", "']]' is missing at the end of this table's name", "write [[table]] on a line of its own"),
    ("Expected newline", "this line goes on after its value", "one key = value a line; text needs quotes"),
    ("Invalid initial character", "a key or table name is missing here", "write [table], or key = value"),
    ("Invalid statement", "this is no key and no [table]", "write [table], or key = value"),
)

_VALUES = (  # how what is no value begins, and the repair
    (r"[Tt]rue\b|TRUE\b", "TOML writes true"),
    (r"[Ff]alse\b|FALSE\b", "TOML writes false"),
    (r"(?i:none|null|nil)\b", "leave the key out for its default"),
    (r"[+-]?(?:\.\d|\d+\.)", "a number needs digits on both sides of its point: 0.5, 1.0"),
    (r"[A-Za-z_./~]", "put text in quotes"),
    (r"[\n#]|$", "a value must follow '='"),
    (r"", "a value is text in quotes, a number, true, false or a list"),
)


def syntax_problem(error: str, lines: Lines) -> Problem:
    """The problem that a `TOMLDecodeError` of this text, which ends with the position, reports of these lines."""
    match = _ERROR.fullmatch(error)
    assert match is not None, f"tomllib has changed its messages: {error}"
    offset = len(lines.text)
    if match["line"]:
        offset = lines.offsets[int(match["line"]) - 1] + int(match["column"]) - 1
    message = match["message"]
    if message.startswith(_REPEATED):
        return _repetition(lines, offset)
    place = lines.place(min(offset, len(lines.text.rstrip())))
    if message == "Invalid value":
        repairs = (help for start, help in _VALUES if re.compile(start).match(lines.text, offset))
        return place.problem("not a value in TOML", next(repairs))
    for start, text, help in _TEXTS:
        if message.startswith(start):
            return place.problem(text, help)
    return place.problem(f"not TOML: {message[:1].lower()}{message[1:]}")


def _repetition(lines: Lines, offset: int) -> Problem:
    """A key or table given twice: the text is sound up to there, so the scanner can tell where both stand."""
    *before, last = scan(lines.text[:offset])
    place = lines.place(last.key)
    name = ".".join(str(part) for part in last.path)
    first = next((found for found in before if found.path == last.path), None)
    if first is None:
        return place.problem(f"'{name}' adds to a value that is complete already", "write its keys in one place")
    line = lines.place(first.key).line
    return place.problem(f"'{name}' is given twice, first on line {line}", "keep one of them")
