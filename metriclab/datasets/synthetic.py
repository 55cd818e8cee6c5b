"""Striped images made from nothing: for tests and for trying things out."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import UInt8

from metriclab.core.protocols import Split
from metriclab.core.splits import SPLITS
from metriclab.datasets.splits import require_split
from metriclab.images.datasets import ArrayDataset
from metriclab.registry import register


@register("dataset", "synthetic")
def Synthetic(
    split: Split,
    /,
    *,
    classes: Annotated[int, Ge(1)] = 8,
    per_class: Annotated[int, Ge(1)] = 16,
    size: Annotated[int, Ge(4), Le(512)] = 32,
    channels: Literal[1, 3] = 3,
    seed: Annotated[int, Ge(0)] = 0,
    disjoint: bool = False,
) -> ArrayDataset:
    """Coloured stripes: a class is their colour, direction and width; images of a class differ in phase and noise.

    A pure function of its parameters, made in milliseconds. Every split has images of its own.

    Args:
        split: train, val or test.
        classes: classes in each split.
        per_class: images of each class in each split.
        size: height and width in pixels.
        channels: 1 or 3.
        seed: of everything random.
        disjoint: whether the splits share no class; if not, they share all.
    """
    require_split(split)
    number = SPLITS.index(split)
    first = classes * number if disjoint else 0
    labels = np.arange(first, first + classes, dtype=np.int64).repeat(per_class)
    pixels = np.concatenate(
        [
            _stripes([seed, label, number], [seed, label], per_class, channels, size)
            for label in range(first, first + classes)
        ]
    )
    class_names = [f"stripes-{label}" for label in range(classes * (len(SPLITS) if disjoint else 1))]
    names = [f"synthetic/{split}/{item}" for item in range(len(labels))]
    return ArrayDataset(pixels, labels, class_names, names)


def _stripes(
    image_seed: list[int], class_seed: list[int], count: int, channels: int, size: int
) -> UInt8[np.ndarray, "{count} {channels} {size} {size}"]:
    of_class, of_image = np.random.default_rng(class_seed), np.random.default_rng(image_seed)
    angle, waves = of_class.uniform(0, np.pi), of_class.uniform(1, 4)
    colour = of_class.uniform(-1, 1, (channels, 1, 1))
    y, x = np.mgrid[:size, :size] * (2 * np.pi * waves / size)
    phase = of_image.uniform(0, 2 * np.pi, (count, 1, 1, 1))
    noise = of_image.normal(0, 12, (count, channels, size, size))
    values: np.ndarray = 128 + 50 * colour + 60 * np.sin(np.cos(angle) * x + np.sin(angle) * y + phase) + noise
    return values.clip(0, 255).astype(np.uint8)
