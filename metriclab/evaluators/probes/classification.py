"""Scores of a classifier on frozen embeddings: accuracy, and precision, recall and F1 by class."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from metriclab.core.protocols import Score
from metriclab.core.rows import Rows
from metriclab.evaluators.probes.examples import INNER, Examples, task

Classify = Callable[[Float[Tensor, "m d"]], Int64[Tensor, "m"]]
"""From embeddings to dense labels."""

_METRICS = {
    "accuracy": "Share of the measured queries whose class is predicted",
    "precision": "Share of right ones among the measured queries predicted to be of a class (0 where there are none), "
    "averaged over the classes of the measured queries",
    "recall": "Share of the measured queries of a class whose class is predicted, averaged over the classes",
    "f1": "Harmonic mean of precision and recall of a class (0 where both are 0), averaged over the classes of the "
    "measured queries",
}


def rules(share: float) -> str:
    """What is fitted and what is measured, in words."""
    fitted = "" if share == 1 else f"; of the rows to fit, {share:.4g} of each class (at least one) are taken"
    return (
        "fitted to the gallery and measured on the queries whose label it has; of each class, the items that both "
        "sides have (all of them where the queries are the gallery) are cut in two halves by a hash of the item, one "
        "to fit (the larger one) and one to measure"
        f"{fitted}; unit-norm embeddings, each dimension standardised by the fitted rows; unknown labels (< 0) left out"
    )


def classification(
    queries: Rows, gallery: Rows, fit: Callable[[Examples, int], Classify], share: float, definition: str
) -> dict[str, Score]:
    """Fits a classifier and scores it.

    Args:
        queries: rows to measure; those with a negative label are passed over.
        gallery: rows to fit.
        fit: from examples and the number of classes to a classifier.
        share: of the rows to fit, by class.
        definition: of the classifier, ending in its version in brackets.

    Raises:
        DivergedError: where an embedding is not finite.
    """
    made = task(queries, gallery, share)
    correct = torch.full((len(queries),), torch.nan, dtype=torch.float64)
    by_class: dict[str, dict[int, float]] = {name: {} for name in _METRICS}
    left_out = (queries.labels >= 0).cpu()
    if made is not None:
        left_out = made.left_out.cpu()
        predicted = fit(made.fit, len(made.classes))(made.x)
        correct[made.places.cpu()] = (predicted == made.y).double().cpu()
        classes = made.classes.tolist()
        for name, values in _by_class(predicted, made.y, len(classes)).items():
            pairs = zip(classes, values.tolist(), strict=True)
            by_class[name] = {label: value for label, value in pairs if value == value}
    macro = {name: fmean(part.values()) if part else math.nan for name, part in by_class.items()}
    macro["accuracy"] = float(correct.nanmean())
    unmatched = torch.where(queries.labels.cpu() < 0, torch.nan, left_out.double())
    return {
        **{
            name: Score(
                macro[name],
                correct if name == "accuracy" else torch.empty(0, dtype=torch.float64),
                f"{text}, {definition}",
                by_class[name],
            )
            for name, text in _METRICS.items()
        },
        "queries_without_matches": Score(
            float(unmatched.nansum()),
            unmatched,
            "Number of queries of known label (>= 0) that are neither measured nor fitted, because no other row has "
            f"their label, {definition}",
        ),
    }


def _by_class(
    predicted: Int64[Tensor, "m"], true: Int64[Tensor, "m"], classes: int
) -> dict[str, Float64[Tensor, "{classes}"]]:
    """Each metric of each class, NaN for a class without a query."""
    right = torch.bincount(true[predicted == true], minlength=classes).double()
    asked, given = (torch.bincount(of, minlength=classes).double() for of in (true, predicted))
    there = torch.where(asked > 0, 1.0, torch.nan)
    return {
        "precision": right / given.clamp(min=1) * there,
        "recall": right / asked,
        "f1": 2 * right / (asked + given) * there,
    }


def held_out() -> str:
    """How settings are chosen, in words."""
    return f"{INNER:.0%} of the fitted rows of each class, held out"
