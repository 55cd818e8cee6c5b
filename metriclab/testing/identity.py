"""Whether an evaluator knows a query from its own row, and rows of unknown label from a class."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from metriclab.core.protocols import Score
from metriclab.core.rows import Rows, concatenate, rows
from metriclab.testing.cases import shuffle
from metriclab.testing.evaluation import Measure, compare_scores, near, settings


def check_itself(measure: Measure) -> None:
    """Asserts that no query is its own match: alone, in a copy of the queries, and in a gallery that they lie in.

    A metric that finds queries themselves is one that gives each of them what it gives for a stranger who looks just
    like it, where that stranger makes a difference at all.
    """
    alone, others = _scattered(0, 8), _scattered(1, 5)
    among, copied = concatenate([alone, others]), copy.deepcopy(alone)[shuffle(8)]
    cases = {"leave-one-out": alone, "a copy of the queries for gallery": copied, "a gallery they lie in": among}
    found = {what: measure(alone, gallery, what) for what, gallery in cases.items()}
    for galleries in (list(cases)[:2], list(cases)[2:]):
        # Under other items and ids the rows of the gallery are strangers.
        gallery = cases[galleries[0]]
        strangers = replace(gallery, items=gallery.items + 10**6, ids=gallery.ids + 10**6)
        doubled, without = [], []
        for place in range(_TRIED):
            query, rest = alone[place : place + 1], (torch.arange(len(strangers)) != place).nonzero()[:, 0]
            doubled.append(measure(query, strangers, "one query"))
            without.append(measure(query, strangers[rest], "one query"))
        for what, key in itertools.product(galleries, found[galleries[0]]):
            score, values = found[what][key], [_values(each, key) for each in (doubled, without)]
            ours = score.per_query[:_TRIED] if len(score.per_query) else torch.full((_TRIED,), score.value)
            assert not near(ours, values[0]) or near(*values), (
                f"'{key}' of {measure.name} counts a query as its own match with {what}: leave out gallery rows whose "
                "item is the query's"
            )
    one, other = list(found.values())[:2]
    fault = "where the gallery is a copy of the queries: a row of the query's item is no candidate, whatever holds it"
    compare_scores(measure.name, one, other, torch.arange(len(alone)), fault)


_TRIED = 3
"""Queries that are measured alone."""


def _scattered(seed: int, count: int) -> Rows:
    """Rows whose neighbours are of any class."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(count) + 100 * seed
    return rows(torch.randn(count, 6, generator=generator), place % 4, place, place)


def _values(single: list[Mapping[str, Score]], key: str) -> Tensor:
    return torch.tensor([float(one[key].per_query[0] if len(one[key].per_query) else one[key].value) for one in single])


def check_unknown(measure: Measure) -> None:
    """Asserts that rows of unknown label are of no class: no two are alike, and no such query counts."""
    for what, queries, gallery in settings():
        alone = gallery is queries
        unknown = (queries.labels < 0).nonzero()[:, 0]
        apart = [replace(side, labels=_apart(side.labels)) for side in (queries, gallery)]
        expected = measure(queries, gallery, what)
        found = measure(apart[0], apart[0 if alone else 1], what)
        fault = (
            f"by whether unknown labels are one negative number or several, with {what}: rows of negative label are of "
            "no class, and never alike"
        )
        compare_scores(measure.name, expected, found, torch.arange(len(queries)), fault)
        moved = [replace(side, labels=side.labels[shuffle(len(side))]) for side in (queries, gallery)]
        other = measure(moved[0], moved[0 if alone else 1], what)
        none = replace(queries, labels=torch.full_like(queries.labels, -1))
        nobody = measure(none, none if alone else gallery, "queries of unknown label")
        for key, score in expected.items():
            if near(torch.tensor([score.value]), torch.tensor([other[key].value])):
                continue  # labels do not matter to it
            each = score.per_query[unknown] if len(score.per_query) else torch.empty(0)
            counted = bool(each.isfinite().any()) or math.isfinite(nobody[key].value)
            assert not counted, (
                f"'{key}' of {measure.name} counts queries of unknown label with {what}: they are left out, and NaN in "
                "per_query"
            )


def _apart(labels: Tensor) -> Tensor:
    """The same labels, each unknown one another negative number."""
    return torch.where(labels < 0, -1 - torch.arange(len(labels)), labels)
