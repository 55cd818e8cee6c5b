"""How code makes a component: the decorator, and files that use it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from metriclab.errors import PluginError, RecipeError
from metriclab.registry.definition import Definition, define
from metriclab.registry.entry import ComponentEntry, installed, plugins_are_off, refusal
from metriclab.registry.registry import declared, definitions, import_failure, noticing_slowness, refused

C = TypeVar("C")

_plugin_files: dict[str, str] = {}  # module -> name of the file
_checks: WeakSet[Any] = WeakSet()  # functions that check their settings already


def register(kind: str, name: str) -> Callable[[C], C]:
    """Makes a class or function a component. From then on, code that calls it with a setting that a recipe could not
    have is told so by a ValueError, in the same words.

    Its keyword-only parameters become the keys of its recipe table, its positional-only ones are given by the run.
    An installed package names its components as entry points, which is how they are found, and the decorator then
    checks them at once; a one-file plugin or a notebook needs the decorator alone.

    Args:
        kind: one of `KINDS`.
        name: made of a-z, 0-9 and -.

    Raises:
        PluginError: for a signature that is no schema, or a name that is taken.
    """

    def record(component: C) -> C:
        entry = _entry_of(kind, name, component)
        reason = refusal(entry)
        if reason is not None:
            raise refused(entry, reason)
        definition = define(entry, component)
        if entry in installed():
            definitions[entry] = definition
        elif not any(entry.package == other.package for other in installed()):
            _declare(definition)
        return _checking(component, definition)  # type: ignore[no-any-return]  # a function in its place

    return record


def _checking(component: Any, definition: Definition) -> Any:
    """The component, whose calls check the settings they give: the class itself, or a function in its place."""
    if not inspect.isclass(component):
        return component if component in _checks else _checked(component, definition)
    # Of this class itself: an inherited constructor checks, and names, another component.
    if component.__init__ is not object.__init__ and vars(component).get("__init__") not in _checks:
        component.__init__ = _checked(component.__init__, definition)  # type: ignore[method-assign]  # on purpose
    return component


def _checked(function: Any, definition: Definition) -> Any:
    names = {parameter.name for parameter in definition.parameters}

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = {name: value for name, value in kwargs.items() if name in names}
        values, problems = definition.check(given)
        wrong = [str(problem) for problem in problems if problem.path[0] in given]
        if wrong:
            raise ValueError("\n".join(wrong))
        return function(*args, **{**kwargs, **{name: values[name] for name in given}})

    _checks.add(checked)
    return checked


def load_plugin_file(path: Path) -> None:
    """Imports a one-file plugin; what it registers can be named from then on. Loading it again replaces that.

    Raises:
        RecipeError: where there is no such file, or plugins are switched off.
        PluginError: where its import fails, or it registers nothing.
    """
    if not path.is_file() or path.suffix != ".py":
        raise RecipeError(f"{path} is no plugin file", help="--plugin takes a Python file, ending in .py")
    if plugins_are_off():
        help = "leave out --no-plugins, and METRICLAB_NO_PLUGINS from the environment"
        raise RecipeError(f"plugin file {path} is not imported: plugins are switched off", help=help)
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
    module = f"metriclab_plugin_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    _forget(module)
    _plugin_files[module] = path.name
    sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        with noticing_slowness(f"plugin file {path}"):
            spec.loader.exec_module(sys.modules[module])
    except (Exception, SystemExit) as error:
        _forget(module)
        raise import_failure(f"plugin file {path}", error) from error
    if not any(entry.module == module for entry in declared.values()):
        help = 'put @register("loss", "my-name"), from metriclab.api, before a class or function'
        raise PluginError(f"plugin file {path} registers no component", help=help)


def plugin_files() -> list[Path]:
    """The one-file plugins whose components can be named."""
    modules = dict.fromkeys(entry.module for entry in declared.values() if entry.module in _plugin_files)
    return [_path_of(module) for module in modules]


def match_plugin_files(files: Sequence[Path]) -> None:
    """Loads what is missing of these and forgets all others: how another process follows the one it works for."""
    for module in [module for module in _plugin_files if module in sys.modules]:
        if _path_of(module) not in files:
            _forget(module)
    for file in files:
        if file not in plugin_files():
            load_plugin_file(file)


def _path_of(module: str) -> Path:
    return Path(str(sys.modules[module].__file__)).resolve()


def _entry_of(kind: str, name: str, component: Any) -> ComponentEntry:
    module = getattr(component, "__module__", None) or "?"
    target = f"{module}:{getattr(component, '__qualname__', '?')}"
    if module in _plugin_files:
        return ComponentEntry(kind, name, target, _plugin_files[module], "file")
    top = module.partition(".")[0]
    of_package = [entry for entry in installed() if entry.module.partition(".")[0] == top]
    for entry in of_package:
        if (entry.kind, entry.name, entry.target) == (kind, name, target):
            return entry
    if of_package:
        return ComponentEntry(kind, name, target, of_package[0].package, of_package[0].version)
    return ComponentEntry(kind, name, target, module, "code")


def source_of(component: object) -> str:
    """The package, and its version, whose code a component is; the module where no package brings it."""
    code = component if inspect.isfunction(component) else type(component)
    return _entry_of("", "", code).source


def _declare(definition: Definition) -> None:
    entry = definition.entry
    key = (entry.kind, entry.name, entry.package)
    earlier = declared.get(key)
    if earlier is not None and earlier.target != entry.target:
        raise PluginError(
            f"{entry} of {entry.package} is registered twice: as {earlier.target} and {entry.target}",
            help="give each component a name of its own",
        )
    declared[key] = entry
    definitions[entry] = definition


def _forget(module: str) -> None:
    for key, entry in list(declared.items()):
        if entry.module == module:
            del declared[key]
            definitions.pop(entry, None)
    sys.modules.pop(module, None)
