"""What every evaluator keeps."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial

import torch

from metriclab.core.promises import check_scores
from metriclab.core.protocols import Evaluator
from metriclab.core.rows import Rows, rows
from metriclab.errors import DivergedError
from metriclab.testing.cases import shuffle
from metriclab.testing.checks import Check, check, running, wanted
from metriclab.testing.evaluation import LABELS, Measure, compare_scores, near, settings, some_near_centres
from metriclab.testing.identity import check_itself, check_unknown
from metriclab.testing.state import assert_stateless


def evaluator_checks(evaluator: Evaluator, *, diverged: bool = True, separate: bool = True) -> list[Check]:
    """Checks an evaluator on small sets of rows: everything that results and their comparison rely on.

    It gives a `Score` a metric: a number, one value a query or none, and a sentence of how it is computed. The order of
    rows does not matter, among rows that tie neither, nor an earlier call, nor how many queries there are; torch's
    generator is left as it was, and so are the rows. Leave-one-out and a gallery of its own both work. No query is its
    own match, in whatever object its row comes. Embeddings that are constant or zero give finite numbers; one that is
    NaN is refused by a DivergedError, or shows. Rows of unknown label are of no class, and queries of such a label, or
    without a match, raise nothing. One with `wants = "encoder"` is given a small `EvaluatedEncoder`.

    Args:
        evaluator: the component, built.
        diverged: whether it looks at all embeddings, so that one that is NaN has to show.
        separate: whether the value of a query depends on that query and the gallery alone.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    name = type(evaluator).__name__
    measure = Measure(name, evaluator)
    checks = [
        check("scores", _check_scores, measure),
        check("arguments unchanged", _check_arguments, measure),
        check("pure function", _check_pure, measure),
        check("row order", _check_order, measure),
        check("constant and zero embeddings", _check_constant, measure),
        check("queries without a match", _check_unmatched, measure),
        check("NaN in sight", _check_broken, measure, option="diverged"),
    ]
    if not measure.wants_encoder:
        checks += [
            check("ties", _check_ties, measure),
            check("no query its own match", check_itself, measure),
            check("unknown labels", check_unknown, measure),
            check("many queries", _check_many, measure, option="separate"),
        ]
    return wanted(checks, diverged=diverged, separate=separate)


check_evaluator = running(evaluator_checks)


_MANY = 1301
"""Queries, no multiple of a size that parts of them may have."""


def _check_scores(measure: Measure) -> None:
    for what, queries, gallery in settings():
        scores = measure(queries, gallery, what)
        assert len(scores) > 0, f"{measure.name} gives no metric with {what}"
        check_scores(measure.name, scores, len(queries))
        finite = [key for key, score in scores.items() if math.isfinite(score.value)]
        assert finite, f"no metric of {measure.name} is finite with {what}, on plain rows"


def _check_arguments(measure: Measure) -> None:
    for what, queries, gallery in settings():
        before = copy.deepcopy((queries, gallery))
        measure(queries, gallery, what)
        for one, other in zip(before, (queries, gallery), strict=True):
            for key in ("z", "labels", "items", "ids", "views"):
                same = torch.equal(getattr(one, key), getattr(other, key))
                assert same, f"{measure.name} writes into the {key} of its rows"


