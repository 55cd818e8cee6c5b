"""What is resampled: the queries of a class, or of a group or a category, which succeed and fail together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from metriclab.comparison.finished import FinishedRun
from metriclab.comparison.statistics import sum_by_class
from metriclab.errors import StorageError

Unit = Literal["classes", "groups", "categories"]
"""What queries are alike by."""


class Column(NamedTuple):
    """What the scores of a run call the numbers of units, and what one unit is called."""

    column: str
    one: str


UNITS: Mapping[Unit, Column] = {
    "classes": Column("labels", "class"),
    "groups": Column("groups", "group"),
    "categories": Column("categories", "category"),
}


def sum_queries(
    runs: Sequence[FinishedRun], metric: str, by: Unit = "classes"
) -> tuple[Float64[np.ndarray, "r c"], Float64[np.ndarray, "c"]]:
    """The metric of each run summed over the queries of each class that count in all runs, and how many those are.

    With groups or categories in place of classes, a query of an unknown one stands by itself.

    Raises:
        RecipeError: for a metric that is no mean over queries, and groups or categories that a run lacks.
        StorageError: where the queries cannot be read, or are not the same.
    """
    values, labels = zip(*(run.per_query(metric, UNITS[by].column) for run in runs), strict=True)
    for run, own in zip(runs, labels, strict=True):
        if not np.array_equal(own, labels[0]):
            raise StorageError(f"{run.path} and {runs[0].path} hold scores of different queries", help="run one again")
    table = np.stack(values)
    counted = np.isfinite(table).all(0)
    units = labels[0]
    if by != "classes":
        units = np.where(units >= 0, units, units.max() + 1 + np.arange(len(units)))
    return sum_by_class(table[:, counted], units[counted])
