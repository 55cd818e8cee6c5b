"""From a document to a recipe, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from metriclab.recipe.check_component import ComponentChecker
from metriclab.recipe.check_losses import check_losses
from metriclab.recipe.document import Document
from metriclab.recipe.losses import wrong_dims
from metriclab.recipe.problems import Problem, RecipeProblems, in_order, show
from metriclab.recipe.recipe import REQUIRES, Recipe
from metriclab.recipe.spec import LABEL, ComponentSpec
from metriclab.recipe.train import Train, check_train
from metriclab.registry import KINDS, ComponentParameter, Kind, suggest

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
TAKEN_BY_METHODS = ("loss", "miner", "memory")  # for these a recipe has tables as far as its method takes them
_TABLES = [*(kind.table for kind in KINDS.values()), "train"]


def check(document: Document, path: Path, problems: Sequence[Problem] = ()) -> Recipe:
    """The recipe of a document that was read from `path`.

    Raises:
        RecipeProblems: all that is wrong, with what was found before, in the order of the document.
        PluginError: where a component that the document names is broken.
    """
    checker = _Checker(document)
    checker.top_level()
    single = {name: checker.single(kind) for name, kind in KINDS.items() if not kind.many}
    checker.method_takes(single["method"])
    checker.features(single["method"], single["views"])
    tables = document.values.get("loss")
    losses = check_losses(checker.components, tables, single) if isinstance(tables, list) else None
    evaluators, trackers = (checker.several(KINDS[name]) for name in ("evaluator", "tracker"))
    on_val = [chosen.label for chosen in evaluators if getattr(chosen.definition.factory, "wants", "rows") == "rows"]
    train, train_problems = check_train(document, on_val)
    checker.dims(evaluators, single["head"])
    required, missing_packages = check_requires(document)
    found = [*problems, *missing_packages, *checker.components.problems, *train_problems]
    if found:
        raise RecipeProblems(in_order(found, str(path)))
    assert train is not None
    components = {name: chosen for name, chosen in single.items() if chosen is not None}
    return Recipe(path, document, components, evaluators, trackers, train, required, losses)


class _Checker:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.components = ComponentChecker(document)
        self.report = self.components.report

    def top_level(self) -> None:
        for key, value in self.document.values.items():
            if key in _TABLES or key == REQUIRES:
                continue
            place = self.document.key(key)
            if key in Train.model_fields:
                self.report(place, f"'{key}' stands outside of its table", "write it below [train]")
            elif isinstance(value, dict | list):
                near = suggest(key, _TABLES) or (f"did you mean '{KINDS[key].table}'?" if key in KINDS else None)
                self.report(place, f"there is no table [{key}]", near or f"the tables are {', '.join(_TABLES)}")
            else:
                near = suggest(key, [*Train.model_fields, "extends", REQUIRES])
                self.report(place, f"'{key}' stands outside of any table", near or "write it below its [table]")

    def single(self, kind: Kind) -> ComponentSpec | None:
        """The one component of a kind; None where there is none."""
        table = self.table(kind)
        if table is not None:
            place = self.document.key(kind.table)
            if isinstance(table, list) and kind.name == "loss":
                return None  # several, see `check_losses`
            if isinstance(table, list) and all(isinstance(entry, dict) for entry in table):
                self.report(place, f"[[{kind.table}]] is a list; a recipe has one {kind.name}", f"write [{kind.table}]")
                return None
            return self.components.check(kind, table, kind.table)
        if kind.name in REQUIRED:
            help = f"add [{kind.table}] with a name; `metriclab list {kind.name}` shows the names"
            self.report(self.document.top, f"the table [{kind.table}] is missing", help)
        return None

    def table(self, kind: Kind) -> Any:
        """What stands in the kind's table, or its default. A miner `none` is none, so that an entry can drop one."""
        table = self.document.values.get(kind.table, DEFAULTS.get(kind.table))
        return None if kind.name == "miner" and table == {"name": "none"} else table

    def several(self, kind: Kind) -> list[ComponentSpec]:
        """All components of a kind that a recipe may have more of."""
        tables = self.document.values.get(kind.table, DEFAULTS[kind.table])
        if not isinstance(tables, list):
            help = f"write [[{kind.table}]]: a recipe may have several"
            self.report(self.document.key(kind.table), f"'{kind.table}' is not a list of tables", help)
            return []
        found: dict[str, int] = {}
        chosen = []
        for index, table in enumerate(tables):
            component = self.components.check(kind, table, kind.table, index)
            if component is None:
                continue
            label = component.label
            if label in found:
                line = self.document.key(kind.table, found[label]).line
                place = self.document.value(kind.table, index, "name" if label == component.name else LABEL)
                where = f", first on line {line}" if line else ""
                other = f', or call one of them something else: {LABEL} = "..."' if kind.labelled else ""
                self.report(place, f"{kind.name} '{label}' is there twice{where}", f"keep one of them{other}")
            found.setdefault(label, index)
            chosen.append(component)
        return chosen

    def method_takes(self, method: ComponentSpec | None) -> None:
        """Holds the tables of losses, miners and memories against what the method takes."""
        if method is None:
            return
        takes = {parameter.kind: parameter for parameter in method.definition.components.values()}
        for kind in (KINDS[name] for name in TAKEN_BY_METHODS):
            given = self.table(kind) is not None
            if given and kind.name not in takes:
                names = ", ".join(_header(parameter) for parameter in takes.values()) or "no other component"
                help = f"remove the table, or name a method that takes a {kind.name}"
                message = f"method '{method.name}' does not take [{kind.table}]; it takes {names}"
                self.report(self.document.key(kind.table), message, help)
            elif not given and kind.name in takes and takes[kind.name].required:
                help = f"add [{kind.table}] with a name; `metriclab list {kind.name}` shows the names"
                self.report(self.document.value("method", "name"), f"method '{method.name}' needs [{kind.table}]", help)

    def features(self, method: ComponentSpec | None, views: ComponentSpec | None) -> None:
        """Features that are computed once, of one view, by a method that shall give the same as without."""
        if method is None or views is None or method.params.get("features") != "cached":
            return
        if not getattr(method.definition.factory, "plain_features", False):
            return
        if getattr(views.definition.factory, "random", True):
            message = f"features are computed once (cached), and views '{views.name}' draw each image anew in each step"
            help = 'set views.name = "plain", or leave features out'
            self.report(self.document.value("method", "features"), message, help)
        elif views.params.get("count", 1) != 1:
            message = "features are computed once (cached), of one view of an image"
            self.report(self.document.value("views", "count"), message, "leave count out")

    def dims(self, evaluators: Sequence[ComponentSpec], head: ComponentSpec | None) -> None:
        """Prefixes that are to be measured, as far as the recipe says how long the embedding is."""
        train = self.document.values.get("train")
        of_head = isinstance(train, dict) and train.get("output") == "z" and head is not None
        limit = head.params.get("embedding_dim") if of_head and head is not None else None
        for index, evaluator in enumerate(evaluators):
            dims = evaluator.params.get("dims")
            if getattr(evaluator.definition.factory, "of_prefixes", False) and isinstance(dims, list):
                for message, help in wrong_dims(dims, limit):
                    self.report(self.document.value("evaluate", index, "dims"), message, help)


