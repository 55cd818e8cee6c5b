"""The result of a run: the trained encoder on the test split, beside its baselines, with costs and definitions."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.recipe import Recipe
from metriclab.run.assemble import Training, build_evaluators, build_method, classes_of
from metriclab.run.evaluate import (
    Encode,
    Reading,
    Scores,
    Sides,
    definitions,
    embed,
    evaluating,
    measure,
    pixels,
    values,
)
from metriclab.run.splits import Splits, benchmark, is_disjoint


def final_result(
    recipe: Recipe, training: Training, splits: Splits, best_step: int, seconds: float, warned: list[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads the test split, once, and gives the content of result.json and the scores of every query.

    The peak memory in it is that of training.
    """
    settings, peak = training.settings, peak_memory(training.device)
    reading = Reading(training.views, training.device, settings.evaluation_batch_size, settings.precision)
    judge = _Judge(recipe, splits, reading)
    with evaluating(training.method) as encode:
        trained = judge.sides(encode)
    used, other = ("h", "z") if settings.output == "h" else ("z", "h")
    scores = judge.measure(trained, used)
    metrics = values(scores)
    if trained[0].z.z.shape != trained[0].h.z.shape or not torch.equal(trained[0].z.z, trained[0].h.z):
        metrics |= {f"{name}-{other}": part for name, part in values(judge.measure(trained, other)).items()}
    baselines = {"raw_pixels": values(judge.measure(judge.sides(pixels), used))}
    if training.steps > 0:
        baselines["untrained"] = values(judge.measure(judge.sides(_initial(recipe, training)), used))
    queries: Rows = getattr(trained[0], used)
    images = training.steps * (training.sampler.batch_size if training.sampler else 0)
    result = {
        "metrics": metrics,
        "baselines": baselines,
        "definitions": definitions(scores),
        "protocol": "leave-one-out on the test split" if judge.disjoint else "test queries against the training split",
        "fingerprint": benchmark(recipe, splits),
        "steps": training.steps,
        "best_step": best_step,
        "output": settings.output,
        "images_seen": images,
        "items": {name: len(getattr(splits, name).labels) for name in ("train", "val", "test")},
        "warnings": warned,
        "cost": {
            "train_seconds": seconds,
            "images_per_second": images / seconds if seconds > 0 else None,
            "peak_memory_mb": peak,
            "parameters": sum(parameter.numel() for parameter in training.method.parameters()),
        },
    }
    return result, {**by_query(scores, len(queries)), "labels": queries.labels.cpu(), "items": queries.items.cpu()}


def by_query(scores: Scores, queries: int) -> dict[str, Tensor]:
    """Every metric that has a value a query, as float32 under "evaluator.metric"."""
    return {
        f"{name}.{metric}": score.per_query.detach().cpu().float().contiguous()
        for name, part in scores.items()
        for metric, score in part.items()
        if score.per_query.shape == (queries,)
    }


def _initial(recipe: Recipe, training: Training) -> Encode:
    """The same network before its first step, pretrained weights included where the recipe names some."""
    method = build_method(recipe, classes_of(training.data.labels)).to(training.device).eval()
    if training.settings.channels_last:
        method.to(memory_format=torch.channels_last)
    return method.embed  # type: ignore[return-value]  # of the method protocol


class _Judge:
    """One protocol for everything that is measured in a run."""

    def __init__(self, recipe: Recipe, splits: Splits, reading: Reading) -> None:
        self.evaluators = build_evaluators(recipe)
        self.splits, self.reading = splits, reading
        self.disjoint = is_disjoint(splits.test, splits.train)

    def sides(self, encode: Encode) -> tuple[Sides, Sides]:
        """Queries and gallery; the same object twice means leave-one-out."""
        queries = embed(encode, self.splits.test, self.reading)
        return queries, queries if self.disjoint else embed(encode, self.splits.train, self.reading)

    def measure(self, sides: tuple[Sides, Sides], which: str) -> Any:
        queries, gallery = (getattr(side, which) for side in sides)
        return measure(self.evaluators, queries, gallery)


def peak_memory(device: torch.device) -> float:
    """Peak resident memory of this process in MB, or of its GPU where it trains on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
