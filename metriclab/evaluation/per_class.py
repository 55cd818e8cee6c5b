"""Which classes an embedding is good at, and which it takes for each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.evaluators.retrieval import Retrieval
from metriclab.ranking.keys import EXCLUDED
from metriclab.ranking.neighbours import nearest_rows

METRICS = ("r_at_1", "map_at_r")
"""Of retrieval, averaged by class."""


class ClassScores(NamedTuple):
    """How well the queries of one class find each other.

    Attributes:
        label: of the class.
        queries: of the class that have a match, which are all that count.
        r_at_1, map_at_r: averaged over them; NaN where there are none.
    """

    label: int
    queries: int
    r_at_1: float
    map_at_r: float


class ConfusedPair(NamedTuple):
    """Two classes that are taken for each other.

    Attributes:
        labels: of both, the smaller first.
        wrong: number of queries of either whose nearest row is of the other; of rows equally near each has its share.
        queries: of both classes, as in `ClassScores`.
    """

    labels: tuple[int, int]
    wrong: float
    queries: int


class PerClass(NamedTuple):
    """Classes of the queries, the worst by MAP@R first, and pairs of classes, the most confused first."""

    classes: list[ClassScores]
    confused: list[ConfusedPair]


@torch.no_grad()
def per_class(queries: Rows, gallery: Rows, scores: Mapping[str, Score] | None = None) -> PerClass:
    """Retrieval by class, over the queries and by the rules of the evaluator `retrieval`.

    Args:
        queries: rows to look for.
        gallery: rows to look among; those of a query's own item are left out.
        scores: of `retrieval` on the same rows, where there are some already.

    Raises:
        DivergedError: where an embedding is not finite.
    """
    if scores is None or any(name not in scores for name in METRICS):
        scores = Retrieval(k=(1,), whole_ranking=False)(queries, gallery)
    labels = queries.labels.cpu().numpy()
    values = {name: scores[name].per_query.cpu().numpy() for name in METRICS}
    counted = ~np.isnan(values["map_at_r"])
    known = np.unique(labels[labels >= 0])
    place = np.searchsorted(known, labels[counted])
    sizes = np.bincount(place, minlength=len(known))
    with np.errstate(invalid="ignore"):  # a class without a query that counts has no mean
        means = [np.bincount(place, values[name][counted], len(known)) / sizes for name in METRICS]
    columns = [values.tolist() for values in (known, sizes, *means)]
    classes = [ClassScores(*of) for of in zip(*columns, strict=True)]
    classes.sort(key=lambda one: (one.queries == 0, one.map_at_r, one.r_at_1))
    return PerClass(classes, _confused(queries, gallery, counted, {one.label: one.queries for one in classes}))


def _confused(
    queries: Rows, gallery: Rows, counted: Bool[np.ndarray, "q"], sizes: Mapping[int, int]
) -> list[ConfusedPair]:
    chosen = torch.from_numpy(counted.nonzero()[0]).to(queries.labels.device)
    parts = list(_wrong(queries, gallery, chosen))
    if not parts:
        return []
    pairs, shares = (np.concatenate(side) for side in zip(*parts, strict=True))
    kinds, kind = np.unique(pairs, axis=0, return_inverse=True)
    wrong = np.bincount(kind.reshape(-1), shares, len(kinds))
    order = np.argsort(-wrong, kind="stable")
    return [
        ConfusedPair((one, two), float(wrong[at]), sizes.get(one, 0) + sizes.get(two, 0))
        for at, (one, two) in zip(order.tolist(), kinds[order].tolist(), strict=True)
    ]


def _wrong(
    queries: Rows, gallery: Rows, chosen: Int64[Tensor, "c"]
) -> Iterator[tuple[Int64[np.ndarray, "w 2"], Float64[np.ndarray, "w"]]]:
    """Own and other class of queries whose nearest row is of another class, the smaller first, and their shares."""
    for indices, columns, keys in nearest_rows(queries, gallery, chosen, 1, torch.ones_like(gallery.labels).bool()):
        nearest = (keys == keys.amin(1, keepdim=True)) & (keys != EXCLUDED)
        own, other = queries.labels[indices, None].expand_as(columns), gallery.labels[columns]
        share = nearest / nearest.sum(1, keepdim=True).double()
        wrong = nearest & (other != own) & (other >= 0)
        pairs = torch.stack([own[wrong], other[wrong]], 1).sort(1).values
        yield pairs.cpu().numpy(), share[wrong].cpu().numpy()
