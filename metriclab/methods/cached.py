"""What methods share that may train on features computed once: rows of a batch, and whether its encoder allows it."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Int64
from torch import Tensor, nn

from metriclab.core.batch import Batch
from metriclab.core.network import Network
from metriclab.core.rows import Rows
from metriclab.errors import RecipeError

Features = Literal["online", "cached"]
"""Whether the encoder sees the views of each step, or every image once, before the first step."""


def trains_on(features: Features, network: Network) -> Literal["features", "images"]:
    """What batches have to hold.

    Raises:
        RecipeError: for features that are to be computed once by an encoder that changes, or that gives an image other
            features in each step.
    """
    if features == "online":
        return "images"
    encoder = network.encoder.train()
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        raise RecipeError(
            'method.features = "cached" computes the features of an image once, and this encoder trains',
            help='set encoder.trainable = "none", or leave features out',
        )
    if any(module.training and _varies(module) for module in encoder.modules()):
        raise RecipeError(
            'method.features = "cached" computes the features of an image once, and this encoder has BatchNorm or '
            "dropout in training mode, which give it others in each step",
            help='set encoder.frozen_mode = "eval", or leave features out',
        )
    return "features"


def embed_batch(network: Network, batch: Batch, groups: Int64[Tensor, "n"] | None = None) -> Rows:
    """The rows of all views of a batch by class, or of the features that it has in their place.

    Args:
        groups: of the batch, where images of one class and group are to be no pair.
    """
    if batch.features is not None:
        return batch.rows([network.head(batch.features)], labels=batch.labels, groups=groups)
    return batch.rows([view.z for view in network.views(batch.views)], labels=batch.labels, groups=groups)


def _varies(module: nn.Module) -> bool:
    """Whether a layer in training mode mixes the images of a batch, or draws at random."""
    norms = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return isinstance(module, norms) or bool(getattr(module, "drop_prob", 0))  # timm's stochastic depth
