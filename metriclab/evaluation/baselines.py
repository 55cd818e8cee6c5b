"""What a trained encoder has to be better than: raw pixels, their principal components, itself before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from metriclab.assembly.assemble import Training, build_method, classes_of
from metriclab.core.network import Embedded, embedding_function
from metriclab.core.protocols import Dataset
from metriclab.evaluation.embed import EmbeddingSettings, Encode, embed_batches, embedding_settings
from metriclab.recipe import Recipe

MOST_IMAGES = 10_000
MOST_PIXELS = 32


def baselines(recipe: Recipe, training: Training, embedding_dim: int) -> Iterator[tuple[str, Callable[[], Encode]]]:
    """Names of the baselines of a run, and what builds each."""
    yield "raw_pixels", lambda: raw_pixels
    yield "pca", lambda: pca_of_pixels(training.data, embedding_settings(training), embedding_dim)
    if training.steps > 0:
        yield "untrained", lambda: untrained(recipe, training)


def raw_pixels(images: Float[Tensor, "n c h w"]) -> Embedded:
    """The pixels of the test view, averaged down to 32 x 32 where it is larger."""
    if max(images.shape[2:]) > MOST_PIXELS:
        images = adaptive_avg_pool2d(images, MOST_PIXELS)
    flat = images.flatten(1)
    return Embedded(flat, flat)


def pca_of_pixels(data: Dataset, settings: EmbeddingSettings, embedding_dim: int) -> Encode:
    """Projects centred `raw_pixels` on their first principal components; the same on every rank.

    Args:
        data: the split to fit, of which at most 10,000 images are used, spread evenly over it.
        settings: how images are embedded.
        embedding_dim: number of components, as far as the images have so many.
    """
    count = len(data.labels)
    items = np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(np.int64)
    total: Tensor | float = 0.0
    products: Tensor | float = 0.0
    for part in embed_batches(raw_pixels, data, items, settings):
        pixels = part.h.double()
        total, products = total + pixels.sum(0), products + pixels.T @ pixels
    assert isinstance(total, Tensor), "a split has images"
    mean = total / len(items)
    covariance = (products / len(items) - torch.outer(mean, mean)).cpu().numpy()
    size = len(covariance)
    _, vectors = eigh(covariance, subset_by_index=[max(0, size - embedding_dim), size - 1])
    axes = torch.from_numpy(vectors).to(mean)

    def project(images: Float[Tensor, "n c h w"]) -> Embedded:
        components = ((raw_pixels(images).h.double() - mean) @ axes).float()
        return Embedded(components, components)

    return project


def untrained(recipe: Recipe, training: Training) -> Encode:
    """The same network before its first step, pretrained weights included where the recipe names some."""
    method = build_method(recipe, classes_of(training.data.labels)).to(training.device).eval()
    if training.settings.channels_last:
        method.to(memory_format=torch.channels_last)
    return embedding_function(method)
