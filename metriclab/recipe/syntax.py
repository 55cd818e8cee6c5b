"""What `tomllib` refuses, told as a problem with its place and its repair."""

from __future__ import annotations

import re

from metriclab.recipe.problems import Lines, Problem
from metriclab.recipe.scan import scan

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
    """The problem that a `TOMLDecodeError` reports.

    Args:
        error: its text, which ends with the position.
        lines: the document it is about.
    """
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
