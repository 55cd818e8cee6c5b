"""Every component that can be named: how it is found, loaded and built.

Names come from the metadata of installed distributions, so listing imports nothing; only what is named is loaded.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from metriclab.errors import PluginError, RecipeError
from metriclab.registry.api_version import API_VERSION, import_help
from metriclab.registry.definition import Definition, define
from metriclab.registry.docstring import parse_docstring, source_docstring
from metriclab.registry.entry import (
    ComponentEntry,
    installed,
    is_builtin,
    normalized,
    plugins_are_off,
    refusal,
    switched_off,
)
from metriclab.registry.kinds import KINDS
from metriclab.registry.params import suggest

SLOW_SECONDS = 5.0


@contextmanager
def noticing_slowness(what: str) -> Iterator[None]:
    """Warns if what happens inside takes longer than `SLOW_SECONDS`, without torch, which every plugin imports."""
    importlib.import_module("torch")
    start = monotonic()
    yield
    seconds = monotonic() - start
    if seconds > SLOW_SECONDS:
        logging.getLogger("metriclab").warning(
            "%s took %.0f s to import: its author may import what is heavy where it is used", what, seconds
        )


_QUALIFIED = re.compile(r"(?:(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*):)?(?P<name>[a-z0-9-]+)")

_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_LONGEST_NAME = 80  # that a message repeats whole

declared: dict[tuple[str, str, str], ComponentEntry] = {}
"""Components that no installed distribution brings, by (kind, name, package): of one-file plugins and running code."""

definitions: dict[ComponentEntry, Definition] = {}
"""What has been loaded."""


class UnknownName(RecipeError):
    """No component has this name."""


def entries(kind: str | None = None) -> list[ComponentEntry]:
    """The components that can be named, by kind, built-in ones first. From metadata alone: nothing is imported.

    Raises:
        RecipeError: for a kind that does not exist.
    """
    if kind is not None and kind not in KINDS:
        raise RecipeError(f"there is no kind '{kind}'", help=suggest(kind, KINDS) or f"there are {', '.join(KINDS)}")
    kinds, order = set(KINDS) if kind is None else {kind}, list(KINDS)
    usable = [entry for entry in installed() if entry.kind in kinds and refusal(entry) is None]
    found = usable + [entry for entry in _declared() if entry.kind in kinds]
    return sorted(found, key=lambda e: (order.index(e.kind), not is_builtin(e), e.name, e.package))


def candidates() -> list[ComponentEntry]:
    """Everything that wants to be a component, also what is refused or broken, by package, metriclab's own first."""
    return sorted([*installed(), *_declared()], key=lambda e: (not is_builtin(e), e.package, e.kind, e.name))


def load_component(kind: str, name: str) -> Definition:
    """The definition of one component, by its name or `distribution:name`; imports that component and no other.

    Raises:
        UnknownName: where nothing has that name.
        PluginError: where its import fails, two packages have the name, or its signature is no schema.
    """
    return load_entry(find(kind, name))


def load_entry(entry: ComponentEntry) -> Definition:
    """The definition of an entry. Raises as `load_component` does, and for an entry that metadata alone refuses."""
    reason = refusal(entry)
    if reason is not None:
        raise refused(entry, reason)
    if entry not in definitions:
        component = _import(entry)
        if entry not in definitions:  # its decorator may just have put it there
            definitions[entry] = define(entry, component)
    return definitions[entry]


def summary(entry: ComponentEntry) -> str:
    """The first sentence of a component's docstring, read from its source; "" where that cannot be read."""
    if entry in definitions:  # of a plugin file, or of code that runs
        text = definitions[entry].summary
    else:
        text = parse_docstring(source_docstring(entry.module, entry.attribute)).summary
    return _SENTENCE.split(text)[0]


def build(kind: str, name: str, /, *given: Any, **params: Any) -> Any:
    """A component, built as a run builds it.

    Args:
        kind: one of `KINDS`.
        name: as listed, or `distribution:name`.
        given: what this kind is given by position: `build("head", "mlp", in_features)`.
        params: its parameters, and for a method the components it asks for.

    Raises:
        RecipeError: for an unknown name, or an unknown, missing or wrong parameter.
        PluginError: as `load_component`.
    """
    return load_component(kind, name).build(*given, **params)


