"""Mean and standard deviation of images whose encoder knows none: measured over train, and kept with the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from metriclab.core.protocols import Dataset

MOST_IMAGES = 10_000
"""Spread evenly over the split: more would move no digit that counts."""

_AT_ONCE = 64

Statistics = Mapping[str, Sequence[float]]
"""`mean` and `std`, a number a channel of images in [0, 1]."""


def statistics_for(network: nn.Module, data: Dataset) -> Statistics | None:
    """Those of the images, where a part of the network says by `lacks_statistics = True` that its weights know none.

    Of images of 1 or 3 channels of 8 bits, which every encoder is made for, nothing is measured, as of features.

    Args:
        network: with its encoder, whose `use_statistics` takes what is measured.
        data: the training split.
    """
    first = data.images(np.arange(1))
    usual = first.white == 255 and first.pixels.shape[1] in (1, 3)
    if usual or first.are_features or not any(True for _ in _lacking(network)):
        return None
    count, pixels = len(data.labels), 0
    items = np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(np.int64)
    total = squares = torch.zeros(first.pixels.shape[1], dtype=torch.float64)
    for start in range(0, len(items), _AT_ONCE):
        images = data.images(items[start : start + _AT_ONCE])
        values = images.pixels.double() / images.white  # what pads them is zero
        total, squares = total + values.sum((0, 2, 3)), squares + values.square().sum((0, 2, 3))
        pixels += int(images.sizes.prod(1).sum())
    mean = total / pixels
    return {"mean": mean.tolist(), "std": (squares / pixels - mean.square()).clamp(min=0).sqrt().tolist()}


def give_statistics(network: nn.Module, statistics: Statistics | None) -> None:
    """Gives them to each part of the network that lacks some; None leaves them as they are."""
    if statistics is not None:
        for _, part in _lacking(network):
            part.use_statistics(torch.tensor(statistics["mean"]), torch.tensor(statistics["std"]))


def share_statistics(encoder: nn.Module, network: nn.Module) -> None:
    """Gives an encoder what the same one in a network was given, or took from a checkpoint."""
    for name, part in _lacking(encoder):
        other: Any = network.get_submodule(f"encoder.{name}".rstrip("."))
        part.use_statistics(other.mean.flatten(), other.std.flatten())


def _lacking(network: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, part) for name, part in network.named_modules() if getattr(part, "lacks_statistics", False))
