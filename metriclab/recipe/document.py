"""A recipe's text as plain values, each of which knows where it was written."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from metriclab.recipe.problems import Lines, Place, Problem, RecipeProblems, show
from metriclab.recipe.renamed import is_stored, upgrade
from metriclab.recipe.syntax import DEPTH, KeyPath, scan, syntax_problem
from metriclab.registry.params import ParameterProblem, suggest

LIMIT = 1_000_000
"""Bytes of a recipe: a larger file is no recipe and is not read."""

DEEP = ("tables or lists are nested more than 32 deep", "recipes are flat: a table holds the keys of one component")

# A key of so many parts that tomllib, which takes time in the square of them, must not see it.
# What a message may name of a recipe: `table.key`, or `key = ...`.
_NAMED = re.compile(r"(?<![\w./'\"-])(?P<way>[a-z_]\w*(?:\.[a-z_]\w*)*)(?P<set> = )?")
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){200}""")


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values and their places.

    Attributes:
        values: what the tables hold: text, numbers, booleans, lists and tables, nothing else.
        keys: where each key stands.
        starts: where each value starts.
        top: what stands for the whole document.
    """

    values: dict[str, object]
    keys: dict[KeyPath, Place]
    starts: dict[KeyPath, Place]
    top: Place

    def key(self, *path: str | int) -> Place:
        """Where this key stands, or else the nearest table around it."""
        return self._nearest(self.keys, path)

    def value(self, *path: str | int) -> Place:
        """Where this value starts, or else the nearest table around it."""
        return self._nearest(self.starts, path)

    def problem(self, found: ParameterProblem, *table: str | int) -> Problem:
        """What is wrong with a parameter of the table at this path, at the parameter's place."""
        place = (self.key if found.unknown else self.value)(*table, *found.path)
        return place.problem(found.message, found.help)

    def forget(self, *path: str | int) -> None:
        """Drops the places of a table and of all that is in it, before another takes its place."""
        for places in (self.keys, self.starts):
            for old in [known for known in places if known[: len(path)] == path]:
                del places[old]

    def named(self, text: str, table: str = "", where: KeyPath = ()) -> Place | None:
        """Where the key stands that a text names first, as `table.key`, or of the table at `where` as `key = ...`.

        Args:
            text: of an error.
            table: what the text calls the table at `where`: to itself an encoder is in `encoder`, also as the base or
                the teacher of another component.
            where: the path of a table.
        """
        for found in _NAMED.finditer(text):
            *way, key = found["way"].split(".")
            if where and (way[:1] == [table] or (not way and found["set"])):
                inside = where
            elif way and way[0] in self.values:
                inside = (way[0],)
            else:
                continue
            stated = [path for path in self.starts if path[: len(inside)] == inside and path[-1] == key]
            if stated or way:
                return self.starts[min(stated, key=len)] if stated else self.value(*inside)
        return None

    def _nearest(self, places: Mapping[KeyPath, Place], path: KeyPath) -> Place:
        while path:
            if path in places:
                return places[path]
            path = path[:-1]
        return self.top


def read_document(path: Path) -> Document:
    """The document in a file, with the one it extends, table by table.

    The recipe that a run has stored is upgraded to today's keys.

    Raises:
        RecipeProblems: where a file cannot be read or is not TOML, or where `extends` does not name a whole recipe.
    """
    document = read_tables(path)
    if is_stored(path):
        return replace(document, values=upgrade(document.values))
    if "extends" not in document.values:
        return document
    base = _read_base(path, document)
    keys, starts = dict(document.keys), dict(document.starts)
    for inherited, own in ((base.keys, keys), (base.starts, starts)):
        own.update({where: place for where, place in inherited.items() if where[0] not in document.values})
    values = {**base.values, **document.values}
    del values["extends"]
    return Document(values, keys, starts, document.top)


