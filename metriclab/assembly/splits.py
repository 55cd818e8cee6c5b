"""The three splits of a data set, and what makes two runs comparable."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from metriclab import distributed
from metriclab.assembly.assemble import classes_of
from metriclab.core.batch import Images
from metriclab.core.protocols import Dataset, Evaluator
from metriclab.core.splits import build_splits
from metriclab.errors import DataError
from metriclab.recipe import ComponentSpec, Recipe
from metriclab.runs.files import digest_of, without_folders

Groups = Int64[np.ndarray, "n"] | None

_COLUMN = {"groups": "group", "categories": "category"}

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
    queries, gallery = sides_of(splits.test, splits.train)
    others = splits.train.fingerprint if gallery is splits.train else "of the test split"
    keys = {
        "data": recipe.components["dataset"].name,
        "test": splits.test.fingerprint,
        "gallery": "leave-one-out" if gallery is queries else others,
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
        return {**name, **without_folders(chosen.params)}
    tables = {one.name for one in chosen.definition.parameters if one.table_of and one.table_of.kind == "dataset"}
    told = {key: _named(value) if key in tables else value for key, value in chosen.params.items()}
    return {**name, **without_folders(told), "fingerprint": fingerprint}


def _named(table: Any) -> Any:
    """A table of a data set, of which the name alone is left."""
    return {"name": table["name"]} if isinstance(table, Mapping) and "name" in table else table


class Side:
    """The images of a split that are looked for, or those that are looked among; an image may be of both.

    Attributes:
        items: their indices in the split, or its own numbers, by which an image knows itself on the other side.
    """

    def __init__(self, data: Dataset, items: Int64[np.ndarray, "n"]) -> None:
        self._data, self._rows = data, items
        own: np.ndarray | None = getattr(data, "items", None)
        self.items = items if own is None else own[items]
        self.labels: np.ndarray = data.labels[items]
        self.classes: Sequence[str] = data.classes
        self.fingerprint: str = data.fingerprint
        self.names: Sequence[str] = [data.names[item] for item in items.tolist()]
        self.groups, self.categories = (of if of is None else of[items] for of in groups_of(data))

    def images(self, items: Int64[np.ndarray, "m"], /) -> Images:
        """The images of these items of this side."""
        return self._data.images(self._rows[items])


def sides_of(data: Dataset, train: Dataset | None = None) -> tuple[Dataset, Dataset]:
    """Queries and gallery of a split: what it says of them itself, else each image against all others of the split.

    Args:
        data: the split that is measured on.
        train: the gallery where it has the classes of the split, and the split does not have one itself.
    """
    is_query: np.ndarray | None = getattr(data, "is_query", None)
    is_gallery: np.ndarray | None = getattr(data, "is_gallery", None)
    if is_query is not None and is_gallery is not None:
        return Side(data, np.flatnonzero(is_query)), Side(data, np.flatnonzero(is_gallery))
    return (data, data) if train is None or is_disjoint(data, train) else (data, train)


def protocol_of(queries: Dataset, gallery: Dataset) -> str:
    """How queries and gallery stand to each other, in words."""
    if isinstance(queries, Side):
        return "test queries against the test gallery"
    return "leave-one-out on the test split" if gallery is queries else "test queries against the training split"


def groups_of(data: Dataset) -> tuple[Groups, Groups]:
    """Groups and categories of a data set that has them."""
    return getattr(data, "groups", None), getattr(data, "categories", None)


def require_columns(method: object, evaluators: Mapping[str, Evaluator], splits: Splits) -> None:
    """Raises a DataError where a component goes by groups or categories that the splits it sees do not have."""
    parts = getattr(getattr(method, "loss", None), "parts", ())
    miners = [getattr(one, "miner", None) for one in (method, *parts)]
    training = {"the method": method, **{f"miner {type(miner).__name__}": miner for miner in miners}}
    measuring = {f"evaluator '{name}'": evaluator for name, evaluator in evaluators.items()}
    measured = {"val": sides_of(splits.val), "test": sides_of(splits.test, splits.train)}
    for who, component in {**training, **measuring}.items():
        seen = {"train": (splits.train,)} if who in training else measured
        for column in getattr(component, "needs", ()):
            for split, data in [(split, side) for split, sides in seen.items() for side in sides]:
                values = getattr(data, column, None)
                if has_labels(data) and (values is None or values.max() < 0):
                    place = "the train split" if data is splits.train else f"the {split} split"
                    raise DataError(
                        f"{who} goes by {column}, and {place} has none",
                        help=f"give the data {column}, as a column {_COLUMN[column]!r} of a table does, or leave that "
                        "setting away",
                    )


def has_labels(data: Dataset) -> bool:
    """Whether there is anything in a split that evaluation can tell right from wrong."""
    return bool((data.labels >= 0).any())


def is_disjoint(queries: Dataset, others: Dataset) -> bool:
    """Whether two splits share no class: the zero-shot protocol. A split without labels shares none."""
    known, seen = (np.unique(data.labels[data.labels >= 0]) for data in (queries, others))
    return not np.isin(known, seen).any()
