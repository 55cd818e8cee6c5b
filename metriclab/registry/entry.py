"""Entries: what installed distributions say they bring, read without importing any of it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, distributions

from metriclab.registry.kinds import BUILTIN, GROUP_PREFIX, KINDS

NAME = re.compile(r"[a-z0-9-]+")
UNREADABLE = "?"
"""Kind and name of what stands for an entry_points.txt that cannot be read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A component that a distribution, a file or code brings, known without importing it.

    Attributes:
        kind, name: what a recipe says.
        target: where it is: `module:attribute`.
        package, version: its distribution's. A one-file plugin has its file's name and "file", a component that
            running code registered has its module's name and "code".
    """

    kind: str
    name: str
    target: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'"

    @property
    def source(self) -> str:
        return f"{self.package} {self.version}"

    @property
    def module(self) -> str:
        return self.target.partition(":")[0].strip()


def installed() -> tuple[Entry, ...]:
    """All entries of all distributions on the path, also those that `refusal` refuses."""
    return _installed(tuple(sys.path))


def refusal(entry: Entry) -> str | None:
    """Why metadata alone shows that an entry cannot be a component, or None."""
    if entry.kind == UNREADABLE:
        return f"its entry points cannot be read: {entry.target}"
    if entry.kind not in KINDS:
        return f"there is no kind '{entry.kind}'"
    if NAME.fullmatch(entry.name) is None:
        return "names are made of a-z, 0-9 and - only"
    if not is_builtin(entry) and (entry.kind, entry.name) in _taken(installed()):
        return "a built-in component has that name, and built-in ones cannot be replaced"
    return None


def is_builtin(entry: Entry) -> bool:
    return entry.package == BUILTIN


def normalized(package: str) -> str:
    """The form in which names of distributions are compared: `My_Plugin` and `my-plugin` are one."""
    return re.sub(r"[-_.]+", "-", package).lower()


@lru_cache(maxsize=8)
def _taken(entries: tuple[Entry, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((entry.kind, entry.name) for entry in entries if is_builtin(entry))


@lru_cache(maxsize=8)
def _installed(path: tuple[str, ...]) -> tuple[Entry, ...]:
    found: dict[str, list[Entry]] = {}
    for distribution in distributions(path=list(path)):
        entries = _entries_of(distribution)
        if entries:  # the first on the path is the one that Python imports
            found.setdefault(normalized(entries[0].package), entries)
    return tuple(entry for entries in found.values() for entry in entries)


def _entries_of(distribution: Distribution) -> list[Entry]:
    # Others' distributions may be damaged; that is no business of ours as long as they bring no component.
    try:
        text = distribution.read_text("entry_points.txt") or ""
        if f"[{GROUP_PREFIX}" not in text:
            return []
        package, version = str(distribution.name), str(distribution.version)
    except Exception:
        return []
    try:
        points = [point for point in distribution.entry_points if point.group.startswith(GROUP_PREFIX)]
    except Exception as error:
        return [Entry(UNREADABLE, UNREADABLE, str(error), package, version)]
    return [_entry(point, package, version) for point in points]


def _entry(point: EntryPoint, package: str, version: str) -> Entry:
    return Entry(point.group.removeprefix(GROUP_PREFIX), point.name, point.value, package, version)