def _check_pure(measure: Measure) -> None:
    what, queries, gallery = settings()[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = measure(queries, gallery, what)
        untouched = torch.equal(state, torch.get_rng_state())
        torch.manual_seed(2)
        measure(*settings()[0][1:], "leave-one-out")
        second = measure(queries, gallery, what)
    compare_scores(
        measure.name, first, second, torch.arange(len(queries)), "in a second call: it must be a pure function"
    )
    assert untouched, f"{measure.name} uses or seeds torch's global generator, which training draws from: fork it"
    again = partial(measure, queries, gallery, what)
    assert_stateless(measure.name, measure.evaluator, again, "it must be a pure function")


def _check_order(measure: Measure) -> None:
    for what, queries, gallery in settings():
        _compare_shuffled(measure, queries, gallery, f"by the order of rows, with {what}: order must not matter")


def _check_ties(measure: Measure) -> None:
    """Rows of a few directions, of which many are equal but for their labels."""
    for what, *sides in settings():
        queries, gallery = (replace(side, z=side.z[torch.arange(len(side)) % 3]) for side in sides)
        other = queries if sides[1] is sides[0] else gallery
        fault = f"by the order of rows that are equally near, with {what}: count each of them in its share"
        _compare_shuffled(measure, queries, other, fault)


def _compare_shuffled(measure: Measure, queries: Rows, gallery: Rows, fault: str) -> None:
    order = shuffle(len(queries))
    shuffled = queries[order]
    other = shuffled if gallery is queries else gallery[shuffle(len(gallery))]
    expected, found = (measure(*sides, "rows in two orders") for sides in ((queries, gallery), (shuffled, other)))
    compare_scores(measure.name, expected, found, order, fault)


def _check_constant(measure: Measure) -> None:
    for what, queries, gallery in settings():
        plain = measure(queries, gallery, what)
        for case, factor, constant in (("constant", 0.0, 1.0), ("zero", 0.0, 0.0)):
            changed = [rows(side.z * factor + constant, side.labels, side.items) for side in (queries, gallery)]
            scores = measure(changed[0], changed[0 if gallery is queries else 1], f"{case} embeddings with {what}")
            for key, score in scores.items():
                bad = key in plain and math.isfinite(plain[key].value) and not math.isfinite(score.value)
                assert not bad, f"'{key}' of {measure.name} is {score.value} on {case} embeddings with {what}"


def _check_unmatched(measure: Measure) -> None:
    some = some_near_centres(0, LABELS)
    unknown = replace(some, labels=torch.full_like(some.labels, -1))
    alone = replace(some, labels=torch.arange(len(some)))
    gallery = some_near_centres(1, [20, 20, 21, 21, 22, 22, -1])
    for what, queries, other in (
        ("queries of unknown label in leave-one-out", unknown, unknown),
        ("queries of unknown label with a gallery", unknown, gallery),
        ("classes of one row each in leave-one-out", alone, alone),
        ("queries whose labels are not in the gallery", some, gallery),
    ):
        check_scores(measure.name, measure(queries, other, what), len(queries), f" on {what}")


def _check_broken(measure: Measure) -> None:
    for what, queries, gallery in settings():
        alone = gallery is queries
        trials = [("query", _with_nan(queries), gallery)]
        if not alone and _heed_gallery(measure, queries, gallery):
            trials.append(("gallery row", queries, _with_nan(gallery)))
        for side, broken, other in trials:
            try:
                scores = measure(broken, broken if alone else other, f"a {side} that is NaN, with {what}")
            except DivergedError:
                continue
            shown = any(
                not math.isfinite(score.value) or bool(score.per_query[2:3].isnan().any()) for score in scores.values()
            )
            assert shown, (
                f"{measure.name} gives plain numbers though a {side} is NaN ({what}): raise a DivergedError, as that "
                "hides divergence"
            )


def _heed_gallery(measure: Measure, queries: Rows, gallery: Rows) -> list[str]:
    """The metrics that are others with another gallery."""
    one, other = (measure(queries, part, "a gallery of its own") for part in (gallery, gallery[: len(gallery) // 2]))
    return [key for key in one if not near(torch.tensor([one[key].value]), torch.tensor([other[key].value]))]


def _with_nan(some: Rows) -> Rows:
    return replace(some, z=some.z.index_fill(0, torch.tensor([2]), torch.nan))


def _check_many(measure: Measure) -> None:
    """So many queries that those who work in parts have several of them, the last one smaller."""
    what, queries, gallery = settings()[1]
    times = torch.arange(_MANY) % len(queries)
    repeated = replace(queries[times], items=torch.arange(_MANY) + 10**6, ids=torch.arange(_MANY) + 10**6)
    few, many = measure(queries, gallery, what), measure(repeated, gallery, f"{_MANY} queries")
    for key in _heed_gallery(measure, queries, gallery):
        one, other = few[key].per_query, many[key].per_query
        assert not len(one) or (len(other) and near(one[times], other)), (
            f"per_query of '{key}' of {measure.name} is another one for a query among {_MANY} than among {len(one)}: "
            "it depends on that query and the gallery alone"
        )