def read_tables(path: Path, place: Place | None = None, name: str | None = None) -> Document:
    """The document in a file by itself, whatever it extends.

    Args:
        path: a regular file of UTF-8 text, of at most `LIMIT` bytes.
        place: where to point if it cannot be read: the file itself, if not given.
        name: how another recipe, at that place, calls the file.

    Raises:
        RecipeProblems: where the file cannot be read or is not TOML, or holds nothing or what no recipe may hold.
    """
    return parse(_read_text(path, place or Place(str(path)), name), str(path))


def parse(text: str, path: str) -> Document:
    """The document in a text, which messages call `path`.

    Raises:
        RecipeProblems: where the text is not TOML, or holds nothing or what no recipe may hold.
    """
    text = text.replace("\r\n", "\n")
    lines = Lines(text, path)
    if long_key := _LONG_KEY.search(text):
        raise RecipeProblems([lines.place(long_key.start()).problem(*DEEP)])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeProblems([syntax_problem(str(error), lines)]) from None
    except RecursionError:
        raise RecipeProblems([Place(path).problem(*DEEP)]) from None
    except ValueError:  # Python refuses to convert very long decimal numbers
        raise RecipeProblems([Place(path).problem("a number in it is too long")]) from None
    if not values:
        help = "a recipe needs the tables [data], [encoder] and [method], and steps or epochs in [train]"
        raise RecipeProblems([Place(path).problem("the recipe is empty", help)])
    if too_deep(values):
        raise RecipeProblems([Place(path).problem(*DEEP)])
    document = Document(values, *_places(text, lines), lines.place(0))
    problems = [document.value(*where).problem(*what) for where, what in foreign_values(values)]
    if problems:
        raise RecipeProblems(problems)
    return document


def _places(text: str, lines: Lines) -> tuple[dict[KeyPath, Place], dict[KeyPath, Place]]:
    """Where the keys and the values of a sound document stand."""
    keys: dict[KeyPath, Place] = {}
    starts: dict[KeyPath, Place] = {}
    stated: set[KeyPath] = set()
    for found in scan(text):
        # A table is where its own header is, or else where it is first met on the way to something in it.
        if found.path not in keys or (found.stated and found.path not in stated):
            keys[found.path], starts[found.path] = lines.place(found.key), lines.place(found.value)
        if found.stated:
            stated.add(found.path)
    return keys, starts


def foreign_values(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, tuple[str, str]]]:
    """What TOML can write and a recipe cannot hold: each place, with the message and the repair."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from foreign_values(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from foreign_values(part, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, (f"{show(value)} is no setting", "give a finite number, or leave the key out for its default")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield path, ("this number does not fit 64 bits", "give a number between -2^63 and 2^63 - 1")
    elif not isinstance(value, str | int | float):
        yield path, ("a recipe holds no dates and times", f'put it in quotes if it is a name: "{value}"')


def too_deep(value: object, left: int = DEPTH) -> bool:
    """Whether tables and lists are nested deeper than any recipe needs, which is refused before anything walks them."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left == 0 or any(too_deep(part, left - 1) for part in parts)


def _read_base(path: Path, document: Document) -> Document:
    name, place = document.values["extends"], document.value("extends")
    if not isinstance(name, str) or not name:
        help = 'name one recipe, relative to this one: extends = "base.toml"'
        raise RecipeProblems([place.problem(f"'extends' must be the path of a recipe, got {show(name)}", help)])
    base_path = path.parent / name
    if _same(base_path, path):
        raise RecipeProblems([place.problem("the recipe extends itself", "name another recipe, or remove the line")])
    base = read_tables(base_path, place, name)
    if "extends" in base.values:
        help = f"extend {show(base.values['extends'])} instead, or copy its tables: extending goes one level deep"
        raise RecipeProblems([place.problem(f"{name!r} extends another recipe in its turn", help)])
    return base


def _read_text(path: Path, place: Place, name: str | None) -> str:
    """The text of a recipe file; what keeps it from being read is told at `place`, as that of `name` if it has one."""
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


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself, a zero byte: reading it says what is wrong
        return False
