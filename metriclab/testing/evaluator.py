"""What every evaluator keeps."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metriclab.core.protocols import Change, Dataset, Evaluator, Score
from metriclab.core.rows import Rows, rows
from metriclab.errors import DivergedError
from metriclab.testing.cases import shuffle
from metriclab.testing.checks import Check, check, run_all

CLOSE = 1e-6
"""Largest difference of values that must be equal but for rounding, beside the largest value or 1."""

_SIDE = 8
"""Height and width of the images of the kit's subject."""


def check_evaluator(evaluator: Evaluator, *, diverged: bool = True) -> None:
    """Checks an evaluator on small sets of rows: everything that results and their comparison rely on.

    It gives a `Score` a metric: a number, one value a query or none, and a sentence of how it is computed. The order of
    rows does not matter, nor an earlier call; torch's generator is left as it was, and so are the rows. Leave-one-out
    and a gallery of its own both work, and in leave-one-out no query is its own match. Embeddings that are constant or
    zero give finite numbers; one that is NaN is refused by a DivergedError, or shows. Queries of unknown label, or
    without a match, raise nothing. One with `wants = "encoder"` is given a small `EvaluatedEncoder`.

    Args:
        evaluator: the component, built.
        diverged: whether it looks at all embeddings, so that one that is NaN has to show.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    run_all(evaluator_checks(evaluator, diverged=diverged))


def evaluator_checks(evaluator: Evaluator, *, diverged: bool = True) -> list[Check]:
    """What `check_evaluator` runs, one by one."""
    name = type(evaluator).__name__
    measure = _Measure(name, evaluator)
    checks = [
        check("scores", _check_scores, measure),
        check("arguments unchanged", _check_arguments, measure),
        check("pure function", _check_pure, measure),
        check("row order", _check_order, measure),
        check("constant and zero embeddings", _check_constant, measure),
        check("queries without a match", _check_unmatched, measure),
    ]
    if diverged:
        checks.append(check("NaN in sight", _check_broken, measure))
    if not measure.wants_encoder:
        checks.append(check("no query its own match", _check_itself, measure))
    return checks


@dataclass(frozen=True, slots=True)
class _Measure:
    """The evaluator, called as a run calls it."""

    name: str
    evaluator: Any

    @property
    def wants_encoder(self) -> bool:
        return getattr(self.evaluator, "wants", "rows") == "encoder"

    def __call__(self, queries: Rows, gallery: Rows, what: str) -> Mapping[str, Score]:
        try:
            if self.wants_encoder:
                return self.evaluator(_Subject(queries, gallery))  # type: ignore[no-any-return]
            return self.evaluator(queries, gallery)  # type: ignore[no-any-return]
        except DivergedError:
            raise
        except Exception as error:
            raise AssertionError(f"{self.name} raises on {what}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Subject:
    """A linear encoder of tiny images, with its queries and gallery."""

    queries: Rows
    gallery: Rows

    def embed_changed(self, change: Change, chosen: Tensor, /) -> Rows:
        part = self.queries[chosen]
        images = torch.stack([_picture(item) for item in part.items.tolist()])
        moved = (change(images.clone(), part.items) - images).flatten(1) @ _projection(self.queries.embedding_dim)
        return rows(part.z + moved, part.labels, part.items)

    def embed_other(self, test: Dataset, train: Dataset, /) -> tuple[Rows, Rows]:
        sides = [self._embedded(test), self._embedded(train)]
        shared = set(test.labels.tolist()) & set(train.labels.tolist())
        return (sides[0], sides[1]) if shared else (sides[0], sides[0])

    def _embedded(self, data: Dataset) -> Rows:
        labels = torch.from_numpy(data.labels)
        items = torch.arange(len(labels))
        pixels = data.images(items.numpy()).pixels.float() / 255
        means = torch.nn.functional.adaptive_avg_pool2d(pixels, _SIDE).mean(1, keepdim=True).expand(-1, 3, -1, -1)
        z = (means - 0.5).flatten(1) @ _projection(self.queries.embedding_dim)
        # An encoder that has diverged has diverged for every image.
        return rows(z + self.queries.z.sum() * 0, labels, items)


def _picture(item: int) -> Tensor:
    return torch.rand(3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(item))


def _projection(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3 * _SIDE * _SIDE, width, generator=generator) / 10


def _some(seed: int, labels: list[int], width: int = 6) -> Rows:
    """Rows near the centre of their class, items of their own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(8, width, generator=torch.Generator().manual_seed(99))
    known = torch.tensor(labels)
    z = centres[known.clamp(min=0) % 8] + 0.8 * torch.randn(len(labels), width, generator=generator)
    return rows(z, known, torch.arange(len(labels)) + 1000 * seed)


_LABELS = [0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 0, 1, 2, 3, -1, -1, 4]
"""Four classes of some rows, two rows of unknown label, a class of one row."""


def _settings() -> list[tuple[str, Rows, Rows]]:
    alone, gallery = _some(0, _LABELS), _some(1, [*_LABELS[:-1], 5, 0, 1])
    return [("leave-one-out", alone, alone), ("a gallery of its own", alone, gallery)]


def _check_scores(measure: _Measure) -> None:
    for what, queries, gallery in _settings():
        scores = measure(queries, gallery, what)
        assert len(scores) > 0, f"{measure.name} gives no metric with {what}"
        for key, score in scores.items():
            _check_score(f"'{key}' of {measure.name}", score, len(queries))
        finite = [key for key, score in scores.items() if math.isfinite(score.value)]
        assert finite, f"no metric of {measure.name} is finite with {what}, on plain rows"


