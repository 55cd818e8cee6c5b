"""The checks of one component's table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from metriclab.recipe.document import Document
from metriclab.recipe.losses import option_help
from metriclab.recipe.problems import Place, Problem, show
from metriclab.recipe.renamed import renamed_help
from metriclab.recipe.spec import LABEL, ComponentSpec
from metriclab.registry import KINDS, Definition, Kind, TableOf, UnknownName, entries, load_component, suggest
from metriclab.registry.entry import NAME, is_builtin, plugins_are_off

OUTPUTS = ("-h", "-z")


class ComponentChecker:
    """Holds tables of a document against the components they name; what is wrong is in `problems`.

    `where` is always the path of the table in the document.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def report(self, place: Place, message: str, help: str | None = None) -> None:
        self.problems.append(place.problem(message, help))

    def check(self, kind: Kind, table: Any, *where: str | int) -> ComponentSpec | None:
        """The component that a table names; None where it names none. Its parameters may have problems."""
        if not isinstance(table, dict):
            help = f"write {kind.header} and below it name = {show(table) if isinstance(table, str) else '...'}"
            self.report(self.document.value(*where), f"'{kind.table}' is {show(table)}, not a table", help)
            return None
        params = dict(table)
        name = params.pop("name", None)
        definition = self.definition(kind, name, *where)
        label = self.label(params.pop(LABEL), *where) if kind.labelled and LABEL in params else name
        if definition is None:
            return None
        filled = self.parameters(definition, params, *where)
        assert isinstance(name, str)
        return ComponentSpec(kind.name, name, filled, definition, label, self.document, where)

    def parameters(self, definition: Definition, params: dict[str, Any], *where: str | int) -> dict[str, Any]:
        """A component's parameters, defaults filled in. They may have problems."""
        for key in [key for key, value in params.items() if isinstance(value, dict) and not _has(definition, key)]:
            self.nested(definition, key, params.pop(key), *where)
        filled, found = definition.check(params)
        entry = definition.entry
        for problem in found:
            key = problem.parameter
            if problem.unknown and problem.within is None and entry.kind == "loss":
                help = option_help(key, several=len(where) > 1)
                problem = replace(problem, help=help or problem.help)
            if problem.unknown and problem.within is None and is_builtin(entry):
                help = renamed_help(entry.kind, entry.name, key, params[key])
                problem = replace(problem, help=help or problem.help)
            self.problems.append(self.document.problem(problem, *where))
        for parameter in definition.parameters:
            if parameter.table_of is not None and isinstance(filled.get(parameter.name), dict):
                self.table_of(parameter.table_of, filled, parameter.name, *where)
        return filled

    def table_of(self, inner: TableOf, params: Mapping[str, Any], key: str, *where: str | int) -> None:
        """A parameter that is the table of another component."""
        kind = KINDS[inner.kind]
        if inner.named_by is None:
            self.check(kind, params[key], *where, key)
        elif isinstance(params[inner.named_by], str):
            definition = self.definition(kind, params[inner.named_by], *where, key=inner.named_by)
            if definition is not None:
                self.parameters(definition, dict(params[key]), *where, key)

    def label(self, label: Any, *where: str | int) -> str:
        """What a component is called in results. It may have problems."""
        if not (isinstance(label, str) and NAME.fullmatch(label) and not label.endswith(OUTPUTS)):
            help = f"use letters a-z, digits and -; {' and '.join(OUTPUTS)} at the end stand for the encoder's outputs"
            self.report(self.document.value(*where, LABEL), f"{LABEL} = {show(label)} is no name for results", help)
        return str(label)

    def definition(self, kind: Kind, name: Any, *where: str | int, key: str = "name") -> Definition | None:
        if name is None:
            help = f'add name = "..."; `metriclab list {kind.name}` shows the names'
            self.report(self.document.key(*where), f"{kind.header} has no name", help)
            return None
        place = self.document.value(*where, key)
        if not isinstance(name, str):
            self.report(place, f"the name of the {kind.name} must be text, not {show(name)}", "put it in quotes")
            return None
        try:
            return load_component(kind.name, name)
        except UnknownName as error:
            known = None if plugins_are_off() else _name_help(kind, name)
            self.report(place, error.message, known or error.help)
            return None

    def nested(self, definition: Definition, key: str, value: Mapping[str, Any], *where: str | int) -> None:
        """A table inside a component's table, of which the component knows nothing."""
        kind = definition.kind
        place = self.document.key(*where, key)
        taken = definition.components.get(key)
        if taken is not None:
            help = f"write {KINDS[taken.kind].header}: recipes are flat"
            self.report(place, f"[{kind.table}.{key}] is a table in a table", help)
            return
        near = suggest(key, [p.name for p in definition.parameters])
        if kind.name == "loss":
            near = option_help(key, several=len(where) > 1) or near
        help = near or f"write its keys below {kind.header} itself: recipes are flat"
        self.report(place, f"{definition.entry} has no table '{key}'", help)


def _name_help(kind: Kind, name: str) -> str | None:
    """How to repair a name that nothing has; None where the registry knows best."""
    names = [entry.name for entry in entries(kind.name)]
    near = suggest(re.sub(r"[_\s]", "-", name.lower()), names)
    package, colon, own_name = name.rpartition(":")
    if near is not None or not names or NAME.fullmatch(own_name) is None:
        return near
    if colon:
        return f"install the package {package} with pip; `metriclab plugins` lists those that are installed"
    plugins = "a plugin brings more once it is installed with pip, or its file is given by --plugin"
    return f"`metriclab list {kind.name}` shows what there is; {plugins}"


def _has(definition: Definition, key: str) -> bool:
    return any(parameter.name == key for parameter in definition.parameters)