def _header(parameter: ComponentParameter) -> str:
    return KINDS[parameter.kind].header + ("" if parameter.required else " (optional)")


_LONGEST = 200
_FORM = 'name a package and, where it matters, its versions: requires = ["metriclab-circle>=0.1"]'


def check_requires(document: Document) -> tuple[tuple[str, ...], list[Problem]]:
    """What a recipe requires, and what of it is wrong or not installed. From metadata: nothing is imported."""
    stated = document.values.get(REQUIRES, [])
    if not isinstance(stated, list):
        message = f"'{REQUIRES}' is {show(stated)}, not a list"
        return (), [document.value(REQUIRES).problem(message, _FORM)]
    problems = []
    for index, requirement in enumerate(stated):
        wrong = _wrong(requirement)
        if wrong is not None:
            problems.append(document.value(REQUIRES, index).problem(*wrong))
    return tuple(map(str, stated)), problems


def _wrong(text: Any) -> tuple[str, str] | None:
    """What is wrong with one requirement, with the repair; None where what it asks for is installed."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion

    try:
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise InvalidRequirement
        requirement = Requirement(text)
    except InvalidRequirement:
        return f"{show(text)} is no requirement", _FORM
    if requirement.url or requirement.marker or requirement.extras:
        return f"{show(text)} asks for more than a package and its versions", _FORM
    install = f'pip install "{requirement}"'
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"this recipe requires {requirement}, which is not installed", install
    try:
        fits = requirement.specifier.contains(version, prereleases=True)
    except (InvalidVersion, TypeError):  # its metadata are damaged
        fits = False
    message = f"this recipe requires {requirement}, and {requirement.name} {version} is installed"
    return None if fits else (message, install)
