"""What a trained encoder has to be better than: raw pixels, their principal components, itself before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.linalg import eigh
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from metriclab.assembly.assemble import Training, build_method, classes_of
from metriclab.assembly.statistics import share_statistics
from metriclab.assembly.weights import build_encoder, has_loaded_weights
from metriclab.core.network import Embedded, embedding_function
from metriclab.core.protocols import Dataset
from metriclab.core.rows import normalize, rows
from metriclab.core.splits import has_features
from metriclab.evaluation.embed import (
    EmbeddedSplits,
    Embeddings,
    EmbeddingSettings,
    Encode,
    embed_batches,
    embedding_settings,
)
from metriclab.recipe import Recipe

MOST_IMAGES = 10_000
MOST_PIXELS = 32
_FLAT = 1e-12  # of the largest variance: what is below it is rounding, and no direction to stretch


def baselines(
    recipe: Recipe, training: Training, embedding_dim: int, head_dim: int
) -> Iterator[tuple[str, Callable[[], Encode]]]:
    """Names of the baselines of a run, and what builds each.

    A run that starts from loaded weights is held against what these are worth by themselves: the encoder's own
    features, and their principal components, in as many numbers as the head gives. So is one on features that exist
    already, which has no pixels. Any other one is held against its network before the first step.

    Args:
        embedding_dim: of what is measured.
        head_dim: of what the head gives.
    """
    settings, given = embedding_settings(training), has_features(training.data)
    if not given:
        yield "raw_pixels", lambda: raw_pixels
        yield "pca", lambda: pca_of_pixels(training.data, settings, embedding_dim)
    if training.steps == 0:
        return
    if not given and not has_loaded_weights(recipe):
        yield "untrained", lambda: untrained(recipe, training)
        return
    encoder = cache(lambda: frozen_encoder(recipe, training))
    components = cache(lambda: principal_components(encoder(), training.data, settings, head_dim))
    yield "frozen", encoder
    yield "frozen_pca", lambda: Projected(encoder(), components().axes_from_mean())
    yield "frozen_whitened", lambda: Projected(encoder(), components().axes_from_mean(whiten=True))


def raw_pixels(images: Float[Tensor, "n c h w"]) -> Embedded:
    """The pixels of the test view, averaged down to 32 x 32 where it is larger."""
    if max(images.shape[2:]) > MOST_PIXELS:
        images = adaptive_avg_pool2d(images, MOST_PIXELS)
    flat = images.flatten(1)
    return Embedded(flat, flat)


class Components(NamedTuple):
    """Principal components of features.

    Attributes:
        mean: of the features.
        axes: a column a component, the last one of the largest variance.
        variances: along the axes.
    """

    mean: Float64[Tensor, "d"]
    axes: Float64[Tensor, "d k"]
    variances: Float64[Tensor, "k"]

    def axes_from_mean(self, *, whiten: bool = False) -> Callable[[Float[Tensor, "n d"]], Float[Tensor, "n k"]]:
        """Projects centred features on the axes; with `whiten` each that varies is stretched to variance 1."""
        axes = self.axes
        if whiten:
            varied = self.variances > _FLAT * self.variances.max()
            axes = axes * torch.where(varied, self.variances, torch.inf).rsqrt()
        return partial(_project, self.mean, axes)


def _project(
    mean: Float64[Tensor, "d"], axes: Float64[Tensor, "d k"], features: Float[Tensor, "n d"]
) -> Float[Tensor, "n k"]:
    return ((features.double() - mean) @ axes).float()


def principal_components(encode: Encode, data: Dataset, settings: EmbeddingSettings, number: int) -> Components:
    """The principal components of a network's features; the same on every rank.

    Args:
        encode: the network.
        data: the split to fit, of which at most 10,000 images are used, spread evenly over it.
        settings: how images are embedded.
        number: of components, as far as the features have so many.
    """
    count = len(data.labels)
    items = np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(np.int64)
    total: Tensor | float = 0.0
    products: Tensor | float = 0.0
    for part in embed_batches(encode, data, items, settings):
        features = part.h.double()
        total, products = total + features.sum(0), products + features.T @ features
    assert isinstance(total, Tensor), "a split has images"
    mean = total / len(items)
    covariance = (products / len(items) - torch.outer(mean, mean)).cpu().numpy()
    size = len(covariance)
    variances, axes = eigh(covariance, subset_by_index=[max(0, size - number), size - 1])
    return Components(mean, torch.from_numpy(axes).to(mean), torch.from_numpy(variances).to(mean))


def pca_of_pixels(data: Dataset, settings: EmbeddingSettings, embedding_dim: int) -> Encode:
    """Projects centred `raw_pixels` on so many of their first principal components."""
    project = principal_components(raw_pixels, data, settings, embedding_dim).axes_from_mean()

    def encode(images: Float[Tensor, "n c h w"]) -> Embedded:
        components = project(raw_pixels(images).h)
        return Embedded(components, components)

    return encode


def untrained(recipe: Recipe, training: Training) -> Encode:
    """The same network before its first step."""
    method = build_method(recipe, classes_of(training.data.labels)).to(training.device).eval()
    share_statistics(method.get_submodule("network.encoder"), training.method.get_submodule("network"))
    if training.settings.channels_last:
        method.to(memory_format=torch.channels_last)
    return embedding_function(method)


def frozen_encoder(recipe: Recipe, training: Training) -> Encode:
    """The encoder as its weights were loaded: features of norm 1, without the head, whose weights are random."""
    torch.manual_seed(recipe.train.seed)
    encoder = build_encoder(recipe.components["encoder"]).to(training.device).eval()
    share_statistics(encoder, training.method.get_submodule("network"))
    if training.settings.channels_last:
        encoder.to(memory_format=torch.channels_last)

    def encode(images: Float[Tensor, "n c h w"]) -> Embedded:
        features = normalize(encoder(images))
        return Embedded(features, features)

    return encode


@dataclass(frozen=True, slots=True)
class Projected:
    """A function of another network's features, whose rows come from rows of that one.

    Attributes:
        base: the network; its features have norm 1, as rows have.
        project: the function.
    """

    base: Encode
    project: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n k"]]

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Embedded:
        features = self.project(self.base(images).h)
        return Embedded(features, features)

    def splits(self, embedded: EmbeddedSplits) -> EmbeddedSplits:
        """What it makes of splits that its base has embedded."""
        queries = self._rows(embedded.queries)
        alone = embedded.gallery is embedded.queries
        return EmbeddedSplits(queries, queries if alone else self._rows(embedded.gallery))

    def _rows(self, embedded: Embeddings) -> Embeddings:
        own = embedded.h
        z = self.project(own.z)
        projected = rows(z, own.labels, own.items, groups=own.groups, categories=own.categories)
        return Embeddings(projected, projected)
