"""The splits of a data set with every image read once, whatever cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Int64

from metriclab.audit.duplicates import ImageSignatures
from metriclab.core.protocols import Dataset, Split
from metriclab.errors import DataError
from metriclab.recipe import ComponentSpec

_BATCH = 64  # images in memory at a time

_log = logging.getLogger(__name__)


class Items(NamedTuple):
    """All images that can be read, of all splits: n of them.

    Attributes:
        signatures: see there.
        split: number of the split, in the order of `names`.
        labels: negative for unknown.
        names: of the images.
    """

    signatures: ImageSignatures
    split: Int64[np.ndarray, "n"]
    labels: Int64[np.ndarray, "n"]
    names: list[str]


class OpenedSplits(NamedTuple):
    """A data set as far as it can be opened.

    Attributes:
        splits: by name.
        unreadable: why each file, or image, cannot be read.
        refused: why each of the other splits cannot be opened.
    """

    splits: dict[str, Dataset]
    unreadable: dict[str, str]
    refused: dict[str, str]


def open_splits(chosen: ComponentSpec) -> OpenedSplits:
    """The splits, without unreadable files if the data set can do without them.

    Raises:
        DataError: where there is another reason.
    """
    opened = OpenedSplits({}, {}, {})
    attempts: list[Callable[[Split], Any]] = [chosen.build]
    if "on_error" in chosen.params:  # as data sets call it that can leave files out
        choices = ({**chosen.params, "on_error": choice} for choice in ("error", "skip"))
        attempts = [replace(chosen, params=params).build for params in choices]
    for name in get_args(Split):
        # Where one split was refused for its files, they are known: those of all splits are decoded together.
        for attempt in attempts[-1:] if opened.unreadable else attempts:
            try:
                opened.splits[name] = data = attempt(name)
                opened.refused.pop(name, None)
                attempts = [data.with_split] if hasattr(data, "with_split") else attempts
                break
            except DataError as error:
                if not (error.files or opened.unreadable):
                    raise
                opened.unreadable.update(error.files)
                opened.refused[name] = "it needs all of its files" if error.files else error.message
    return opened


def read_items(splits: Mapping[str, Dataset], problems: dict[str, str]) -> Items:
    """Every image once; why some cannot be read goes into `problems`.

    Raises:
        DataError: if there is none.
    """
    total = sum(len(data.labels) for data in splits.values())
    signatures: ImageSignatures | None = None
    there, start = np.zeros(total, dtype=bool), 0
    for name, data in splits.items():
        _log.info("reading %d images of %s", len(data.labels), name)
        for items, part in _sign_batches(data, problems):
            signatures = ImageSignatures.empty(total, part) if signatures is None else signatures
            signatures.put(start + items, part)
            there[start + items] = True
        start += len(data.labels)
    if signatures is None:
        raise DataError("no image of the data set can be read")
    split = np.repeat(np.arange(len(splits)), [len(data.labels) for data in splits.values()])
    labels = np.concatenate([data.labels for data in splits.values()])
    names = [data.names[item] for data in splits.values() for item in range(len(data.labels))]
    if there.all():
        return Items(signatures, split, labels, names)
    return Items(signatures.only(there), split[there], labels[there], [names[item] for item in np.flatnonzero(there)])


def _sign_batches(data: Dataset, problems: dict[str, str]) -> Iterator[tuple[Int64[np.ndarray, "m"], ImageSignatures]]:
    for start in range(0, len(data.labels), _BATCH):
        items = np.arange(start, min(start + _BATCH, len(data.labels)))
        try:
            yield items, ImageSignatures.of(data.images(items))
        except DataError:
            for item in items:  # one by one, to know which
                try:
                    yield items[item - start : item - start + 1], ImageSignatures.of(data.images(np.array([item])))
                except DataError as error:
                    problems[data.names[int(item)]] = error.message
