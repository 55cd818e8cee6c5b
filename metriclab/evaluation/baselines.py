"""The baseline that compresses without learning from labels: principal components of raw pixels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh
from torch import Tensor

from metriclab.core.network import Embedded
from metriclab.core.protocols import Dataset
from metriclab.evaluation.evaluate import EmbeddingSettings, Encode, encoded, pixels

MOST_IMAGES = 10_000


def pca_of_pixels(data: Dataset, reading: EmbeddingSettings, width: int) -> Encode:
    """Projects centred pixels (see `pixels`) on their first principal components; the same on every rank.

    Args:
        data: the split to fit, of which at most 10,000 images are used, spread evenly over it.
        reading: how images are read.
        width: number of components, as far as the images have so many.
    """
    count = len(data.labels)
    items = np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(np.int64)
    parts = (part.h.double() for part in encoded(pixels, data, items, reading))
    total: Tensor | float = 0.0
    products: Tensor | float = 0.0
    for part in parts:
        total, products = total + part.sum(0), products + part.T @ part
    assert isinstance(total, Tensor), "a split has images"
    mean = total / len(items)
    covariance = (products / len(items) - torch.outer(mean, mean)).cpu().numpy()
    size = len(covariance)
    _, vectors = eigh(covariance, subset_by_index=[max(0, size - width), size - 1])
    axes = torch.from_numpy(vectors).to(mean)

    def project(images: Float[Tensor, "n c h w"]) -> Embedded:
        components = (pixels(images).h.double() - mean) @ axes
        return Embedded(components.float(), components.float())

    return project
