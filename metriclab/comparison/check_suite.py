"""What a suite file may have, and all that is wrong with one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from metriclab.comparison.queries import Unit
from metriclab.comparison.space import SEARCH, Search, Space, Where, of_type, read_space
from metriclab.comparison.suite_entry import SuiteEntry
from metriclab.recipe import Problem, Recipe, RecipeProblems, read_recipe
from metriclab.recipe.document import Document
from metriclab.recipe.problems import Place, show
from metriclab.recipe.run_length import without_effect
from metriclab.registry import suggest
from metriclab.registry.toml import toml_value


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
    "search": (_is_table, "a table: [suite.search] with trials = 20"),
}
_ENTRY = {
    "name": (_is_text, "a text"),
    "base": _SUITE["base"],
    "set": _SUITE["set"],
    "search": (_is_table, "keys of the recipe: search.loss.margin = { low = 0.02, high = 0.5 }"),
    "at": (_are_two_texts, 'its column and its row in the report\'s grid: at = ["crop", "colour"]'),
}


class SuiteChecker:
    """Holds a suite against what it may have; what is wrong is in `problems`."""

    def __init__(self, path: Path, document: Document) -> None:
        self.path, self.document = path, document
        self.problems: list[Problem] = []
        suite = document.values.get("suite")
        self.suite: dict[str, Any] = suite if isinstance(suite, dict) else {}
        self.search = self.suite.get("search")
        self.space: Space = {}

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
        if isinstance(self.search, dict):
            self.table(self.search, SEARCH, "[suite.search]", "suite", "search")
            if "trials" not in self.search:
                help = f"add {SEARCH['trials'][1]}"
                self.report(self.document.key("suite", "search"), "[suite.search] has no trials", help)
            if isinstance(self.search.get("space"), dict):
                self.space = read_space(self, self.search["space"], "suite", "search", "space")

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
        searched = self.searched(index, table, own, anew)
        told = {key: found for key, found in {**kept, **own}.items() if key not in searched}
        options = {f"{key}={toml_value(value)}": where for key, (where, value) in told.items()}
        path = Path(os.path.normpath(self.path.parent / base))
        if not path.is_file():
            where = ("entry", index, "base") if "base" in table else ("suite", "base")
            self.report(self.document.value(*where), f"there is no recipe {path}", "name it relative to this file")
            return None
        recipe = self.recipe(path, options, searched)
        if recipe is None:
            return None
        at = tuple(table["at"]) if "at" in table else None
        space = tuple(of_type(one, recipe) for _, one in searched.values())
        return SuiteEntry(table["name"], path, tuple(options), recipe, at, space)

    def searched(self, index: int, table: Mapping[str, Any], own: Mapping[str, Any], anew: set[str]) -> Space:
        """The dimensions of an entry: its own, and those of the suite whose keys it does not set itself."""
        dimensions = read_space(self, table.get("search", {}), "entry", index, "search")
        if dimensions and not isinstance(self.search, dict):
            help = f"add [suite.search] with {SEARCH['trials'][1]}"
            self.report(self.document.key("entry", index, "search"), "an entry is searched, and the suite is not", help)
        for key, (where, _) in dimensions.items():
            if key in own:
                self.report(self.document.key(*where), f"'{key}' is set and searched", "keep one of them")
        shared = {} if "base" in table else self.space
        kept = {key: one for key, one in shared.items() if key not in own and key.rpartition(".")[0] not in anew}
        return {**kept, **dimensions}

    def recipe(self, path: Path, options: Mapping[str, Where], searched: Space) -> Recipe | None:
        """The recipe with the first end of each dimension, where it is sound with every other end too."""
        firsts = {one.option(one.ends[0]): where for where, one in searched.values()}
        tried = [firsts]
        for where, one in searched.values():
            others = {first: at for first, at in firsts.items() if at != where}
            tried += [{**others, one.option(end): where} for end in one.ends[1:]]
        before, recipes = len(self.problems), list[Recipe]()
        for values in tried:
            try:
                recipes.append(read_recipe(path, [*options, *values]))
            except RecipeProblems as error:
                self.problems += [self.placed(problem, {**options, **values}) for problem in error.problems]
        return recipes[0] if len(self.problems) == before else None

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

    def budgets(self, entries: Mapping[int, SuiteEntry]) -> None:
        """Whether there is something to search, by steps and a seed of its own, and every rung long enough for it."""
        if not isinstance(self.search, dict):
            return
        of_trials = Search(trials=1, seed=self.search["seed"] if SEARCH["seed"][0](self.search.get("seed")) else 0)
        if _is_seeds(self.suite.get("seeds")) and of_trials.train_seed in self.suite["seeds"]:
            message = f"{of_trials.train_seed} is the seed of all trials, by which settings are chosen"
            self.report(self.document.value("suite", "seeds"), message, "write another one: seeds = [0, 1, 2]")
        if entries and not any(entry.space for entry in entries.values()):
            help = "add space.optimizer.learning_rate = { low = 0.001, high = 0.1, log = true }, or leave it away"
            self.report(self.document.key("suite", "search"), "[suite.search] has no space, and no entry has one", help)
        for index, entry in entries.items():
            if entry.space and entry.recipe.train.steps == 0:
                message = f"'{entry.name}' is searched, and it is not trained: its steps are 0"
                self.report(self.document.key("entry", index), message, "leave its search out")
                continue
            if entry.space and entry.recipe.train.steps is None:
                message = f"'{entry.name}' is searched, and trained by epochs, which are unequal steps in each fold"
                help = f"write steps in place of epochs in [train] of {entry.base.name}"
                self.report(self.document.key("entry", index), message, help)
                continue
            rungs = self.search.get("rungs", []) if entry.space and SEARCH["rungs"][0](self.search.get("rungs")) else []
            for at, rung in enumerate(rungs):
                place = self.document.value("suite", "search", "rungs", at)
                full = entry.recipe.train.steps
                steps = round((full or 0) * rung)
                if not steps:
                    self.report(place, f"{show(rung)} of the training of '{entry.name}' is nothing", "raise it")
                    continue
                lost = set(without_effect(entry.recipe, full, None))
                for told in without_effect(entry.recipe, steps, None):
                    if told not in lost:
                        message = f"at {show(rung)} of the training of '{entry.name}': {told}"
                        self.report(place, message, "raise the rung")


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