def find(kind: str, name: str) -> ComponentEntry:
    """The entry that a name means, without importing it. Raises as `load_component` does."""
    of_kind = entries(kind)
    match = _QUALIFIED.fullmatch(name)
    if match is None:
        help = "names are made of a-z, 0-9 and -, with the distribution and a colon before them where two share one"
        raise UnknownName(f"'{_cut(name)}' cannot name any {kind}", help=help)
    found = [entry for entry in of_kind if _is_named(entry, match)]
    found = [entry for entry in found if is_builtin(entry)] or found
    if len(found) > 1:
        sources = " and ".join(entry.source for entry in found)
        ways = " or ".join(f'name = "{entry.package}:{entry.name}"' for entry in found)
        raise PluginError(f"{kind} '{name}' is ambiguous: {sources} bring one each", help=f"say which: {ways}")
    if found:
        return found[0]
    for entry in installed():
        if entry.kind == kind and _is_named(entry, match):
            raise refused(entry, refusal(entry))
    if plugins_are_off():
        raise _unknown_without_plugins(kind, match, of_kind)
    raise _unknown(kind, match, of_kind)


def refused(entry: ComponentEntry, reason: str | None) -> PluginError:
    """The error for an entry that `refusal` refuses."""
    help = f"its author must mend that; meanwhile do without it, or uninstall {entry.package}"
    if entry.api is not None and entry.api > API_VERSION:
        help = "upgrade metriclab-toolkit"
    return PluginError(f"{entry} of {entry.source} is refused: {reason}", help=help)


def import_failure(what: str, error: BaseException) -> PluginError:
    """The error for code that fails when it is imported. One that is a PluginError already says it best."""
    if isinstance(error, PluginError):
        return error
    return PluginError(f"{what} cannot be imported: {type(error).__name__}: {error}", help=import_help(error))


def _import(entry: ComponentEntry) -> Any:
    if is_builtin(entry):
        return _imported(entry)
    with noticing_slowness(f"{entry} of {entry.source}"):
        return _imported(entry)


def _imported(entry: ComponentEntry) -> Any:
    try:
        component = importlib.import_module(entry.module)
        for part in entry.attribute.split("."):
            component = _attribute(entry, component, part)
    except (Exception, SystemExit) as error:  # whatever a plugin does, it is told of that plugin
        raise import_failure(f"{entry} of {entry.source} ({entry.target})", error) from error
    return component


def _attribute(entry: ComponentEntry, holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name)
    except AttributeError as error:
        failure = import_failure(f"{entry} of {entry.source} ({entry.target})", error)
        point = f'[project.entry-points."{KINDS[entry.kind].group}"] {entry.name} = "{entry.target}"'
        help = f"its pyproject.toml says {point}: write there what it is called now and install the package again"
        near = suggest(name, dir(holder))
        raise PluginError(failure.message, help=f"{help}; {near}" if near else help) from error


def _declared() -> list[ComponentEntry]:
    return [] if plugins_are_off() else list(declared.values())


def _is_named(entry: ComponentEntry, match: re.Match[str]) -> bool:
    package = match["package"]
    return entry.name == match["name"] and (package is None or normalized(package) == normalized(entry.package))


def _unknown(kind: str, match: re.Match[str], of_kind: list[ComponentEntry]) -> UnknownName:
    message = f"there is no {kind} '{_cut(match.group())}'"
    if match["package"] is not None:
        return UnknownName(message, help="`metriclab plugins` lists the packages that bring components")
    if not any(is_builtin(entry) for entry in installed()):
        return UnknownName(message, help="metriclab is on the path but not installed: install it with pip")
    names = [entry.name for entry in of_kind]
    return UnknownName(message, help=suggest(match["name"], names) or f"there are {', '.join(names) or 'none yet'}")


def _unknown_without_plugins(kind: str, match: re.Match[str], of_kind: list[ComponentEntry]) -> UnknownName:
    hidden = [e for e in (*switched_off(), *declared.values()) if e.kind == kind and _is_named(e, match)]
    near = suggest(match["name"], [entry.name for entry in of_kind])
    help = near or "leave out --no-plugins, and METRICLAB_NO_PLUGINS from the environment"
    if hidden:
        help = f"it is of {hidden[0].source}: leave out --no-plugins, and METRICLAB_NO_PLUGINS from the environment"
    return UnknownName(f"there is no {kind} '{_cut(match.group())}' while plugins are switched off", help=help)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
