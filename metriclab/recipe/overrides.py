"""`--set table.key=value`: changes to a document, which go through the same checks as the document."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metriclab.recipe.document import DEEP, Document, foreign_values, too_deep
from metriclab.recipe.problems import Place, Problem, show
from metriclab.recipe.syntax import KeyPath

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,9}")
_INDEX = re.compile(r"[0-9]{1,6}")
_FORM = "write --set table.key=value, for example --set loss.temperature=0.2"


@dataclass(frozen=True, slots=True)
class _Override:
    path: KeyPath
    value: Any
    key: Place
    start: Place

    @property
    def table_length(self) -> int:
        """How many parts of the path name a component's table: `data` or `evaluate.0`."""
        return 2 if len(self.path) > 1 and isinstance(self.path[1], int) else 1

    @property
    def renames(self) -> bool:
        """Whether it names the component of its table."""
        return self.path[self.table_length :] == ("name",)


def override(document: Document, options: Sequence[str], defaults: Mapping[str, Any]) -> list[Problem]:
    """Puts the values of options in place of a document's own, and returns what is wrong with those it had to leave.

    A new `name` starts its table anew, and is applied before the other options whatever their order.

    Args:
        document: is changed.
        options: each `table.key=value`, the value in TOML; what is no TOML is text.
        defaults: the tables that stand in for those that the document leaves out; they are changed too.
    """
    parsed = [_parse(option) for option in options]
    problems = [problem for problem in parsed if isinstance(problem, Problem)]
    changes: dict[KeyPath, _Override] = {}
    for change in parsed:
        if isinstance(change, _Override):
            if change.path in changes:
                name = ".".join(map(str, change.path))
                problems.append(change.key.problem(f"'{name}' is set twice on the command line", "keep one of them"))
            changes[change.path] = change
    for change in sorted(changes.values(), key=lambda change: not change.renames):
        table = str(change.path[0])
        if table in defaults:
            document.values.setdefault(table, defaults[table])
        problem = _apply(document, change)
        if problem is not None:
            problems.append(problem)
    return problems


def _parse(option: str) -> _Override | Problem:
    typed = f"--set {option}"
    left, equals, right = option.partition("=")
    key, text = left.strip(), right.strip()
    if any("\ud800" <= character <= "\udfff" for character in option):  # how Python passes on bytes that are no text
        return Place(typed, None, len("--set ") + 1, typed).problem("this is not UTF-8", "rename the file or folder")
    if not equals or not _KEY.fullmatch(key):
        return Place(typed, None, len("--set ") + 1, typed).problem("this is not table.key=value", _FORM)
    at_key = Place(typed, None, len("--set ") + left.rindex(key.rpartition(".")[2]) + 1, typed)
    at_value = Place(typed, None, len(typed) - len(right.lstrip()) + 1, typed)
    if not text:
        return at_value.problem(f"'{key}' is given no value", 'an empty text is ""')
    value = _value(text)
    if value is None:
        return at_value.problem("not a value in TOML", "put text with brackets or quotes in quotes of its own")
    if too_deep(value):
        return at_value.problem(*DEEP)
    for _, (message, help) in foreign_values(value):
        return at_value.problem(message, help)
    path = tuple(int(part) if _INDEX.fullmatch(part) else part for part in key.split("."))
    return _Override(path, value, at_key, at_value)


def _value(text: str) -> Any:
    """The value of an option; None where it begins like TOML but is not."""
    try:
        values = tomllib.loads(f"value = {text}")
        value = values["value"] if len(values) == 1 else None
    except (ValueError, RecursionError):
        value = None if text[0] in "\"'[{" else text
    is_date = isinstance(value, datetime.date | datetime.time)
    return text if is_date else value  # a folder may be called 2024-01-01


def _apply(document: Document, change: _Override) -> Problem | None:
    """Puts the value in its place, and makes what finds it later point at the option."""
    if change.path == ("extends",):
        return change.key.problem("'extends' belongs in the recipe file", "name the other recipe instead")
    *way, last = change.path
    target: Any = document.values
    for depth, part in enumerate(way):
        step = _step(target, part, change, way[:depth])
        if isinstance(step, Problem):
            return step
        target = step
    name = ".".join(map(str, way))
    if isinstance(target, list):
        return change.key.problem(f"'{name}' is a list", _list_help(way, last))
    if not isinstance(target, dict):
        return change.key.problem(f"'{name}' is {show(target)}, not a table", f"write --set {name}=...")
    table = tuple(way)
    if change.renames:
        target.clear()
        document.forget(*table)
        document.keys[table] = document.starts[table] = change.key
    document.forget(*change.path)
    target[str(last)] = change.value
    document.keys[change.path], document.starts[change.path] = change.key, change.start
    for length in range(1, len(change.path)):
        around = change.path[:length]
        document.keys.setdefault(around, change.key)
        if length > change.table_length:  # what is wrong with a parameter is now the option's doing
            document.starts[around] = change.start
    return None


def _step(target: Any, part: str | int, change: _Override, way: Sequence[str | int]) -> Any:
    """What the next part of an option's key stands for, made if it is not there yet; or why there is none."""
    name = ".".join(map(str, way))
    if isinstance(target, list):
        if not isinstance(part, int):
            return change.key.problem(f"'{name}' is a list", _list_help(way, part))
        if part > len(target):
            return change.key.problem(f"there is no {name}.{part}", f"the next one is {name}.{len(target)}")
        if part == len(target):
            target.append({})
        return target[part]
    if not isinstance(target, dict):
        return change.key.problem(f"'{name}' is {show(target)}, not a table", f"write --set {name}=...")
    return target.setdefault(str(part), {})


def _list_help(way: Sequence[str | int], part: str | int) -> str:
    return f"count its entries from 0: --set {'.'.join(map(str, way))}.0.{part}=..."
