"""What samplers of classes share: the items of each class in groups, and the classes of each batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Int64

from metriclab.errors import RecipeError
from metriclab.samplers.bits import shuffle
from metriclab.samplers.spread import spread_order

Small = Literal["skip", "repeat", "error"]
"""What becomes of classes with too few items."""


class ItemsByClass:
    """The items of each class, to be drawn in groups.

    Args:
        labels: one an item, negative for unknown.
        per_class: items of a group.
        small: what becomes of a class with fewer: it has no group (skip), one in which its items come several times
            (repeat), or is refused (error).

    Attributes:
        labels: of the classes, sorted.
        sizes: how many items each class has.
        groups: how many groups of different items each class has.

    Raises:
        RecipeError: for a small class with `small = "error"`.
    """

    def __init__(self, labels: Int64[np.ndarray, "n"], per_class: int, small: Small) -> None:
        by_label = np.argsort(labels, kind="stable")
        self.items = by_label[int(np.count_nonzero(labels < 0)) :]
        ordered = labels[self.items]
        self.starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        self.labels, self.sizes = ordered[self.starts], np.diff(self.starts, append=len(ordered))
        self.per_class = per_class
        self._sources: Int64[np.ndarray, "m"] | None = None
        self.groups = np.maximum(self.sizes // per_class, int(small == "repeat"))
        few = self.groups == 0
        if small == "error" and few.any():
            raise RecipeError(
                f"{few.sum()} classes have fewer items than sampler.per_class = {per_class}, "
                f"the first the one of label {self.labels[few][0]} with {self.sizes[few][0]}",
                help='set a smaller sampler.per_class, or sampler.small to "skip" or "repeat"',
            )

    def spread(self, groups: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "c"]:
        """From now on a class's items that come together are of different groups, as far as it has them.

        Here groups are the data's, such as cameras, one an item; an item of a negative, unknown one is in no other's.

        Returns:
            How many groups each class has.
        """
        of_item = groups[self.items]
        of_item = np.where(of_item >= 0, of_item, groups.max() + 1 + np.arange(len(of_item)))
        classes = np.repeat(np.arange(len(self.sizes)), self.sizes)
        pairs, self._sources = np.unique(classes * (of_item.max() + 1) + of_item, return_inverse=True)
        return np.bincount(pairs // (of_item.max() + 1), minlength=len(self.sizes))

    def require_classes(self, classes_per_batch: int) -> None:
        """Raises a RecipeError unless so many classes have a group."""
        enough, classes = int(np.count_nonzero(self.groups)), len(self.labels)
        if enough >= classes_per_batch:
            return
        message = f"sampler.classes_per_batch = {classes_per_batch} is more than the {enough} classes "
        message += f"that can be drawn from (sampler.per_class = {self.per_class})"
        if not classes:
            raise RecipeError(message, help="the training split has to have labels; sampler 'shuffled' needs none")
        fewer = f"set sampler.classes_per_batch to {enough} or less" if enough else "set a smaller sampler.per_class"
        raise RecipeError(message, help=f"{fewer}; the training split has {classes} classes")

    def drawn(
        self, batches: Iterable[Int64[np.ndarray, "_classes"]], bits: np.random.Philox
    ) -> Iterator[Int64[np.ndarray, "_rows"]]:
        """A group of items for each class of each batch, class by class; other ones whenever a class comes again.

        A class's items are shuffled when it first comes. One that comes more often than it has groups begins again.
        """
        items, before = self.items.copy(), np.zeros(len(self.sizes), dtype=np.int64)
        for classes in batches:
            self._shuffle(items, classes[before[classes] == 0], bits)
            places = before[classes, None] * self.per_class + np.arange(self.per_class)
            before[classes] += 1
            yield items[self.starts[classes, None] + places % self.sizes[classes, None]].reshape(-1)

    def _shuffle(self, items: Int64[np.ndarray, "n"], classes: Int64[np.ndarray, "c"], bits: np.random.Philox) -> None:
        sizes = self.sizes[classes]
        of_class = np.repeat(np.arange(len(classes)), sizes)
        places = np.arange(len(of_class)) + np.repeat(self.starts[classes] - (np.cumsum(sizes) - sizes), sizes)
        if self._sources is None:
            items[places] = items[places[np.lexsort((bits.random_raw(len(of_class)), of_class))]]
        else:
            order = spread_order(of_class, self._sources[places], self.groups[classes], self.per_class, bits)
            items[places] = items[places[order]]


def most_batches(groups: Int64[np.ndarray, "c"], classes_per_batch: int) -> int:
    """The most batches of different classes that can be made: the largest T with sum of min(groups, T) >= P T."""
    low, high = 0, int(groups.sum()) // classes_per_batch
    while low < high:  # the sum less P T is concave in T and 0 at 0, so it changes its sign once
        middle = (low + high + 1) // 2
        enough = int(np.minimum(groups, middle).sum()) >= middle * classes_per_batch
        low, high = (middle, high) if enough else (low, middle - 1)
    return low


def choose_groups(
    groups: Int64[np.ndarray, "c"], batches: int, classes_per_batch: int, bits: np.random.Philox
) -> Int64[np.ndarray, "c"]:
    """How many groups of each class fill so many batches: of all that can be drawn, a random choice."""
    most = np.minimum(groups, batches)
    ends = np.cumsum(most)
    spare = int(ends[-1]) - batches * classes_per_batch
    left_out = np.argpartition(bits.random_raw(int(ends[-1])), spare)[:spare]
    less = np.bincount(np.searchsorted(ends, left_out, side="right"), minlength=len(groups))
    return most - less  # type: ignore[no-any-return]  # an array less another


def deal(left: Int64[np.ndarray, "c"], batches: int, bits: np.random.Philox) -> Iterator[Int64[np.ndarray, "_classes"]]:
    """The classes of so many batches: as many in each, all different, every class as often as `left` says.

    The batches are halved again and again, and each class divides its number between the halves: an odd one out goes
    to either, to as many classes each way as fill the half (systematic sampling in a random order). A class comes in no
    half more often than that has batches, so no batch has it twice. Whoever takes some batches pays for the halves on
    the way to them alone, which is in all the logarithm of the batches for each class of each.
    """
    classes = np.flatnonzero(left)
    halves = [(classes, left[classes], batches)]
    while halves:
        classes, left, batches = halves.pop()
        if batches == 1:
            yield classes
            continue
        order = shuffle(len(classes), bits)
        classes, left = classes[order], left[order]
        first = batches // 2
        share, rest = np.divmod(left * first, batches)
        ends = np.cumsum(rest) + int(bits.random_raw()) % batches  # all rests add up to a multiple of `batches`
        share += ends // batches - (ends - rest) // batches
        for part, count in ((left - share, batches - first), (share, first)):  # the last in comes out first
            some = part > 0
            halves.append((classes[some], part[some], count))
