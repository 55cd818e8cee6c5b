"""Suite files: entries that change one base recipe, each to be run with several seeds.

[suite]
base = "../simclr.toml"             relative to the suite
seeds = [0, 1, 2]

[[entry]]
name = "cooler"
set.loss.temperature = 0.05         what --set loss.temperature=0.05 does
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from metriclab.comparison.queries import Unit
from metriclab.recipe import Problem, Recipe, RecipeProblems, read_recipe
from metriclab.recipe.document import Document, read_tables
from metriclab.recipe.problems import Place, show
from metriclab.registry import suggest
from metriclab.registry.toml import toml_value

Where = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class SuiteEntry:
    """One row of the table to be: the recipe in `base`, changed by `options`, which are as `--set` takes them."""

    name: str
    base: Path
    options: tuple[str, ...]
    recipe: Recipe
    at: tuple[str, str] | None = None
    """Its column and its row in the report's grid."""

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "entry"

    def with_seed(self, seed: int) -> Recipe:
        """The recipe of one run."""
        return replace(self.recipe, train=self.recipe.train.model_copy(update={"seed": seed}))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_seeds(value: Any) -> bool:
    whole = isinstance(value, list) and all(isinstance(seed, int) and seed is not True and seed >= 0 for seed in value)
    return whole and 0 < len(value) == len(set(value))


def _is_metric(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[^.]+\.[^.]+", value) is not None


def _are_metrics(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_metric, value))


def _are_two_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_text, value))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


_SUITE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "base": (_is_text, 'the path of a recipe, relative to this file: base = "../simclr.toml"'),
    "seeds": (_is_seeds, "a list of different numbers: seeds = [0, 1, 2]"),
    "metric": (_is_metric, 'a metric of an evaluator: metric = "retrieval.map_at_r"'),
    "also": (_are_metrics, 'a list of further metrics: also = ["retrieval.r_at_1"]'),
    "reference": (_is_text, "the name of an entry"),
    "resample": (get_args(Unit).__contains__, 'what queries are resampled by: resample = "groups"'),
    "set": (_is_table, "keys of the recipe: set.train.steps = 500"),
}
_ENTRY = {
    "name": (_is_text, "a text"),
    "base": _SUITE["base"],
    "set": _SUITE["set"],
    "at": (_are_two_texts, 'its column and its row in the report\'s grid: at = ["crop", "colour"]'),
}


