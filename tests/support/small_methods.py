"""A network and a batch small enough to take steps in float64 by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from metriclab.core.batch import Batch
from metriclab.core.network import Network


class Flat(nn.Module):
    """A linear encoder of 3 x 4 x 4 images."""

    def __init__(self) -> None:
        super().__init__()
        self.out_features = 6
        self.linear = nn.Linear(48, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))


def network(*, batch_norm: bool) -> Network:
    """The encoder with a head of width 4."""
    norm = nn.BatchNorm1d(6) if batch_norm else nn.Identity()
    return Network(Flat(), nn.Sequential(norm, nn.ReLU(), nn.Linear(6, 4)))


def labelled(labels: Sequence[int], *, views: int = 1, step: int = 0) -> Batch:
    """Random images of these classes; each one an item of its own."""
    n = len(labels)
    images = tuple(torch.randn(n, 3, 4, 4) for _ in range(views))
    return Batch(images, torch.tensor(labels), n * step + torch.arange(n), torch.arange(n), step)
