"""Whether runs may be ranked at all: measured alike, one run a seed, the same queries."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from metriclab.comparison.finished import FinishedRun, flatten
from metriclab.comparison.statistics import sum_by_class
from metriclab.errors import MetriclabError, RecipeError, StorageError
from metriclab.recipe.problems import show
from metriclab.registry import REQUIRED, load_component, suggest


def require_metric(run: FinishedRun, metric: str) -> None:
    """Checks that a run has a value of the metric.

    Raises:
        RecipeError: naming the run, and why it has none.
    """
    if metric in run.metrics:
        return
    evaluator, _, name = metric.partition(".")
    if name not in run.result["metrics"].get(evaluator, {}):
        near = suggest(metric, list(run.metrics)) or f"it has {', '.join(run.metrics) or 'none'}"
        raise RecipeError(f"{run.path} has no metric {metric}", help=near)
    reason = "its test split has no image of known class"
    if without := run.metrics.get(f"{evaluator}.queries_without_matches"):
        reason = f"none of its {without:,.0f} test queries of known class has another image of its class to find"
    raise RecipeError(
        f"{run.path} has no value of {metric}: {reason} (of {run.result['items'].get('test', 0):,} images)",
        help=f"see `metriclab check {shlex.quote(str(run.path / 'recipe.toml'))} --data`, and run it again",
    )


def require_one_run_a_seed(name: str, runs: Sequence[FinishedRun]) -> None:
    """Checks that no two runs of an entry have one seed.

    Raises:
        RecipeError: naming both.
    """
    by_seed: dict[int, FinishedRun] = {}
    for run in runs:
        if (other := by_seed.setdefault(run.seed, run)) is not run:
            raise RecipeError(
                f"{other.path} and {run.path} are runs of one recipe ({name}) with one seed, {run.seed}",
                help="name one of them: the same run twice would make the interval over seeds too narrow",
            )


def require_one_benchmark(runs: Sequence[FinishedRun], metric: str) -> None:
    """Checks that runs were measured alike, and all have the metric.

    Raises:
        RecipeError: naming two runs, the key in which their benchmarks differ, and both values; or the run that lacks
            the metric.
    """
    for run in runs:
        require_metric(run, metric)
    first, benchmark = runs[0], _benchmark(runs[0], metric)
    for run in runs[1:]:
        other = _benchmark(run, metric)
        for key in dict.fromkeys([*benchmark, *other]):
            one, two = benchmark.get(key), other.get(key)
            if one != two and not (None in (one, two) and _has_default(first, key, one if two is None else two)):
                raise RecipeError(
                    f"{first.path} and {run.path} are measured by different benchmarks and cannot be ranked: {key} is "
                    f"{_show(one)} in the first and {_show(two)} in the second",
                    help="compare runs that are tested on the same data by the same [[evaluate]] tables",
                )


def _benchmark(run: FinishedRun, metric: str) -> dict[str, Any]:
    evaluator, _, name = metric.partition(".")
    definition = run.result["definitions"].get(evaluator, {}).get(name)
    # By its version, where it has one: the words may have become better since.
    version = re.search(r"\(([\w-]+/\d+)\)", definition or "")
    keys = {key: value for key, value in run.result["fingerprint"].items() if key != "digest"}
    return {**dict(flatten(keys)), f"the definition of {metric}": version[1] if version else definition}


def _has_default(run: FinishedRun, key: str, value: Any) -> bool:
    """Whether this is the default of an evaluator's parameter, which a version before it had no need to name."""
    table, label, name = [*key.split("."), "", ""][:3]
    evaluator = run.result["fingerprint"]["evaluate"].get(label)
    if table != "evaluate" or evaluator is None:
        return False
    try:
        parameters = load_component("evaluator", str(evaluator.get("name", label))).parameters
    except MetriclabError:
        return False
    defaults = [one.default for one in parameters if one.name == name and one.default is not REQUIRED]
    return bool([value] == json.loads(json.dumps(defaults)))  # as they come back from a file


def _show(value: Any) -> str:
    return "not there" if value is None else show(value)


def sum_queries(
    runs: Sequence[FinishedRun], metric: str
) -> tuple[Float64[np.ndarray, "r c"], Float64[np.ndarray, "c"]]:
    """The metric of each run summed over the queries of each class that count in all runs, and how many those are.

    Raises:
        RecipeError: for a metric that is no mean over queries.
        StorageError: where the queries cannot be read, or are not the same.
    """
    values, labels = zip(*(run.per_query(metric) for run in runs), strict=True)
    for run, own in zip(runs, labels, strict=True):
        if not np.array_equal(own, labels[0]):
            raise StorageError(f"{run.path} and {runs[0].path} hold scores of different queries", help="run one again")
    table = np.stack(values)
    counted = np.isfinite(table).all(0)
    return sum_by_class(table[:, counted], labels[0][counted])
