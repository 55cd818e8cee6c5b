"""Measuring: images are embedded once, and every evaluator sees the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from metriclab.core import distributed
from metriclab.core.network import Embedded
from metriclab.core.protocols import Dataset, Evaluator, Score, Views
from metriclab.core.rows import Rows, rows
from metriclab.run.assemble import Training
from metriclab.run.fit import precision
from metriclab.samplers import rank_slice

Encode = Callable[[Float[Tensor, "n c h w"]], Embedded]
Scores = Mapping[str, Mapping[str, Score]]


@dataclass(frozen=True, slots=True)
class Reading:
    """How images are read for evaluation."""

    views: Views
    device: torch.device
    batch_size: int
    precision: str = "float32"


def reading_of(training: Training) -> Reading:
    """How a run's images are read for evaluation."""
    settings = training.settings
    return Reading(training.views, training.device, settings.evaluation_batch_size, settings.precision)


class Sides(NamedTuple):
    """A split as rows of encoder features h and of head outputs z."""

    h: Rows
    z: Rows


MOST_PIXELS = 32


def pixels(images: Float[Tensor, "n c h w"]) -> Embedded:
    """The baseline without a network: the pixels of the test view, averaged down to 32 x 32 where it is larger."""
    if max(images.shape[2:]) > MOST_PIXELS:
        images = adaptive_avg_pool2d(images, MOST_PIXELS)
    flat = images.flatten(1)
    return Embedded(flat, flat)


def embed(encode: Encode, data: Dataset, reading: Reading, items: np.ndarray | None = None) -> Sides:
    """All or some items of a split embedded, on every rank; each rank does its share of the work."""
    items = np.arange(len(data.labels)) if items is None else items
    part = rank_slice(len(items), distributed.rank(), distributed.world_size())
    h, z = (torch.cat(side) for side in zip(*_embedded(encode, data, items[part], reading), strict=True))
    h, z = distributed.gather((h, z))
    if h.device.type == "mps":  # which has no float64, and evaluators count in it
        h, z = h.cpu(), z.cpu()
    labels = torch.from_numpy(data.labels[items]).to(h.device)
    numbers = torch.from_numpy(items).to(h.device)
    return Sides(rows(h, labels, numbers), rows(z, labels, numbers))


def _embedded(encode: Encode, data: Dataset, items: np.ndarray, reading: Reading) -> Iterator[Embedded]:
    for start in range(0, len(items), reading.batch_size):
        images = data.images(items[start : start + reading.batch_size]).to(reading.device)
        with torch.inference_mode(), precision(reading.precision, reading.device):
            h, z = encode(reading.views.test(images))
        yield Embedded(h.float(), z.float())


class evaluating:
    """A method in evaluation mode for as long as the `with` lasts."""

    def __init__(self, method: nn.Module) -> None:
        self.method, self.training = method, method.training

    def __enter__(self) -> Encode:
        self.method.eval()
        return self.method.embed  # type: ignore[return-value]  # of the method protocol

    def __exit__(self, *error: object) -> None:
        self.method.train(self.training)


def measure(evaluators: Mapping[str, Evaluator], queries: Rows, gallery: Rows) -> dict[str, Mapping[str, Score]]:
    """Every evaluator on the same rows; `gallery is queries` means leave-one-out."""
    return {name: evaluator(queries, gallery) for name, evaluator in evaluators.items()}


def values(scores: Scores) -> dict[str, dict[str, float]]:
    """The numbers alone."""
    return {name: {metric: score.value for metric, score in part.items()} for name, part in scores.items()}


def definitions(scores: Scores) -> dict[str, dict[str, str]]:
    """How each number is defined."""
    return {name: {metric: score.definition for metric, score in part.items()} for name, part in scores.items()}
