"""Entries: what installed distributions say they bring, read without importing any of it."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, distributions

from metriclab.registry import api_version
from metriclab.registry.kinds import BUILTIN, GROUP_PREFIX, KINDS

NAME = re.compile(r"[a-z0-9-]+")
NO_PLUGINS = "METRICLAB_NO_PLUGINS"
"""The environment variable that switches plugins off; runs that this process starts inherit it."""

UNREADABLE = "?"
"""Kind and name of what stands for an entry_points.txt that cannot be read."""


@dataclass(frozen=True, slots=True)
class ComponentEntry:
    """A component that a distribution, a file or code brings, known without importing it.

    Attributes:
        kind, name: what a recipe says.
        target: where it is: `module:attribute`.
        package, version: its distribution's. A one-file plugin has its file's name and "file", a component that
            running code registered has its module's name and "code".
        api: the version of `metriclab.api` that its distribution says it is written for; None where it says none.
    """

    kind: str
    name: str
    target: str
    package: str
    version: str
    api: int | None = None

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'"

    @property
    def source(self) -> str:
        return f"{self.package} {self.version}"

    @property
    def module(self) -> str:
        return self.target.partition(":")[0].strip()

    @property
    def attribute(self) -> str:
        """The name in its module, without the extras that an entry point may ask for."""
        return self.target.partition(":")[2].partition("[")[0].strip()


def installed() -> tuple[ComponentEntry, ...]:
    """All entries of all distributions on the path, also those that `refusal` refuses.

    Without plugins, metriclab's own alone.
    """
    found = _installed(tuple(sys.path))
    return tuple(filter(is_builtin, found)) if plugins_are_off() else found


def plugins_are_off() -> bool:
    """Whether only built-in components can be named, by `--no-plugins` or the variable `NO_PLUGINS`."""
    return os.environ.get(NO_PLUGINS, "") not in ("", "0")


def switched_off() -> tuple[ComponentEntry, ...]:
    """The entries of distributions that would be there if plugins were not off."""
    return tuple(entry for entry in _installed(tuple(sys.path)) if plugins_are_off() and not is_builtin(entry))


def refusal(entry: ComponentEntry) -> str | None:
    """Why metadata alone shows that an entry cannot be a component, or None."""
    if entry.kind == UNREADABLE:
        return f"its entry points cannot be read: {entry.target}"
    if entry.kind not in KINDS:
        return f"there is no kind '{entry.kind}'"
    if NAME.fullmatch(entry.name) is None:
        return "names are made of a-z, 0-9 and - only"
    if not is_builtin(entry) and (entry.kind, entry.name) in _taken(installed()):
        return "a built-in component has that name, and built-in ones cannot be replaced"
    return None if is_builtin(entry) else api_version.mismatch(entry.api)


def is_builtin(entry: ComponentEntry) -> bool:
    return entry.package == BUILTIN


def normalized(package: str) -> str:
    """The form in which names of distributions are compared: `My_Plugin` and `my-plugin` are one."""
    return re.sub(r"[-_.]+", "-", package).lower()


@lru_cache(maxsize=8)
def _taken(entries: tuple[ComponentEntry, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((entry.kind, entry.name) for entry in entries if is_builtin(entry))


@lru_cache(maxsize=8)
def _installed(path: tuple[str, ...]) -> tuple[ComponentEntry, ...]:
    found: dict[str, list[ComponentEntry]] = {}
    for distribution in distributions(path=list(path)):
        entries = _entries_of(distribution)
        if entries:  # the first on the path is the one that Python imports
            found.setdefault(normalized(entries[0].package), entries)
    return tuple(entry for entries in found.values() for entry in entries)


def _entries_of(distribution: Distribution) -> list[ComponentEntry]:
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
        api = api_version.declared_version([point.name for point in points if point.group == api_version.GROUP])
    except Exception as error:
        return [ComponentEntry(UNREADABLE, UNREADABLE, str(error), package, version)]
    return [_entry(point, package, version, api) for point in points if point.group != api_version.GROUP]


def _entry(point: EntryPoint, package: str, version: str, api: int | None) -> ComponentEntry:
    return ComponentEntry(point.group.removeprefix(GROUP_PREFIX), point.name, point.value, package, version, api)
