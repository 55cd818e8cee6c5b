"""The three splits of a data set, and what makes two runs comparable."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metriclab import distributed
from metriclab.assembly.assemble import classes_of
from metriclab.core.protocols import Dataset, Evaluator
from metriclab.core.splits import build_splits
from metriclab.recipe import ComponentSpec, Recipe
from metriclab.runs.files import digest_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Splits:
    """The three splits of a data set."""

    train: Dataset
    val: Dataset
    test: Dataset

    def fingerprints(self) -> dict[str, str]:
        return {name: getattr(self, name).fingerprint for name in ("train", "val", "test")}

    def sizes(self) -> str:
        """How many images and classes each has, in words."""
        splits = [(name, getattr(self, name)) for name in ("train", "val", "test")]
        total = sum(len(data.labels) for _, data in splits)
        return ", ".join(
            f"{name}: {len(data.labels):,} images ({len(data.labels) / total:.0%}) of "
            f"{len(np.unique(data.labels[data.labels >= 0])):,} classes"
            for name, data in splits
        )

    def classes(self) -> list[int]:
        labels: list[int] = classes_of(self.train.labels).tolist()
        return labels


def load_splits(recipe: Recipe) -> Splits:
    """The recipe's data set."""
    chosen = recipe.components["dataset"]
    splits = Splits(*build_splits(chosen.build, ("train", "val", "test")))
    for split, data in (("val", splits.val), ("test", splits.test)):
        chosen.definition.held(data, split)
    if distributed.rank() == 0:
        _log.info("%s", splits.sizes())
    return splits


def benchmark(recipe: Recipe, splits: Splits, evaluators: Mapping[str, Evaluator]) -> dict[str, Any]:
    """What two runs must share to be compared: the test data, how they are seen, and what is measured."""
    disjoint = is_disjoint(splits.test, splits.train)
    keys = {
        "data": recipe.components["dataset"].name,
        "test": splits.test.fingerprint,
        "gallery": "leave-one-out" if disjoint else splits.train.fingerprint,
        "evaluate": {chosen.label: _measured(chosen, evaluators[chosen.label]) for chosen in recipe.evaluators},
    }
    return {**keys, "digest": digest_of(keys)}


def _measured(chosen: ComponentSpec, evaluator: Evaluator) -> dict[str, Any]:
    """What an evaluator measures: its parameters, its name where it is called otherwise, the data it brings.

    Those are told by their name and their fingerprint: where they lie is this machine's, and no part of a benchmark.
    """
    name = {} if chosen.label == chosen.name else {"name": chosen.name}
    wants = getattr(evaluator, "wants", "rows")
    fingerprint = None if wants == "rows" else getattr(evaluator, "fingerprint", None)
    if fingerprint is None:
        return {**name, **chosen.params}
    tables = {one.name for one in chosen.definition.parameters if one.table_of and one.table_of.kind == "dataset"}
    told = {key: _named(value) if key in tables else value for key, value in chosen.params.items()}
    return {**name, **told, "fingerprint": fingerprint}


def _named(table: Any) -> Any:
    """A table of a data set, of which the name alone is left."""
    return {"name": table["name"]} if isinstance(table, Mapping) and "name" in table else table


def has_labels(data: Dataset) -> bool:
    """Whether there is anything in a split that evaluation can tell right from wrong."""
    return bool((data.labels >= 0).any())


def is_disjoint(queries: Dataset, others: Dataset) -> bool:
    """Whether two splits share no class: the zero-shot protocol. A split without labels shares none."""
    known, seen = (np.unique(data.labels[data.labels >= 0]) for data in (queries, others))
    return not np.isin(known, seen).any()
