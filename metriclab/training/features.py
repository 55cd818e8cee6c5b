"""Features of a frozen encoder, computed once in place of in every step."""

from __future__ import annotations

from dataclasses import replace

from metriclab.assembly.assemble import Training
from metriclab.evaluation.embed import embed, embedding_settings, evaluating


def with_features(training: Training) -> Training:
    """The training, with the features of all its items where its method trains on those.

    To be called when the weights are those to train with, after a checkpoint is restored. The items are embedded by
    their test view in the order of their index, in batches of `train.evaluation_batch_size`: a resumed run computes the
    same bits. Each rank does its share of the work and holds all features.
    """
    if getattr(training.method, "trains_on", "images") != "features":
        return training
    with evaluating(training.method) as encode:
        features = embed(encode, training.data, embedding_settings(training)).h.z
    return replace(training, features=features.to(training.device))
