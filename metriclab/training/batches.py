"""The batches of a run: which items, in which order, seen how. A pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.assembly.splits import groups_of
from metriclab.core.batch import Batch, Images
from metriclab.core.protocols import Dataset, Sampler, Views
from metriclab.core.random import RandomKeys
from metriclab.training.sampler_embeddings import embed_items

_AHEAD = 2

NEARLY_ALL = 0.9
"""A smaller share of the training images in an epoch is worth a word; a last batch alone leaves out fewer."""


@dataclass(frozen=True, slots=True)
class RankBatch:
    """This rank's slice of one global batch, read and not yet seen by any view.

    Attributes:
        batch: who the images are, with their features where the method trains on those; it has no views.
        largest: the longest slice that any rank has of this global batch.
    """

    batch: Batch
    largest: int
    images: Images | None
    random_keys: RandomKeys
    views: Views
    channels_last: bool

    def __len__(self) -> int:
        return len(self.batch)

    def part(self, start: int, stop: int) -> Batch:
        """Images start..stop with their views, which are the same in any cut and whenever they are made."""
        batch = self.batch.slice(start, stop)
        if self.images is None:
            return batch
        views = self.views(self.images[start:stop], self.random_keys[start:stop])
        if self.channels_last:
            views = tuple(view.contiguous(memory_format=torch.channels_last) for view in views)
        return replace(batch, views=views)


def batches(training: Training, start: int) -> Iterator[RankBatch]:
    """This rank's slices of the global batches from step `start` on; images are read ahead in a thread.

    On every rank the same items are drawn with the same augmentation as in one process. Where the training has the
    features of all items, no image is read.
    """
    sampler: Any = training.sampler
    while start < training.steps:
        epoch, done = divmod(start, sampler.steps)
        if done == 0 and _needs_embeddings(sampler, epoch):
            sampler.use_embeddings(embed_items(training))
        # None is drawn ahead that depends on steps still to come.
        later = range(epoch + 1, -(-training.steps // sampler.steps))
        embedded_before = next((one for one in later if _needs_embeddings(sampler, one)), later.stop)
        stop = min(embedded_before * sampler.steps, training.steps)
        yield from _batches(training, start, stop)
        start = stop


def _needs_embeddings(sampler: Any, epoch: int) -> bool:
    return hasattr(sampler, "needs_embeddings") and sampler.needs_embeddings(epoch)


def _batches(training: Training, start: int, stop: int) -> Iterator[RankBatch]:
    labels, device = torch.from_numpy(training.data.labels), training.device
    for slice_, images in _with_images(training, _slices(training, start, stop)):
        items, drawn = (torch.from_numpy(part) for part in (slice_.items, slice_.repeats))
        on_device, positions = items.to(device), torch.arange(slice_.start, slice_.start + len(items))
        features = None if training.features is None else training.features[on_device]
        also = (
            None if of is None else torch.from_numpy(of[slice_.items]).to(device) for of in groups_of(training.data)
        )
        batch = Batch((), labels[items].to(device), on_device, positions.to(device), slice_.step, features, *also)
        random_keys = RandomKeys(training.settings.seed, slice_.epoch, on_device, drawn.to(device))
        yield RankBatch(batch, slice_.largest, images, random_keys, training.views, training.settings.channels_last)


def _with_images(training: Training, slices: Iterator[_Slice]) -> Iterator[tuple[_Slice, Images | None]]:
    if training.features is not None:
        yield from ((slice_, None) for slice_ in slices)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="metriclab-read") as reader:
        for slice_, read in _read_ahead(reader, training.data, slices):
            yield slice_, _to_device(read.result(), training.device)


class _Slice:
    """This rank's part of one global batch, before any image is read."""

    __slots__ = ("epoch", "items", "largest", "repeats", "start", "step")

    def __init__(self, step: int, epoch: int, start: int, items: np.ndarray, repeats: np.ndarray, largest: int) -> None:
        self.step, self.epoch, self.start = step, epoch, start
        self.items, self.repeats, self.largest = items, repeats, largest


def _slices(training: Training, start: int, stop: int) -> Iterator[_Slice]:
    sampler: Any = training.sampler
    step, ranks = start, distributed.world_size()
    while step < stop:
        epoch, skipped = divmod(step, sampler.steps)
        steps = range(step, min(step + sampler.steps - skipped, stop))
        order = epoch_order(sampler, len(training.data.labels), training.settings.seed, epoch)
        for step, (items, repeats) in zip(steps, islice(order, skipped, skipped + len(steps)), strict=True):
            part = distributed.rank_slice(len(items), distributed.rank(), ranks)
            yield _Slice(step, epoch, part.start, items[part], repeats[part], -(-len(items) // ranks))
        step += 1


def epoch_order(sampler: Sampler, count: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The global batches of an epoch of so many items: which, and how often each had been drawn before in the epoch."""
    before = np.zeros(count, dtype=np.int32)
    for batch in sampler.epoch(_seed_of_epoch(seed, epoch)):
        items = np.asarray(batch, dtype=np.int64)
        ordered, by_item = np.sort(items), np.argsort(items, kind="stable")
        repeats = before[items].astype(np.int64)
        repeats[by_item] += np.arange(len(items)) - np.searchsorted(ordered, ordered)
        before[items] = repeats + 1  # of an item that comes twice, the last counts
        yield items, repeats


def _seed_of_epoch(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def coverage(training: Training) -> str | None:
    """What the first epoch draws, in words; None where it draws every class and nearly all images."""
    sampler, labels = training.sampler, training.data.labels
    if sampler is None:
        return None
    count: Callable[[int], tuple[int, int]] = getattr(sampler, "coverage", partial(_count_drawn, sampler, labels))
    images, classes = count(_seed_of_epoch(training.settings.seed, 0))
    of_all = _count_classes(labels)
    if classes == of_all and images >= NEARLY_ALL * len(labels):
        return None
    return f"an epoch draws {images:,} of {len(labels):,} training images, of {classes:,} of {of_all:,} classes"


def _count_drawn(sampler: Sampler, labels: np.ndarray, seed: int) -> tuple[int, int]:
    drawn = np.zeros(len(labels), dtype=bool)
    for items in sampler.epoch(seed):
        drawn[items] = True
    return int(np.count_nonzero(drawn)), _count_classes(labels[drawn])


def _count_classes(labels: np.ndarray) -> int:
    return len(np.unique(labels[labels >= 0]))


def _read_ahead(
    reader: ThreadPoolExecutor, data: Dataset, slices: Iterator[_Slice]
) -> Iterator[tuple[_Slice, Future[Images]]]:
    waiting: list[tuple[_Slice, Future[Images]]] = []
    for slice_ in slices:
        waiting.append((slice_, reader.submit(data.images, slice_.items)))
        if len(waiting) > _AHEAD:
            yield waiting.pop(0)
    yield from waiting


def _to_device(images: Images, device: torch.device) -> Images:
    if device.type == "cuda":
        images = Images(images.pixels.pin_memory(), images.sizes.pin_memory())
    return images.to(device)
