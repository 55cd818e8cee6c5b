"""Measuring: images are embedded once, and every evaluator sees the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.assembly.devices import precision
from metriclab.assembly.splits import is_disjoint
from metriclab.core.network import Embedded, embedding_function
from metriclab.core.progress import ProgressGenerator
from metriclab.core.protocols import Change, Dataset, EvaluatedEncoder, Evaluator, Score, Views
from metriclab.core.rows import Rows, rows

Encode = Callable[[Float[Tensor, "n c h w"]], Embedded]
Scores = Mapping[str, Mapping[str, Score]]


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """How images are read for evaluation."""

    views: Views
    device: torch.device
    batch_size: int
    precision: str = "float32"


def embedding_settings(training: Training) -> EmbeddingSettings:
    """How a run's images are read for evaluation."""
    settings = training.settings
    return EmbeddingSettings(training.views, training.device, settings.evaluation_batch_size, settings.precision)


class Embeddings(NamedTuple):
    """A split as rows of encoder features h and of head outputs z."""

    h: Rows
    z: Rows


class EmbeddedSplits(NamedTuple):
    """Queries and gallery by one encoder; the same object twice means leave-one-out."""

    queries: Embeddings
    gallery: Embeddings

    def rows(self, output: Literal["h", "z"]) -> tuple[Rows, Rows]:
        """One output of both."""
        return getattr(self.queries, output), getattr(self.gallery, output)


MOST_PIXELS = 32


def pixels(images: Float[Tensor, "n c h w"]) -> Embedded:
    """The baseline without a network: the pixels of the test view, averaged down to 32 x 32 where it is larger."""
    if max(images.shape[2:]) > MOST_PIXELS:
        images = adaptive_avg_pool2d(images, MOST_PIXELS)
    flat = images.flatten(1)
    return Embedded(flat, flat)


def embed(
    encode: Encode,
    data: Dataset,
    reading: EmbeddingSettings,
    items: np.ndarray | None = None,
    change: Change | None = None,
    *,
    first_item: int = 0,
) -> Embeddings:
    """All or some items of a split embedded, on every rank; each rank does its share of the work.

    Args:
        encode: the network.
        data: the split.
        reading: how images are read.
        items: which ones; all by default.
        change: what becomes of their test views before they are encoded.
        first_item: of the split in the rows: its items are numbered from there on.
    """
    items = np.arange(len(data.labels)) if items is None else items
    part = distributed.rank_slice(len(items), distributed.rank(), distributed.world_size())
    h, z = (torch.cat(side) for side in zip(*encoded(encode, data, items[part], reading, change), strict=True))
    h, z = distributed.gather((h, z))
    if h.device.type == "mps":  # which has no float64, and evaluators count in it
        h, z = h.cpu(), z.cpu()
    labels = torch.from_numpy(data.labels[items]).to(h.device)
    numbers = torch.from_numpy(items + first_item).to(h.device)
    return Embeddings(rows(h, labels, numbers), rows(z, labels, numbers))


def embed_splits(encode: Encode, queries: Dataset, gallery: Dataset, settings: EmbeddingSettings) -> EmbeddedSplits:
    """Queries and gallery by one encoder. The same data set twice is leave-one-out.

    Equal items are one image, which evaluators leave out: those of a gallery of its own are numbered behind the
    queries, which keep their indices.
    """
    rows_of_queries = embed(encode, queries, settings)
    if gallery is queries:
        return EmbeddedSplits(rows_of_queries, rows_of_queries)
    return EmbeddedSplits(rows_of_queries, embed(encode, gallery, settings, first_item=len(queries.labels)))


def gallery_of(test: Dataset, train: Dataset) -> Dataset:
    """What the queries of a test split are held against: themselves where their classes are not in `train`."""
    return test if is_disjoint(test, train) else train


def encoded(
    encode: Encode, data: Dataset, items: np.ndarray, reading: EmbeddingSettings, change: Change | None = None
) -> Iterator[Embedded]:
    """These items' features and embeddings, batch by batch, not normalised; on this rank alone."""
    for start in range(0, len(items), reading.batch_size):
        batch = items[start : start + reading.batch_size]
        images = data.images(batch).to(reading.device)
        with torch.inference_mode(), precision(reading.precision, reading.device):
            view = reading.views.test(images)
            if change is not None:
                with precision("float32", reading.device):
                    view = change(view, torch.from_numpy(batch).to(reading.device))
            h, z = encode(view)
        yield Embedded(h.float(), z.float())


class evaluating:
    """A method in evaluation mode for as long as the `with` lasts."""

    def __init__(self, method: nn.Module) -> None:
        self.method, self.training = method, method.training

    def __enter__(self) -> Encode:
        self.method.eval()
        return embedding_function(self.method)

    def __exit__(self, *error: object) -> None:
        self.method.train(self.training)


@dataclass(frozen=True, slots=True)
class RunEncoder:
    """An encoder with its queries and gallery: the `EvaluatedEncoder` of evaluators that want more than rows.

    Attributes:
        encode: the network.
        data: the split of the queries.
        reading: how images are read.
        output: which output is measured.
    """

    queries: Rows
    gallery: Rows
    encode: Encode
    data: Dataset
    reading: EmbeddingSettings
    output: Literal["h", "z"]

    def embed_changed(self, change: Change, chosen: Int64[Tensor, "n"], /) -> Rows:
        """The chosen queries, embedded anew from their test views as `change` makes them."""
        items = self.queries.items[chosen].cpu().numpy()
        return getattr(embed(self.encode, self.data, self.reading, items, change), self.output)  # type: ignore[no-any-return]  # Rows

    def embed_other(self, test: Dataset, train: Dataset, /) -> tuple[Rows, Rows]:
        """Queries and gallery of another data set: the same object where its test classes are not in `train`."""
        return embed_splits(self.encode, test, gallery_of(test, train), self.reading).rows(self.output)


def run_evaluators(
    evaluators: Mapping[str, Evaluator], queries: Rows, gallery: Rows, subject: EvaluatedEncoder | None = None
) -> dict[str, Mapping[str, Score]]:
    """Every evaluator on the same rows.

    Args:
        evaluators: by name.
        queries, gallery: the same object for leave-one-out.
        subject: for the evaluators that want the encoder; without it they are left out.
    """
    scores: dict[str, Mapping[str, Score]] = {}
    for name, evaluator in evaluators.items():
        if not wants_encoder(evaluator):
            scores[name] = evaluator(queries, gallery)
        elif subject is not None:
            scores[name] = evaluator(subject)  # type: ignore[call-arg, arg-type]  # what it says it wants
    return scores


def steps_of(evaluator: Evaluator, queries: Rows, gallery: Rows) -> ProgressGenerator[Mapping[str, Score]]:
    """What an evaluator of rows measures, saying how far it is where the evaluator does."""
    steps: Callable[[Rows, Rows], ProgressGenerator[Mapping[str, Score]]] | None = getattr(evaluator, "steps", None)
    if steps is None:
        return evaluator(queries, gallery)
    return (yield from steps(queries, gallery))


def wants_encoder(evaluator: object) -> bool:
    """Whether an evaluator, or the class of one, needs the encoder itself."""
    return getattr(evaluator, "wants", "rows") == "encoder"


def score_values(scores: Scores) -> dict[str, dict[str, float]]:
    """The numbers alone."""
    return {name: {metric: score.value for metric, score in part.items()} for name, part in scores.items()}


def score_definitions(scores: Scores) -> dict[str, dict[str, str]]:
    """How each number is defined."""
    return {name: {metric: score.definition for metric, score in part.items()} for name, part in scores.items()}
