"""Files that others wrote: opened only where they are regular, text read by one function, names of files kept."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_PART = 2**20  # letters read at a time
_ZERO = "zero bytes, as in UTF-16 without its mark"
_MISSING = frozenset({"nan", "null", "<na>", "nat"})


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A file open for reading: a named pipe, which one could wait for without end, and a device are never opened.

    Raises:
        OSError: where it cannot be opened, or is no regular file; its `strerror` says so.
    """
    require_regular(path)
    return open(path, "rb", opener=without_waiting)  # should it have become a pipe by now


def without_waiting(name: str, flags: int) -> int:
    """An `opener` for `open`: of a named pipe, which it opens at once, nothing can be read."""
    return os.open(name, flags | os.O_NONBLOCK)


def require_regular(path: str | os.PathLike[str]) -> None:
    """Raises an OSError unless there is a regular file, or a link to one: for what opens a path by itself."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a zero byte in the name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path)) from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"It is {kind_of(mode)}, not a regular file", os.fspath(path))


def kind_of(mode: int) -> str:
    """What a file that is neither regular nor a folder is, by its `st_mode`."""
    return "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def read_text(path: Path) -> str:
    r"""The text of a file, in UTF-8 or with the byte order mark of another Unicode; its lines end in \n.

    Raises:
        OSError: where it cannot be read, or is no regular file.
        UnicodeDecodeError: where it is in another encoding, or no text.
    """
    with open_regular(path) as file:
        content = file.read()
    encoding = _encoding_of(content)
    text = io.IncrementalNewlineDecoder(None, translate=True).decode(content.decode(encoding), final=True)
    if "\0" in text:
        place = content.find(b"\0")
        raise UnicodeDecodeError(encoding, content, place, place + 1, _ZERO)
    return text


def _encoding_of(content: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")


def read_lines(path: Path) -> list[str]:
    """The lines of a file, as `read_text` reads it. Only line feeds and carriage returns end a line."""
    lines = read_text(path).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a file with their ends, one after the other, as `read_lines` has them; raises as `read_text`."""
    with open_regular(path) as file:
        encoding = _encoding_of(file.peek(len(codecs.BOM_UTF32_LE)))
    with open(path, encoding=encoding, opener=without_waiting) as text:
        while lines := text.readlines(_PART):
            if "\0" in (part := "".join(lines)):
                place = part.index("\0")
                raise UnicodeDecodeError(encoding, part.encode(), place, place + 1, _ZERO)
            yield from lines


def is_missing(cell: str) -> bool:
    """Whether a cell is what programs write for a missing value, such as `nan`: it names no class."""
    return cell.lower() in _MISSING or cell == "None"


def name_to_line(name: str) -> str:
    """A file name as one line of UTF-8: as it is, or as a JSON string where it would not come back from a line."""
    plain = name.isprintable() and name == name.strip() and not name.startswith('"')
    return name if plain else json.dumps(name)


def name_from_line(line: str) -> str:
    """The name that `name_to_line` made the line of."""
    if line.startswith('"'):
        try:
            name = json.loads(line)
        except ValueError:
            return line
        return name if isinstance(name, str) else line
    return line


def printable(name: str) -> str:
    """A file name for people: bytes that are no text, and what would break a line, are escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