class SuiteChecker:
    """Holds a suite against what it may have; what is wrong is in `problems`."""

    def __init__(self, path: Path, document: Document) -> None:
        self.path, self.document = path, document
        self.problems: list[Problem] = []
        suite = document.values.get("suite")
        self.suite: dict[str, Any] = suite if isinstance(suite, dict) else {}

    def report(self, place: Place, message: str, help: str | None = None) -> None:
        self.problems.append(place.problem(message, help))

    def keys(self) -> None:
        """Holds the top level and [suite] against what they may have."""
        for key in self.document.values.keys() - {"suite", "entry"}:
            help = suggest(key, ["suite", "entry"]) or "a suite has [suite] and one [[entry]] for each row of its table"
            self.report(self.document.key(key), f"a suite has no '{key}'", help)
        if not self.suite:
            self.report(self.document.key("suite"), "the table [suite] is missing", "add [suite] with base and seeds")
            return
        self.table(self.suite, _SUITE, "[suite]", "suite")
        for key in ("base", "seeds"):
            if key not in self.suite:
                self.report(self.document.key("suite"), f"[suite] has no {key}", f"add {_SUITE[key][1]}")

    def table(self, values: Mapping[str, Any], known: Mapping[str, Any], header: str, *where: str | int) -> None:
        for key, value in values.items():
            if key not in known:
                help = suggest(key, list(known)) or f"it has {', '.join(known)}; keys of the recipe go below set"
                self.report(self.document.key(*where, key), f"{header} has no key '{key}'", help)
            elif not known[key][0](value):
                place = self.document.value(*where, key)
                self.report(place, f"{key} must be {known[key][1].partition(':')[0]}", f"write {known[key][1]}")
        if isinstance(values.get("set"), dict) and "seed" in (values["set"].get("train") or ()):
            self.report(
                self.document.key(*where, "set", "train", "seed"), "an entry has no seed of its own", "use seeds"
            )

    def entries(self) -> dict[int, SuiteEntry]:
        """The sound ones, by their place in the file."""
        tables = self.document.values.get("entry")
        if not (isinstance(tables, list) and tables and all(isinstance(table, dict) for table in tables)):
            self.report(
                self.document.key("entry"), "a suite has no entry", "add one [[entry]] for each row of its table"
            )
            return {}
        found: dict[int, SuiteEntry] = {}
        for index, table in enumerate(tables):
            before = len(self.problems)
            self.table(table, _ENTRY, "[[entry]]", "entry", index)
            if "name" not in table:
                self.report(self.document.key("entry", index), "[[entry]] has no name", 'add name = "..."')
            base = table.get("base", self.suite.get("base"))
            if len(self.problems) == before and _is_text(base) and _is_table(self.suite.get("set", {})):
                entry = self.entry(index, table, base)
                found |= {} if entry is None else {index: entry}
        return found

    def entry(self, index: int, table: Mapping[str, Any], base: str) -> SuiteEntry | None:
        own = dict(_flat(table.get("set", {}), ("entry", index, "set")))
        anew = {key.rpartition(".")[0] for key in own if key.endswith(".name")}
        # What the suite sets is about its own base, and about components that the entry keeps.
        shared = {} if "base" in table else dict(_flat(self.suite.get("set", {}), ("suite", "set")))
        kept = {key: value for key, value in shared.items() if key.rpartition(".")[0] not in anew}
        options = {f"{key}={toml_value(value)}": where for key, (where, value) in {**kept, **own}.items()}
        path = Path(os.path.normpath(self.path.parent / base))
        if not path.is_file():
            where = ("entry", index, "base") if "base" in table else ("suite", "base")
            self.report(self.document.value(*where), f"there is no recipe {path}", "name it relative to this file")
            return None
        try:
            recipe = read_recipe(path, list(options))
        except RecipeProblems as error:
            self.problems += [self.placed(problem, options) for problem in error.problems]
            return None
        at = tuple(table["at"]) if "at" in table else None
        return SuiteEntry(table["name"], path, tuple(options), recipe, at)

    def placed(self, problem: Problem, options: Mapping[str, Where]) -> Problem:
        """A problem of a `--set` option told where the suite has it."""
        option = problem.place.path
        where = options.get(option.removeprefix("--set "))
        if where is None or not option.startswith("--set "):
            return problem
        at_value = problem.place.column > option.index("=")
        place = self.document.value(*where) if at_value else self.document.key(*where)
        return place.problem(problem.message, problem.help)

    def names(self, entries: Mapping[int, SuiteEntry]) -> None:
        first: dict[Any, SuiteEntry] = {}
        for index, entry in entries.items():
            other = first.setdefault(entry.folder.lower(), entry)
            if other is not entry:
                place = self.document.value("entry", index, "name")
                self.report(place, f"'{entry.name}' and '{other.name}' would share a folder", "give it another name")
            other = first.setdefault(entry.at or entry.folder.lower(), entry)
            if other is not entry and entry.at:
                place = self.document.value("entry", index, "at")
                self.report(place, f"'{entry.name}' and '{other.name}' would share a place of the grid", "move one")
        reference = self.suite.get("reference")
        names = [entry.name for entry in entries.values()]
        if isinstance(reference, str) and not self.problems and reference not in names:
            place = self.document.value("suite", "reference")
            self.report(
                place, f"there is no entry '{reference}'", suggest(reference, names) or f"one of {', '.join(names)}"
            )

    def alike(self, entries: Mapping[int, SuiteEntry]) -> None:
        """What cannot be ranked is found before it is run."""
        if not entries:
            return
        first = next(iter(entries.values()))
        for index, entry in entries.items():
            for table, measured in (("data", _data), ("evaluate", _evaluate)):
                if measured(entry.recipe) != measured(first.recipe):
                    message = f"'{entry.name}' and '{first.name}' are not measured alike: their [{table}] differs"
                    self.report(self.document.key("entry", index), message, "the entries of a suite share both tables")
        metric = self.suite.get("metric", "retrieval.map_at_r")
        evaluators = [chosen.label for chosen in first.recipe.evaluators]
        if _is_metric(metric) and metric.partition(".")[0] not in evaluators:
            place = self.document.value("suite", "metric")
            self.report(
                place, f"{show(metric)} is of an evaluator that the recipes lack", f"they have {', '.join(evaluators)}"
            )


def _data(recipe: Recipe) -> Any:
    return recipe.components["dataset"].as_dict()


def _evaluate(recipe: Recipe) -> list[dict[str, Any]]:
    return [chosen.as_dict() for chosen in recipe.evaluators]


def _flat(values: Mapping[str, Any], where: Where, prefix: str = "") -> Iterator[tuple[str, tuple[Where, Any]]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, (*where, key), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ((*where, key), value)


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite without a mistake; see `compare` for `metric`, `also`, `reference`, `resample`."""

    path: Path
    entries: tuple[SuiteEntry, ...]
    seeds: tuple[int, ...]
    metric: str = "retrieval.map_at_r"
    also: tuple[str, ...] | None = None
    reference: str | None = None
    resample: Unit = "classes"

    @property
    def folder(self) -> Path:
        """Of its runs, where no other one is named."""
        return Path("runs", "suites", self.path.stem)


def is_suite(path: Path) -> bool:
    """Whether the file is meant as a suite and not as a recipe: it has a table [suite] or a list [[entry]]."""
    values = read_tables(path).values
    return "suite" in values or "entry" in values


def read_suite(path: Path) -> Suite:
    """The suite in a file.

    Raises:
        RecipeProblems: all that is wrong with it and with the recipes it makes, each with its place and its repair.
    """
    document = read_tables(path)
    checker = SuiteChecker(path, document)
    checker.keys()
    entries = checker.entries()
    checker.names(entries)
    checker.alike(entries)
    if checker.problems:
        unique = list(dict.fromkeys(checker.problems))  # a mistake in the base is one of every entry
        raise RecipeProblems(
            sorted(unique, key=lambda problem: (problem.place.path != str(path), problem.place.line or 0))
        )
    suite: dict[str, Any] = document.values["suite"]  # type: ignore[assignment]  # it has been checked
    return Suite(
        path=path,
        entries=tuple(entries.values()),
        seeds=tuple(suite["seeds"]),
        metric=suite.get("metric", "retrieval.map_at_r"),
        also=tuple(suite["also"]) if "also" in suite else None,
        reference=suite.get("reference"),
        resample=suite.get("resample", "classes"),
    )
