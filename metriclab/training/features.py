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
from metriclab.errors import RecipeError
from metriclab.evaluation.embed import embed, embed_batches, embedding_settings, evaluating
from metriclab.recipe import ComponentSpec
from metriclab.registry import load_component


def with_features(training: Training) -> Training:
    """The training, with what its method wants to know of all items before the first step.

    A method that trains on features has them of the network's own encoder; one that has `prepare` is given the names
    of the items, and the function that computes another encoder's. To be called when the weights are those to train
    with, after a checkpoint is restored. The items are embedded by their test view in the order of their index, in
    batches of `train.evaluation_batch_size`: a resumed run computes the same bits. Each rank does its share of the work
    and holds all features.

    Where the result shall be that of computing them in each step, batches are as large as there, also the last one: an
    encoder may round otherwise in a batch of another size, but not among other images.
    """
    method: Any = training.method
    if hasattr(method, "prepare"):
        method.prepare(training.data.names, partial(frozen_features, training))
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


def frozen_features(training: Training, table: Mapping[str, object]) -> Float[Tensor, "n d"]:
    """Unit features of all items by the encoder of a recipe's table, which is not trained and not kept.

    Raises:
        RecipeError: where the table does not name an encoder that can be built.
    """

    def built() -> nn.Module:
        params = dict(table)
        definition = load_component("encoder", str(params.pop("name", "")))
        filled, problems = definition.check(params)
        if problems:
            raise RecipeError(problems[0].message, help=problems[0].help)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.settings.seed)
            encoder: nn.Module = build_encoder(
                ComponentSpec("encoder", definition.entry.name, filled, definition, definition.entry.name)
            )
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
