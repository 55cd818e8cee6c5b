"""From images to rows: a split is embedded once, and every evaluator sees the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.assembly.devices import precision
from metriclab.assembly.splits import groups_of
from metriclab.core.network import Embedded, embedding_function
from metriclab.core.protocols import Change, Dataset, Views
from metriclab.core.rows import Rows, rows

Encode = Callable[[Float[Tensor, "n c h w"]], Embedded]
Output = Literal["h", "z"]


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """How images are embedded for evaluation."""

    views: Views
    device: torch.device
    batch_size: int
    precision: str = "float32"


def embedding_settings(training: Training) -> EmbeddingSettings:
    """How a run's images are embedded for evaluation."""
    train = training.settings
    return EmbeddingSettings(training.views, training.device, train.evaluation_batch_size, train.precision)


class Embeddings(NamedTuple):
    """A split as rows of encoder features h and of head outputs z."""

    h: Rows
    z: Rows


class EmbeddedSplits(NamedTuple):
    """Queries and gallery by one encoder; the same object twice means leave-one-out."""

    queries: Embeddings
    gallery: Embeddings

    def rows(self, output: Output) -> tuple[Rows, Rows]:
        """One output of both."""
        return getattr(self.queries, output), getattr(self.gallery, output)


def embed(
    encode: Encode,
    data: Dataset,
    settings: EmbeddingSettings,
    items: np.ndarray | None = None,
    change: Change | None = None,
    *,
    first_item: int = 0,
) -> Embeddings:
    """All or some items of a split embedded, on every rank; each rank does its share of the work.

    Args:
        encode: the network.
        data: the split.
        settings: how images are embedded.
        items: which ones; all by default.
        change: what becomes of their test views before they are encoded.
        first_item: of the split in the rows: its items are numbered from there on, unless the data have numbers of
            their own, as one side of a split has those of the split.
    """
    items = np.arange(len(data.labels)) if items is None else items
    part = distributed.rank_slice(len(items), distributed.rank(), distributed.world_size())
    h, z = (torch.cat(side) for side in zip(*embed_batches(encode, data, items[part], settings, change), strict=True))
    h, z = distributed.gather((h, z))
    if h.device.type == "mps":  # which has no float64, and evaluators count in it
        h, z = h.cpu(), z.cpu()
    own: np.ndarray | None = getattr(data, "items", None)
    numbers = items + first_item if own is None else own[items]
    columns = (None if of is None else of[items] for of in groups_of(data))
    labels, number, *given = (
        None if of is None else torch.from_numpy(of).to(h.device) for of in (data.labels[items], numbers, *columns)
    )
    assert labels is not None
    return Embeddings(*(rows(of, labels, number, None, None, *given) for of in (h, z)))


def embed_splits(encode: Encode, queries: Dataset, gallery: Dataset, settings: EmbeddingSettings) -> EmbeddedSplits:
    """Queries and gallery by one encoder. The same data set twice is leave-one-out.

    Equal items are one image, which evaluators leave out: those of a gallery of its own are numbered behind the
    queries, which keep their indices.
    """
    rows_of_queries = embed(encode, queries, settings)
    if gallery is queries:
        return EmbeddedSplits(rows_of_queries, rows_of_queries)
    return EmbeddedSplits(rows_of_queries, embed(encode, gallery, settings, first_item=len(queries.labels)))


def embed_batches(
    encode: Encode, data: Dataset, items: np.ndarray, settings: EmbeddingSettings, change: Change | None = None
) -> Iterator[Embedded]:
    """These items' features and embeddings, batch by batch, not normalised; on this rank alone."""
    for start in range(0, len(items), settings.batch_size):
        batch = items[start : start + settings.batch_size]
        images = data.images(batch).to(settings.device)
        with torch.inference_mode():
            view = settings.views.test(images)  # outside of autocast, as it is what float32 makes of the image
            if change is not None:
                view = change(view, torch.from_numpy(batch).to(settings.device))
            with precision(settings.precision, settings.device):
                h, z = encode(view)
        yield Embedded(h.float(), z.float())


@contextmanager
def evaluating(method: nn.Module) -> Iterator[Encode]:
    """A method in evaluation mode for as long as the `with` lasts.

    Afterwards all of it is as before, whatever was asked of it: the modes of its parts, its buffers, which a loss may
    move at each call, and torch's random numbers.
    """
    modes = [(module, module.training) for module in method.modules()]
    kept = [
        (module, name, buffer, buffer.clone())
        for module in method.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = {buffer.device for *_, buffer in kept} | {parameter.device for parameter in method.parameters()}
    try:
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
            method.eval()
            yield embedding_function(method)
    finally:
        method.train(dict(modes)[method])
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, value in kept:
            _put_back(module, name, buffer, value)


@torch.no_grad()
def _put_back(module: nn.Module, name: str, buffer: Tensor, value: Tensor) -> None:
    if not torch.equal(buffer, value):
        buffer.copy_(value)
    if getattr(module, name) is not buffer:
        setattr(module, name, buffer)
