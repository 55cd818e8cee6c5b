"""What is measured on the val split while a run goes on: by its evaluators, and by its own loss."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.assembly.devices import precision
from metriclab.assembly.selection import class_rows, why_no_loss
from metriclab.assembly.splits import Splits, has_labels, sides_of
from metriclab.core.call_loss import apply_loss, parts_of
from metriclab.core.protocols import Dataset, Evaluator, Sampler
from metriclab.core.rows import Rows, concatenate, count_positives
from metriclab.errors import DataError
from metriclab.evaluation.efficiency import measured_beside
from metriclab.evaluation.embed import embed_splits, embedding_settings, evaluating
from metriclab.evaluation.evaluate import run_evaluators, score_values
from metriclab.recipe import Recipe
from metriclab.training.batches import RankBatch, batches
from metriclab.training.chunks import joined
from metriclab.training.features import with_features
from metriclab.training.fit import seed_step

_BEYOND = 2**30  # the steps of no run: rows of val are none that a memory has seen
_log = logging.getLogger(__name__)


def val_metrics(evaluators: Mapping[str, Evaluator], training: Training, val: Dataset) -> dict[str, float]:
    """What evaluators measure on val, as `val.evaluator.metric`, the same on every rank; nothing without labels.

    Raises:
        Exception: on every rank, where one fails.
    """
    return distributed.on_every_rank(lambda: _val_metrics(evaluators, training, val)) if has_labels(val) else {}


def _val_metrics(evaluators: Mapping[str, Evaluator], training: Training, val: Dataset) -> dict[str, float]:
    with evaluating(training.method) as encode:
        embedded = embed_splits(encode, *sides_of(val), embedding_settings(training))
    sides = embedded.rows(training.settings.output)
    # What is chosen by these numbers has to be chosen alike on every rank.
    numbers = distributed.broadcast_object(score_values(run_evaluators(evaluators, *sides)))
    return {f"val.{name}.{metric}": value for name, part in numbers.items() for metric, value in part.items()}


class ValLoss:
    """Measures it as often as val is evaluated, as far as it can be had.

    Attributes:
        reason: why it cannot be had; None where it can.
    """

    def __init__(self, recipe: Recipe, training: Training, splits: Splits) -> None:
        self.reason = why_no_loss(recipe, splits, training.method)
        self._training, self._val = training, splits.val

    def measure(self) -> dict[str, float]:
        """The loss as `val.loss`, the same on every rank; nothing where it cannot be had, which is said once."""
        if self.reason is not None:
            return {}
        missing: dict[str, str] = {}
        value = measured_beside(missing, "val.loss", lambda: val_loss(self._training, self._val))
        if value is None:
            self.reason = missing["val.loss"]
            _log.warning("val.loss cannot be had: %s", self.reason)
            return {}
        return {"val.loss": distributed.broadcast_object(value)}


def val_loss(training: Training, val: Dataset) -> float:
    """The loss of the run on all of val, in evaluation mode; nothing of the run is changed.

    The images are seen by the views of training, with the same random draws each time. A loss over pairs holds all of
    val against itself, tile by tile, or against the learned rows of classes; a memory of earlier embeddings has no
    part, as it would change the loss while it fills. Any other loss, and a method whose outputs are more than rows, is
    averaged over batches of the training's size, of several images of as many classes as fit.

    Raises:
        DataError: where no image has a positive.
    """
    method: Any = training.method
    loss, collected, total = getattr(method, "loss", None), list[Rows](), 0.0
    whole = getattr(loss, "pairwise", False) or hasattr(loss, "terms")
    with evaluating(training.method), torch.no_grad():
        for rank_batch in _batches(training, val):
            local = _outputs(training, rank_batch)
            if isinstance(local, Rows) and whole:
                collected.append(local)
                continue
            seed_step(training.settings.seed, rank_batch.batch.step)
            world = distributed.gather(local)
            if isinstance(local, Rows) and loss is not None:
                value = apply_loss(loss, local, world, class_rows(method), miner=getattr(method, "miner", None))
            else:
                value = method.objective(local, world).loss
            count = distributed.total(torch.tensor(float(len(rank_batch))))
            total += float(distributed.mean(value)) * float(count) / len(val.labels)
        return total if not collected else _of_rows(method, concatenate(collected))


def _of_rows(method: Any, local: Rows) -> float:
    world = distributed.gather(local)
    centres = class_rows(method)
    references = world if centres is None else centres
    by_item = any(part.labels == "item" for part in parts_of(method.loss).values())
    if not by_item and not bool((count_positives(world, references) > 0).any()):
        raise DataError("no image of val has another one that is alike to it")
    miner = getattr(method, "miner", None)
    return float(distributed.mean(apply_loss(method.loss, local, world, references, miner=miner)))


def _batches(training: Training, val: Dataset) -> Iterator[RankBatch]:
    """All of val, in batches of about the training's size."""
    assert training.sampler is not None
    order = _InOrder(val.labels, training.sampler, training.settings.seed)
    epoch = _BEYOND // order.steps
    held = with_features(replace(training, data=val, sampler=order, steps=(epoch + 1) * order.steps))
    yield from batches(held, epoch * order.steps)


class _InOrder:
    """All items once: some of each class, the classes in random order, then some more of each."""

    def __init__(self, labels: Int64[np.ndarray, "n"], of_training: Sampler, seed: int) -> None:
        count, ranks = len(labels), distributed.world_size()
        # A batch has at least an item for each rank.
        self.steps = max(1, min(-(-count // of_training.batch_size), count // ranks))
        self.batch_size = -(-count // self.steps)
        random = np.random.default_rng(seed)
        _, place = np.unique(labels, return_inverse=True)
        classes = int(place.max()) + 1
        by_class = np.lexsort((random.random(count), place))
        nth = np.empty(count, dtype=np.int64)
        nth[by_class] = np.arange(count) - np.searchsorted(place[by_class], place[by_class])
        in_a_row = max(2, self.batch_size // classes)  # of a class
        self._order = np.lexsort((nth, random.permutation(classes)[place], nth // in_a_row))

    def epoch(self, seed: int, /) -> list[np.ndarray]:
        return np.array_split(self._order, self.steps)


def _outputs(training: Training, rank_batch: RankBatch) -> Any:
    """What the method makes of this rank's images, of items behind those of the training split."""
    method: Any = training.method
    seed_step(training.settings.seed, rank_batch.batch.step)
    parts = []
    size, own = training.settings.evaluation_batch_size, len(rank_batch)
    # As many on every rank, as they may meet in the method; none of them empty where there are images enough.
    count = max(1, -(-rank_batch.largest // size))
    edges = [*(max(0, min(i * size, own - count + i)) for i in range(count)), own]
    for start, stop in pairwise(edges):
        part = rank_batch.part(start, stop)
        part = replace(part, items=part.items + len(training.data.labels))
        with precision(training.settings.precision, training.device):
            parts.append(method(part))
    return parts[0] if len(parts) == 1 else joined(parts)