def _check_score(what: str, score: Any, queries: int) -> None:
    assert isinstance(score, Score), f"{what} is a {type(score).__name__}, not a Score"
    assert isinstance(score.value, float), f"the value of {what} is a {type(score.value).__name__}, expected a float"
    values = score.per_query
    right = values.dim() == 1 and len(values) in (0, queries)
    assert right, f"{what} has per_query of shape {tuple(values.shape)} for {queries} queries: one value each, or none"
    assert not values.requires_grad, f"per_query of {what} carries a graph: measure under no_grad"
    assert score.definition.strip(), (
        f"{what} has no definition: say in a sentence how it is computed, with k, the self-match rule, ties and "
        "queries without matches, as runs are only compared where definitions are equal"
    )


def _check_arguments(measure: _Measure) -> None:
    for what, queries, gallery in _settings():
        before = copy.deepcopy((queries, gallery))
        measure(queries, gallery, what)
        for one, other in zip(before, (queries, gallery), strict=True):
            for key in ("z", "labels", "items", "ids", "views"):
                same = torch.equal(getattr(one, key), getattr(other, key))
                assert same, f"{measure.name} writes into the {key} of its rows"


def _check_pure(measure: _Measure) -> None:
    what, queries, gallery = _settings()[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = measure(queries, gallery, what)
        untouched = torch.equal(state, torch.get_rng_state())
        torch.manual_seed(2)
        measure(*_settings()[0][1:], "leave-one-out")
        second = measure(queries, gallery, what)
    _compare(measure.name, first, second, torch.arange(len(queries)), "in a second call: it must be a pure function")
    assert untouched, f"{measure.name} uses or seeds torch's global generator, which training draws from: fork it"


def _check_order(measure: _Measure) -> None:
    for what, queries, gallery in _settings():
        order = shuffle(len(queries))
        shuffled = queries[order]
        other = shuffled if gallery is queries else gallery[shuffle(len(gallery))]
        expected, found = measure(queries, gallery, what), measure(shuffled, other, what)
        _compare(measure.name, expected, found, order, f"by the order of rows, with {what}: order must not matter")


def _compare(name: str, expected: Mapping[str, Score], found: Mapping[str, Score], order: Tensor, fault: str) -> None:
    assert expected.keys() == found.keys(), f"{name} gives other metrics {fault}"
    for key, one in expected.items():
        other = found[key]
        values = [one.value, other.value]
        assert _near(torch.tensor(values[:1]), torch.tensor(values[1:])), (
            f"'{key}' of {name} is {values[0]} or {values[1]} {fault}"
        )
        if len(one.per_query):
            assert _near(one.per_query[order], other.per_query), (
                f"per_query of '{key}' of {name} is another one {fault}"
            )


def _near(one: Tensor, other: Tensor) -> bool:
    scale = max(1.0, float(other.nan_to_num(0, 0, 0).abs().max()) if len(other) else 1.0)
    return torch.allclose(one.double(), other.double(), rtol=0, atol=CLOSE * scale, equal_nan=True)


def _check_constant(measure: _Measure) -> None:
    for what, queries, gallery in _settings():
        plain = measure(queries, gallery, what)
        for case, factor, constant in (("constant", 0.0, 1.0), ("zero", 0.0, 0.0)):
            changed = [rows(side.z * factor + constant, side.labels, side.items) for side in (queries, gallery)]
            scores = measure(changed[0], changed[0 if gallery is queries else 1], f"{case} embeddings with {what}")
            for key, score in scores.items():
                bad = key in plain and math.isfinite(plain[key].value) and not math.isfinite(score.value)
                assert not bad, f"'{key}' of {measure.name} is {score.value} on {case} embeddings with {what}"


def _check_unmatched(measure: _Measure) -> None:
    some = _some(0, _LABELS)
    unknown = replace(some, labels=torch.full_like(some.labels, -1))
    alone = replace(some, labels=torch.arange(len(some)))
    gallery = _some(1, [20, 20, 21, 21, 22, 22, -1])
    for what, queries, other in (
        ("queries of unknown label in leave-one-out", unknown, unknown),
        ("queries of unknown label with a gallery", unknown, gallery),
        ("classes of one row each in leave-one-out", alone, alone),
        ("queries whose labels are not in the gallery", some, gallery),
    ):
        for key, score in measure(queries, other, what).items():
            _check_score(f"'{key}' of {measure.name} on {what}", score, len(queries))


def _check_broken(measure: _Measure) -> None:
    for what, queries, gallery in _settings():
        z = queries.z.clone()
        z[2] = torch.nan
        broken = replace(queries, z=z)
        try:
            scores = measure(broken, broken if gallery is queries else gallery, f"an embedding that is NaN, {what}")
        except DivergedError:
            continue
        shown = any(
            not math.isfinite(score.value) or bool(score.per_query[2:3].isnan().any()) for score in scores.values()
        )
        assert shown, (
            f"{measure.name} gives plain numbers though an embedding is NaN ({what}): raise a DivergedError, as that "
            "hides divergence"
        )


def _check_itself(measure: _Measure) -> None:
    some = _some(0, _LABELS)
    away = measure(some, _some(1, [20, 20, 21, 21, 22, 22]), "queries whose labels are not in the gallery")
    alone = replace(some, labels=torch.arange(len(some)))
    near = measure(alone, alone, "classes of one row each in leave-one-out")
    for key in away.keys() & near.keys():
        left_out = len(away[key].per_query) > 0 and bool(away[key].per_query.isnan().all())
        counted = near[key].per_query.isfinite().any() if left_out else torch.tensor(False)
        assert not counted, (
            f"'{key}' of {measure.name} counts a query as its own match: it has a value for queries that are alone of "
            "their class; leave out gallery rows whose item is the query's"
        )
