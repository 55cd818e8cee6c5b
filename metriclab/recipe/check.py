"""From a document to a recipe, or to everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metriclab.recipe.check_train import check_train, usual
from metriclab.recipe.document import Document
from metriclab.recipe.problems import Place, Problem, RecipeProblems, show
from metriclab.recipe.recipe import LABEL, REQUIRES, ComponentSpec, Recipe
from metriclab.recipe.renamed import renamed_help
from metriclab.recipe.requires import check_requires
from metriclab.recipe.settings import Train
from metriclab.registry import (
    KINDS,
    ComponentParameter,
    Definition,
    Kind,
    TableOf,
    UnknownName,
    entries,
    load,
    suggest,
)
from metriclab.registry.entry import NAME, is_builtin, plugins_are_off

DEFAULTS: dict[str, Any] = {
    "views": {"name": "plain"},
    "sampler": {"name": "shuffled"},
    "head": {"name": "none"},
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "constant"},
    "evaluate": [{"name": "retrieval"}],
    "track": [{"name": "console"}, {"name": "jsonl"}],
}
"""What stands in for a table that a recipe leaves out."""

REQUIRED = ("dataset", "encoder", "method")
ASKED = ("loss", "miner", "memory")  # for these a recipe has tables as far as its method asks for them
OUTPUTS = ("-h", "-z")
_TABLES = [*(kind.table for kind in KINDS.values()), "train"]


def check(document: Document, path: Path, problems: Sequence[Problem] = ()) -> Recipe:
    """The recipe of a document.

    Args:
        document: tables and their places.
        path: the file it was read from.
        problems: those found before, to be told together with those found here.

    Raises:
        RecipeProblems: all that is wrong, in the order of the document.
        PluginError: where a component that the document names is broken.
    """
    checker = _Checker(document)
    checker.top_level()
    single = {name: checker.single(kind) for name, kind in KINDS.items() if not kind.many}
    checker.asked_by(single["method"])
    evaluators, trackers = (checker.several(KINDS[name]) for name in ("evaluator", "tracker"))
    on_val = [chosen.label for chosen in evaluators if getattr(chosen.definition.factory, "wants", "rows") == "rows"]
    train, train_problems = check_train(document, on_val)
    required, missing_packages = check_requires(document)
    found = [*problems, *missing_packages, *checker.problems, *train_problems]
    if found:
        raise RecipeProblems(_in_order(found, str(path)))
    assert train is not None
    components = {name: chosen for name, chosen in single.items() if chosen is not None}
    return Recipe(path, components, evaluators, trackers, train, required)


def _position(problem: Problem) -> tuple[bool, int, int]:
    return (True, 0, 0) if problem.line is None else (False, problem.line, problem.column)


def _in_order(problems: Sequence[Problem], path: str) -> list[Problem]:
    """By place: first the recipe itself, then the one it extends, then the options."""
    return sorted(problems, key=lambda problem: (problem.path != path, *_position(problem)))


class _Checker:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def say(self, place: Place, message: str, help: str | None = None) -> None:
        self.problems.append(place.problem(message, help))

    def top_level(self) -> None:
        for key, value in self.document.values.items():
            if key in _TABLES or key == REQUIRES:
                continue
            place = self.document.key(key)
            if key in Train.model_fields:
                self.say(place, f"'{key}' stands outside of its table", "write it below [train]")
            elif isinstance(value, dict | list):
                near = suggest(key, _TABLES) or (f"did you mean '{KINDS[key].table}'?" if key in KINDS else None)
                self.say(place, f"there is no table [{key}]", near or f"the tables are {', '.join(_TABLES)}")
            else:
                near = suggest(key, [*Train.model_fields, "extends", REQUIRES])
                self.say(place, f"'{key}' stands outside of any table", near or "write it below its [table]")

    def single(self, kind: Kind) -> ComponentSpec | None:
        """The one component of a kind; None where there is none."""
        table = self.document.values.get(kind.table, DEFAULTS.get(kind.table))
        if table is not None:
            place = self.document.key(kind.table)
            if isinstance(table, list) and all(isinstance(entry, dict) for entry in table):
                self.say(place, f"[[{kind.table}]] is a list; a recipe has one {kind.name}", f"write [{kind.table}]")
                return None
            return self.component(kind, table, kind.table)
        if kind.name in REQUIRED:
            help = f"add [{kind.table}] with a name; `metriclab list {kind.name}` shows the names"
            self.say(self.document.top, f"the table [{kind.table}] is missing", help)
        return None

    def several(self, kind: Kind) -> list[ComponentSpec]:
        """All components of a kind that a recipe may have more of."""
        tables = self.document.values.get(kind.table, DEFAULTS[kind.table])
        if not isinstance(tables, list):
            help = f"write [[{kind.table}]]: a recipe may have several"
            self.say(self.document.key(kind.table), f"'{kind.table}' is not a list of tables", help)
            return []
        found: dict[str, int] = {}
        chosen = []
        for index, table in enumerate(tables):
            component = self.component(kind, table, kind.table, index)
            if component is None:
                continue
            label = component.label
            if label in found:
                line = self.document.key(kind.table, found[label]).line
                place = self.document.value(kind.table, index, "name" if label == component.name else LABEL)
                where = f", first on line {line}" if line else ""
                other = f', or call one of them something else: {LABEL} = "..."' if kind.labelled else ""
                self.say(place, f"{kind.name} '{label}' is there twice{where}", f"keep one of them{other}")
            found.setdefault(label, index)
            chosen.append(component)
        return chosen

    def component(self, kind: Kind, table: Any, *where: str | int) -> ComponentSpec | None:
        """The component that a table names; None where it names none. Its parameters may have problems."""
        if not isinstance(table, dict):
            help = f"write {kind.header} and below it name = {show(table) if isinstance(table, str) else '...'}"
            self.say(self.document.value(*where), f"'{kind.table}' is {show(table)}, not a table", help)
            return None
        params = dict(table)
        name = params.pop("name", None)
        definition = self.definition(kind, name, *where)
        label = self.label(params.pop(LABEL), *where) if kind.labelled and LABEL in params else name
        if definition is None:
            return None
        filled = self.parameters(definition, params, *where)
        assert isinstance(name, str)
        return ComponentSpec(kind.name, name, filled, definition, label)

    def parameters(self, definition: Definition, params: dict[str, Any], *where: str | int) -> dict[str, Any]:
        """A component's parameters, defaults filled in. They may have problems."""
        for key in [key for key, value in params.items() if isinstance(value, dict) and not _has(definition, key)]:
            self.nested(definition, key, params.pop(key), *where)
        filled, found = definition.check(params)
        for problem in found:
            parameter = next((p for p in definition.parameters if p.name == problem.parameter), None)
            if parameter is None:
                key = problem.parameter
                entry, value = definition.entry, params.get(key)
                help = renamed_help(entry.kind, entry.name, key, value) if is_builtin(entry) else None
                self.say(self.document.key(*where, key), problem.message, help or problem.help)
            else:
                place = self.document.value(*where, problem.parameter)
                self.say(place, problem.message, problem.help or usual(parameter))
        for parameter in definition.parameters:
            if parameter.table_of is not None and isinstance(filled.get(parameter.name), dict):
                self.table_of(parameter.table_of, filled, parameter.name, *where)
        return filled

    def table_of(self, inner: TableOf, params: Mapping[str, Any], key: str, *where: str | int) -> None:
        """A parameter that is the table of another component."""
        kind = KINDS[inner.kind]
        if inner.named_by is None:
            self.component(kind, params[key], *where, key)
        elif isinstance(params[inner.named_by], str):
            definition = self.definition(kind, params[inner.named_by], *where, key=inner.named_by)
            if definition is not None:
                self.parameters(definition, dict(params[key]), *where, key)

    def label(self, label: Any, *where: str | int) -> str:
        """What a component is called in results. It may have problems."""
        if not (isinstance(label, str) and NAME.fullmatch(label) and not label.endswith(OUTPUTS)):
            help = f"use letters a-z, digits and -; {' and '.join(OUTPUTS)} at the end stand for the encoder's outputs"
            self.say(self.document.value(*where, LABEL), f"{LABEL} = {show(label)} is no name for results", help)
        return str(label)

    def definition(self, kind: Kind, name: Any, *where: str | int, key: str = "name") -> Definition | None:
        if name is None:
            help = f'add name = "..."; `metriclab list {kind.name}` shows the names'
            self.say(self.document.key(*where), f"{kind.header} has no name", help)
            return None
        place = self.document.value(*where, key)
        if not isinstance(name, str):
            self.say(place, f"the name of the {kind.name} must be text, not {show(name)}", "put it in quotes")
            return None
        try:
            return load(kind.name, name)
        except UnknownName as error:
            known = None if plugins_are_off() else _name_help(kind, name)
            self.say(place, error.message, known or error.help)
            return None

    def nested(self, definition: Definition, key: str, value: Mapping[str, Any], *where: str | int) -> None:
        """A table inside a component's table, of which the component knows nothing."""
        kind = definition.kind
        place = self.document.key(*where, key)
        asked = definition.components.get(key)
        if asked is not None:
            help = f"write {KINDS[asked.kind].header}: recipes are flat"
            self.say(place, f"[{kind.table}.{key}] is a table in a table", help)
            return
        near = suggest(key, [p.name for p in definition.parameters])
        help = near or f"write its keys below {kind.header} itself: recipes are flat"
        self.say(place, f"{definition.entry} has no table '{key}'", help)

    def asked_by(self, method: ComponentSpec | None) -> None:
        """Holds the tables of losses, miners and memories against what the method asks for."""
        if method is None:
            return
        asked = {parameter.kind: parameter for parameter in method.definition.components.values()}
        for kind in (KINDS[name] for name in ASKED):
            given = kind.table in self.document.values
            if given and kind.name not in asked:
                takes = ", ".join(_asks(parameter) for parameter in asked.values()) or "no other component"
                help = f"remove the table, or name a method that takes a {kind.name}"
                message = f"method '{method.name}' does not take [{kind.table}]; it takes {takes}"
                self.say(self.document.key(kind.table), message, help)
            elif not given and kind.name in asked and asked[kind.name].required:
                help = f"add [{kind.table}] with a name; `metriclab list {kind.name}` shows the names"
                self.say(self.document.value("method", "name"), f"method '{method.name}' needs [{kind.table}]", help)


def _asks(parameter: ComponentParameter) -> str:
    return KINDS[parameter.kind].header + ("" if parameter.required else " (optional)")


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
