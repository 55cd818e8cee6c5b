"""Features of frozen encoders, computed once in place of in every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.assembly.statistics import give_statistics, statistics_for
from metriclab.assembly.weights import build_encoder
from metriclab.core.network import Embedded
from metriclab.evaluation.embed import embed, embed_batches, embedding_settings, evaluating
from metriclab.recipe import ComponentSpec, Recipe


def with_features(training: Training) -> Training:
    """The training, with the features of all items by the network's own encoder where its method trains on those.

    To be called when the weights are those to train with, after a checkpoint is restored. The items are embedded by
    their test view in the order of their index, in batches of `train.evaluation_batch_size`: a resumed run computes the
    same bits. Each rank does its share of the work and holds all features.

    Where the result shall be that of computing them in each step, batches are as large as there, also the last one: an
    encoder may round otherwise in a batch of another size, but not among other images.
    """
    method = training.method
    if getattr(method, "trains_on", "images") != "features":
        return training
    data, settings = training.data, embedding_settings(training)
    part = distributed.rank_slice(len(data.labels), distributed.rank(), distributed.world_size())
    items = drawn = np.arange(len(data.labels))[part]
    if getattr(method, "plain_features", False):
        settings = replace(settings, batch_size=_images_at_a_time(training))
        drawn = np.resize(items, -(-len(items) // settings.batch_size) * settings.batch_size)
    with evaluating(method) as encode:
        features = torch.cat([batch.h for batch in embed_batches(encode, data, drawn, settings)])
    return replace(training, features=distributed.gather(features[: len(items)]))


def prepare(recipe: Recipe, training: Training) -> None:
    """Gives a method that has `prepare` the names of all items, and the function that computes an encoder's features.

    What these are of is no part of what trains: it can be done, and may fail, before anything else of a run.
    """
    method: Any = training.method
    if hasattr(method, "prepare"):
        features = partial(_frozen_features, recipe.components["method"], training)
        distributed.on_every_rank(lambda: method.prepare(training.data.names, features))


def _frozen_features(method: ComponentSpec, training: Training, table: Mapping[str, object]) -> Float[Tensor, "n d"]:
    """Unit features of all items by the encoder of a table of the method's, which is not trained and not kept.

    Raises:
        RecipeError: where the table does not name an encoder that can be built.
    """

    def built() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.settings.seed)
            encoder: nn.Module = build_encoder(method.inner("encoder", table))
        give_statistics(encoder, statistics_for(encoder, training.data))
        return encoder.to(training.device).eval().requires_grad_(False)

    encoder = distributed.on_every_rank(built)
    distributed.broadcast_module(encoder)

    def encode(images: Float[Tensor, "n c h w"]) -> Embedded:
        features: Tensor = encoder(images)
        return Embedded(features, features)

    return embed(encode, training.data, embedding_settings(training)).h.z.to(training.device)


def _images_at_a_time(training: Training) -> int:
    """Images that the encoder would see at a time in a step."""
    assert training.sampler is not None
    largest = -(-training.sampler.batch_size // distributed.world_size())
    chunk = training.settings.chunk or largest
    return -(-largest // -(-largest // chunk))
