"""The result of a run: the trained encoder on the test split, beside its baselines, with costs and definitions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from metriclab.assembly.assemble import Training, build_evaluators, build_method, classes_of
from metriclab.assembly.splits import Splits, benchmark
from metriclab.core.network import embedding_function
from metriclab.core.rows import Rows
from metriclab.evaluation.baselines import pca_of_pixels
from metriclab.evaluation.efficiency import Peaks, Stopwatch, cost_of, flops_per_image, images_seen
from metriclab.evaluation.evaluate import (
    EmbeddedSplits,
    EmbeddingSettings,
    Encode,
    RunEncoder,
    Scores,
    embed_splits,
    embedding_settings,
    evaluating,
    gallery_of,
    pixels,
    run_evaluators,
    score_definitions,
    score_values,
)
from metriclab.recipe import Recipe

Output = Literal["h", "z"]


def final_result(
    recipe: Recipe, training: Training, splits: Splits, best_step: int, seconds: float, warned: list[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads the test split, once, and gives the content of result.json and the scores of every query.

    The peak memory in it is that of training.
    """
    settings, peaks = training.settings, Peaks(training.device)
    reading = embedding_settings(training)
    judge = _Judge(recipe, splits, reading)
    used: Output = settings.output
    other: Output = "z" if used == "h" else "h"
    with evaluating(training.method) as encode:
        flops = flops_per_image(encode, training, reading)
        with Stopwatch(training.device) as watch:
            trained = judge.embed(encode)
        scores = judge.measure(encode, trained, used)
    queries = trained.queries
    metrics = score_values(scores)
    if queries.z.z.shape != queries.h.z.shape or not torch.equal(queries.z.z, queries.h.z):
        of_other = run_evaluators(judge.evaluators, *trained.rows(other))
        metrics |= {f"{name}-{other}": part for name, part in score_values(of_other).items()}
    rows: Rows = getattr(queries, used)
    alone = judge.gallery is splits.test
    embedded = len(rows) + (0 if alone else len(trained.gallery.h))
    result = {
        "metrics": metrics,
        "baselines": {
            name: score_values(judge.measure(encode, judge.embed(encode), used))
            for name, encode in _baselines(recipe, training, reading, rows.embedding_dim)
        },
        "definitions": score_definitions(scores),
        "protocol": "leave-one-out on the test split" if alone else "test queries against the training split",
        "fingerprint": benchmark(recipe, splits),
        "steps": training.steps,
        "best_step": best_step,
        "output": used,
        "images_seen": images_seen(training),
        "items": {name: len(getattr(splits, name).labels) for name in ("train", "val", "test")},
        "warnings": warned,
        "cost": cost_of(training, seconds, peaks, flops, embedded / watch.seconds),
    }
    by_class = scores_by_class(scores, classes_of(splits.test.labels))
    known = {"labels": rows.labels.cpu(), "items": rows.items.cpu()}
    return result, {**by_query(scores, len(rows)), **by_class, **known}


def by_query(scores: Scores, queries: int) -> dict[str, Tensor]:
    """Every metric that has a value a query, as float32 under "evaluator.metric"."""
    return {
        f"{name}.{metric}": score.per_query.detach().cpu().float().contiguous()
        for name, part in scores.items()
        for metric, score in part.items()
        if score.per_query.shape == (queries,)
    }


def scores_by_class(scores: Scores, classes: Int64[Tensor, "c"]) -> dict[str, Tensor]:
    """Every metric that classes have, as float32 under "evaluator.metric.per_class", in the order of "classes".

    A class without the metric has NaN. "classes" is there where any metric is.
    """
    found = {
        f"{name}.{metric}.per_class": torch.tensor(
            [score.per_class.get(label, float("nan")) for label in classes.tolist()], dtype=torch.float32
        )
        for name, part in scores.items()
        for metric, score in part.items()
        if score.per_class
    }
    return {**found, "classes": classes} if found else {}


def _baselines(
    recipe: Recipe, training: Training, reading: EmbeddingSettings, width: int
) -> Iterator[tuple[str, Encode]]:
    """What the trained encoder has to be better than."""
    yield "raw_pixels", pixels
    yield "pca", pca_of_pixels(training.data, reading, width)
    if training.steps > 0:
        yield "untrained", _initial(recipe, training)


def _initial(recipe: Recipe, training: Training) -> Encode:
    """The same network before its first step, pretrained weights included where the recipe names some."""
    method = build_method(recipe, classes_of(training.data.labels)).to(training.device).eval()
    if training.settings.channels_last:
        method.to(memory_format=torch.channels_last)
    return embedding_function(method)


class _Judge:
    """One protocol for everything that is measured in a run."""

    def __init__(self, recipe: Recipe, splits: Splits, reading: EmbeddingSettings) -> None:
        self.evaluators = build_evaluators(recipe)
        self.splits, self.reading = splits, reading
        self.gallery = gallery_of(splits.test, splits.train)

    def embed(self, encode: Encode) -> EmbeddedSplits:
        return embed_splits(encode, self.splits.test, self.gallery, self.reading)

    def measure(self, encode: Encode, embedded: EmbeddedSplits, output: Output) -> Scores:
        """All evaluators, also those that want the encoder."""
        queries, gallery = embedded.rows(output)
        subject = RunEncoder(queries, gallery, encode, self.splits.test, self.reading, output)
        return run_evaluators(self.evaluators, queries, gallery, subject)
