"""Proxies that start in the means of their classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64

from metriclab.assembly.assemble import Training
from metriclab.assembly.weights import has_loaded_weights
from metriclab.evaluation.embed import embed, embedding_settings, evaluating
from metriclab.recipe import Recipe

IMAGES_PER_CLASS = 32


def imprint_proxies(recipe: Recipe, training: Training) -> None:
    """Puts proxies that start so into the means of their classes, as the network embeds them before the first step.

    At most 32 images of a class are embedded, by their test view. Each rank does its share of the work and holds the
    same means.
    """
    memory: Any = getattr(training.method, "memory", None)
    if training.steps == 0 or not hasattr(memory, "imprint"):
        return
    if (memory.start or ("means" if has_loaded_weights(recipe) else "random")) == "means":
        with evaluating(training.method) as encode:
            images = embed(encode, training.data, embedding_settings(training), some_of_each(training.data.labels))
        memory.imprint(images.z)


def some_of_each(labels: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "m"]:
    """The first items of each class, as many as a mean needs, in the order of the data set."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    nth = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return np.sort(order[(nth < IMAGES_PER_CLASS) & (ordered >= 0)])
