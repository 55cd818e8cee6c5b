"""Features of a frozen encoder, computed once in place of in every step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.evaluation.embed import embed_batches, embedding_settings, evaluating


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


def _images_at_a_time(training: Training) -> int:
    """Images that the encoder would see at a time in a step."""
    assert training.sampler is not None
    largest = -(-training.sampler.batch_size // distributed.world_size())
    chunk = training.settings.chunk or largest
    return -(-largest // -(-largest // chunk))
