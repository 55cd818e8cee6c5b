"""Suite files: entries that change one base recipe, each to be run with several seeds.

[suite]
base = "../simclr.toml"             relative to the suite
seeds = [0, 1, 2]

[[entry]]
name = "cooler"
set.loss.temperature = 0.05         what --set loss.temperature=0.05 does
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metriclab.comparison.check_suite import SuiteChecker
from metriclab.comparison.queries import Unit
from metriclab.comparison.space import Search
from metriclab.comparison.suite_entry import SuiteEntry
from metriclab.recipe import RecipeProblems
from metriclab.recipe.document import read_tables


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite without a mistake; see `compare` for `metric`, `also`, `reference`, `resample`."""

    path: Path
    entries: tuple[SuiteEntry, ...]
    seeds: tuple[int, ...]
    metric: str = "retrieval.map_at_r"
    also: tuple[str, ...] | None = None
    reference: str | None = None
    search: Search | None = None
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
    checker.budgets(entries)
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
        search=_search(suite["search"]) if "search" in suite else None,
        resample=suite.get("resample", "classes"),
    )


def _search(table: Mapping[str, Any]) -> Search:
    given = {key: value for key, value in table.items() if key != "space"}
    return Search(**{**given, "rungs": tuple(given.get("rungs", ()))})
