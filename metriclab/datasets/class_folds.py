"""Cross-validation by classes: the training split of another data set, without some classes, which are measured."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Int64

from metriclab.core.batch import Images
from metriclab.core.protocols import Dataset, Split
from metriclab.core.splits import has_features
from metriclab.datasets.splits import require_split, shares
from metriclab.errors import DataError, RecipeError
from metriclab.registry import TableOf, build, register

_LEAST = 2  # classes of a fold: one class alone is found by anything


@register("dataset", "class-folds")
class ClassFolds:
    """The training split of another data set in folds of its classes: one fold is measured, the others are trained on.

    Its own val and test splits are never opened, so settings that are chosen by folds have not seen them. A class falls
    into its fold by a hash of its name, so that folds are of equal size and do not depend on the order of anything.
    Images of unknown class are trained on in every fold. There is no val split: the last step is measured.

    Args:
        split: train are the other folds, test is the fold; val is empty.
        data: the other data set, as a [data] table would have it: {name = "fabrics"}.
        folds: how many.
        fold: which one is measured, from 0.

    Raises:
        RecipeError: for a fold that is not there.
        DataError: where there are fewer than two classes a fold.

    Example:
        >>> data = ClassFolds("test", data={"name": "synthetic", "classes": 8}, folds=4, fold=1)
        >>> len(np.unique(data.labels))
        2
    """

    def __init__(
        self,
        split: Split,
        /,
        *,
        data: Annotated[dict[str, object], TableOf("dataset")],
        folds: Annotated[int, Ge(2)] = 4,
        fold: Annotated[int, Ge(0)] = 0,
    ) -> None:
        require_split(split)
        if fold >= folds:
            raise RecipeError(f"there is no fold {fold} of {folds}", help=f"they are 0 to {folds - 1}")
        rest = {key: value for key, value in data.items() if key != "name"}
        self._base: Dataset = partial(build, "dataset", str(data.get("name")), **rest)("train")
        self._held = _members(self._base, folds, fold)
        self._origin = f"fold {fold} of {folds}"
        self.classes: Sequence[str] = self._base.classes
        self.has_features = has_features(self._base)
        self.files = getattr(self._base, "files", None)
        self.notes: Sequence[str] = getattr(self._base, "notes", ())
        self._choose(split)

    def with_split(self, split: Split, /) -> ClassFolds:
        """Another split of the same fold."""
        other = copy.copy(self)
        other._choose(split)
        return other

    def _choose(self, split: Split) -> None:
        held = np.isin(self._base.labels, self._held)
        mine = {"train": ~held, "test": held, "val": np.zeros_like(held)}[split]
        self._items = np.flatnonzero(mine)
        self.labels: np.ndarray = self._base.labels[self._items]
        names = self._base.names
        self.names: Sequence[str] = [names[item] for item in self._items.tolist()]
        self.items, self.groups, self.categories, self.is_query, self.is_gallery = (
            None if (of := getattr(self._base, key, None)) is None else of[self._items]
            for key in ("items", "groups", "categories", "is_query", "is_gallery")
        )
        content = f"{self._base.fingerprint} {self._origin} {split}"
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def images(self, items: Int64[np.ndarray, "m"], /) -> Images:
        """The images of these items."""
        return self._base.images(self._items[items])


def _members(data: Dataset, folds: int, fold: int) -> Int64[np.ndarray, "c"]:
    """The labels of a fold: every so manyth class in the order of the hashes of their names."""
    labels = np.unique(data.labels[data.labels >= 0])
    if len(labels) < _LEAST * folds:
        raise DataError(
            f"{len(labels)} classes to train on are too few for {folds} folds of at least {_LEAST}",
            help=f"take at most {len(labels) // _LEAST} folds, or data of more classes",
        )
    names = [data.classes[label] for label in labels.tolist()]
    order = np.lexsort((np.asarray(names), shares(names)))
    return np.asarray(labels[np.sort(order[fold::folds])])
