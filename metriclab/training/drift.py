"""Drift: how far the embeddings of fixed images move while their network is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.core.protocols import Dataset
from metriclab.errors import RecipeError
from metriclab.evaluation.embed import embed, embedding_settings, evaluating

LAGS = (10, 100, 1000)
"""Steps back, dt."""


class Drift(nn.Module):
    """Snapshots of the embeddings of fixed images, and the drift from them to the present.

    D(t, dt) is the mean over the images x of ||z_t(x) - z_(t - dt)(x)||^2, from 0 to 4, where z is of unit norm. It is
    measured at every multiple t >= dt of `every`. The images are embedded at those steps, and dt before each of them:
    with `every = 100` twice in 100 steps (at 100, 190, 200, 290, ...), and 12 snapshots are held.

    Paper: Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020, section 3.1.

    Args:
        items: the images, as indices in their data set.
        embedding_dim: dimensions of an embedding.
        every: steps between measurements.
        steps: of the whole run; nothing is kept for a step after its end.
    """

    def __init__(self, items: Int64[np.ndarray, "n"], embedding_dim: int, *, every: int, steps: int) -> None:
        super().__init__()
        self.items = items
        self.every = every
        self.steps = steps
        for lag in LAGS:
            # One slot for each measurement that lies ahead by at most the lag: its snapshot waits there.
            slots = -(-lag // every) if lag <= steps else 0
            self.register_buffer(f"before_{lag}", torch.zeros(slots, len(items), embedding_dim))

    def is_due(self, step: int) -> bool:
        """Whether `follow` wants the embeddings after this many steps."""
        return any(self._is_measured(step, lag) or self._is_kept(step, lag) for lag in LAGS)

    @torch.no_grad()
    def follow(self, step: int, z: Float[Tensor, "n d"]) -> dict[str, float]:
        """Drift up to now, by `drift_<lag>`, as far as it is measured at this step.

        Args:
            step: number of steps done; every one that `is_due` names, in order, from 0.
            z: unit embeddings of the items.
        """
        z, measured = z.cpu(), dict[str, float]()
        for lag in LAGS:
            before = self.get_buffer(f"before_{lag}")
            if self._is_measured(step, lag):
                moved = z.double() - before[step // self.every % len(before)]
                measured[f"drift_{lag}"] = float(moved.square().sum(1).mean())
            if self._is_kept(step, lag):
                before[(step + lag) // self.every % len(before)] = z
        return measured

    def _is_measured(self, step: int, lag: int) -> bool:
        return step % self.every == 0 and step >= lag

    def _is_kept(self, step: int, lag: int) -> bool:
        return (step + lag) % self.every == 0 and step + lag <= self.steps


def drift_of(training: Training, val: Dataset) -> Drift | None:
    """What follows the drift of a run that asks for it, with its images spread evenly over val.

    Raises:
        RecipeError: where they are fewer than the processes that share their embedding.
    """
    settings = training.settings
    if settings.drift_images is None:
        return None
    length, world = len(val.labels), distributed.world_size()
    count = min(length, settings.drift_images)
    if count < world:
        raise RecipeError(
            f"train.drift_images = {settings.drift_images} gives {count} of the {length} images of val, "
            f"too few to share among {world} processes",
            help="set a larger train.drift_images, or leave it out where val is too small",
        )
    items = np.arange(count, dtype=np.int64) * length // count
    head: Any = training.method.get_submodule("network.head")
    return Drift(items, head.out_features, every=settings.drift_every, steps=training.steps)


def embed_followed(drift: Drift, training: Training, val: Dataset) -> Float[Tensor, "n d"]:
    """The unit embeddings of the images whose drift is followed, the same on every rank. Training does not notice."""
    with evaluating(training.method) as encode:
        return embed(encode, val, embedding_settings(training), drift.items).z.z
