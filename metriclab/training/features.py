"""What a run embeds of its training images before the first step: features of a frozen encoder, means of classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.assembly.weights import has_loaded_weights
from metriclab.evaluation.embed import embed, embed_batches, embedding_settings, evaluating
from metriclab.recipe import Recipe

IMAGES_PER_CLASS = 32


def with_features(training: Training) -> Training:
    """The training, with the features of all its items where its method trains on those.

    To be called when the weights are those to train with, after a checkpoint is restored. The items are embedded by
    their test view in the order of their index, in batches of `train.evaluation_batch_size`: a resumed run computes the
    same bits. Each rank does its share of the work and holds all features.

    Where the result shall be that of computing them in each step, batches are as large as there, also the last one: an
    encoder may round otherwise in a batch of another size, but not among other images.
    """
    if getattr(training.method, "trains_on", "images") != "features":
        return training
    data, settings = training.data, embedding_settings(training)
    part = distributed.rank_slice(len(data.labels), distributed.rank(), distributed.world_size())
    items = drawn = np.arange(len(data.labels))[part]
    if getattr(training.method, "plain_features", False):
        settings = replace(settings, batch_size=_images_at_a_time(training))
        drawn = np.resize(items, -(-len(items) // settings.batch_size) * settings.batch_size)
    with evaluating(training.method) as encode:
        features = torch.cat([batch.h for batch in embed_batches(encode, data, drawn, settings)])
    return replace(training, features=distributed.gather(features[: len(items)]))


def imprint_proxies(recipe: Recipe, training: Training) -> None:
    """Puts proxies that start so into the means of their classes, as the network embeds them before the first step.

    At most 32 images of a class are embedded, by their test view. Each rank does its share of the work and holds the
    same means.
    """
    memory = getattr(training.method, "memory", None)
    if not hasattr(memory, "imprint"):
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


def _images_at_a_time(training: Training) -> int:
    """Images that the encoder would see at a time in a step."""
    assert training.sampler is not None
    largest = -(-training.sampler.batch_size // distributed.world_size())
    chunk = training.settings.chunk or largest
    return -(-largest // -(-largest // chunk))
