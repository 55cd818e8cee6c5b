"""The result of a run: the trained encoder on the test split, beside its baselines, with costs and definitions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from metriclab.assembly.assemble import Training, classes_of
from metriclab.assembly.splits import Splits, protocol_of, sides_of
from metriclab.core.protocols import Evaluator
from metriclab.core.rows import Rows
from metriclab.evaluation.baselines import Projected, baselines
from metriclab.evaluation.efficiency import Peaks, Stopwatch, cost_of, flops_per_image, images_seen, measured_beside
from metriclab.evaluation.embed import (
    EmbeddedSplits,
    Encode,
    Output,
    embedding_settings,
    evaluating,
)
from metriclab.evaluation.evaluate import (
    TestProtocol,
    run_evaluators,
    score_definitions,
    score_values,
    scores_by_class,
    scores_by_query,
)
from metriclab.evaluation.shortfall import BELOW_FROZEN, shortfall
from metriclab.recipe import Recipe

T = TypeVar("T")

Pausing = Generator[None, None, T]
"""Work that pauses between its parts, where whoever runs it may stop it."""


def final_result(
    recipe: Recipe,
    training: Training,
    splits: Splits,
    evaluators: Mapping[str, Evaluator],
    *,
    benchmark: Mapping[str, Any],
    best_step: int,
    seconds: float,
    warned: list[str],
) -> Pausing[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Reads the test split, once, and gives the content of result.json and the scores of every query.

    The peak memory in it is that of training. What is measured beside the run can be missing: `missing` says why.
    """
    missing: dict[str, str] = {}
    peaks = measured_beside(missing, "cost.peak_memory_mb", lambda: Peaks(training.device))
    output: Output = training.settings.output
    sides = sides_of(splits.test, splits.train)
    protocol = TestProtocol(evaluators, *sides, embedding_settings(training), output)
    with evaluating(training.method) as encode:
        flops = measured_beside(missing, "cost.flops_per_image", lambda: flops_per_image(encode, training))
        with Stopwatch(training.device) as watch:
            embedded = protocol.embed(encode)
        yield
        scores = protocol.scores(encode, embedded)
    yield
    h, z = embedded.queries
    metrics = score_values(scores)
    if z.z.shape != h.z.shape or not torch.equal(z.z, h.z):
        other: Output = "z" if output == "h" else "h"
        of_other = run_evaluators(evaluators, *embedded.rows(other))
        metrics |= {f"{name}-{other}": part for name, part in score_values(of_other).items()}
    queries: Rows = getattr(embedded.queries, output)
    builders = baselines(recipe, training, queries.embedding_dim, z.embedding_dim)
    if not training.settings.baselines:
        builders = iter(())
    of_baselines = yield from _of_baselines(protocol, missing, builders)
    images = len(queries) + (0 if sides[0] is sides[1] else len(embedded.gallery.h))
    below = shortfall({"metrics": metrics, "baselines": of_baselines}, recipe.train.select)
    result = {
        "metrics": metrics,
        "baselines": of_baselines,
        "definitions": score_definitions(scores),
        "protocol": protocol_of(*sides),
        "fingerprint": benchmark,
        "steps": training.steps,
        "best_step": best_step,
        "select": recipe.train.select,
        "output": output,
        "images_seen": images_seen(training),
        "items": {name: len(getattr(splits, name).labels) for name in ("train", "val", "test")},
        "warnings": [*warned, *([BELOW_FROZEN] if below else [])],
        "missing": missing,
        "cost": cost_of(training, seconds, peaks, flops, images / watch.seconds if watch.seconds > 0 else None),
    }
    by_class = scores_by_class(scores, classes_of(splits.test.labels))
    columns = {name: getattr(queries, name) for name in ("labels", "items", "groups", "categories")}
    identity = {name: values.cpu() for name, values in columns.items() if values is not None}
    return result, {**scores_by_query(scores, len(queries)), **by_class, **identity}


def _of_baselines(
    protocol: TestProtocol, missing: dict[str, str], builders: Iterator[tuple[str, Callable[[], Encode]]]
) -> Pausing[dict[str, dict[str, dict[str, float]]]]:
    """What each baseline scores. It is built first, on each rank alone, as that may fail on one of them."""
    measured = {}
    embedded: dict[Encode, EmbeddedSplits] = {}
    for name, build in builders:
        yield
        encode = measured_beside(missing, f"baselines.{name}", build)
        if encode is not None:
            score = partial(_score, protocol, encode, embedded)
            measured[name] = measured_beside(missing, f"baselines.{name}", score)
    return {name: scores for name, scores in measured.items() if scores is not None}


def _score(
    protocol: TestProtocol, encode: Encode, embedded: dict[Encode, EmbeddedSplits]
) -> dict[str, dict[str, float]]:
    """What a baseline scores; `embedded` keeps the splits of the last network for those that are functions of it."""
    base = encode.base if isinstance(encode, Projected) else encode
    if base not in embedded:
        embedded.clear()
        embedded[base] = protocol.embed(base)
    splits = encode.splits(embedded[base]) if isinstance(encode, Projected) else embedded[base]
    return score_values(protocol.scores(encode, splits))
