"""Samplers: the order in which a run sees its items."""

from __future__ import annotations

from typing import Annotated, Literal, NoReturn

import numpy as np
from annotated_types import Ge
from jaxtyping import Int64

from metriclab.core.settings import keep_settings, repr_settings
from metriclab.errors import RecipeError
from metriclab.registry import register

__all__ = ["Balanced", "Shuffled"]

_FEW_CHOICES = 2**24
"""Classes times batches of an epoch up to which batches are drawn one after the other, in about half a second."""


@register("sampler", "shuffled")
class Shuffled:
    """Every item once an epoch, in random order.

    Args:
        labels: one an item; only their number matters here.
        batch_size: rows of a global batch, over all ranks.
        drop_last: leave out the items that do not fill a last batch (other ones in each epoch). Otherwise they come as
            a short batch; a single item left over is left out all the same, as it has nothing to be compared with.

    Raises:
        RecipeError: for a batch larger than the data set.
    """

    __repr__ = repr_settings

    def __init__(
        self,
        labels: Int64[np.ndarray, "n"],
        /,
        *,
        batch_size: Annotated[int, Ge(1)] = 256,
        drop_last: bool = True,
    ) -> None:
        keep_settings(self, locals())
        items = len(labels)
        if batch_size > items:
            raise RecipeError(
                f"sampler.batch_size = {batch_size} is larger than the data set of {items} items",
                help=f"set sampler.batch_size to {items} or less" if items else "the training split has to have items",
            )
        self.items = items
        self.batch_size = batch_size
        full, rest = divmod(items, batch_size)
        self.steps = full if drop_last or rest < 2 else full + 1

    def epoch(self, seed: int, /) -> list[Int64[np.ndarray, "_rows"]]:
        """The global batches of one epoch, a pure function of the seed."""
        order = _shuffle(self.items, _bits(seed))
        return [order[step * self.batch_size : (step + 1) * self.batch_size] for step in range(self.steps)]


@register("sampler", "balanced")
class Balanced:
    """Batches of so many classes with so many items each; an item at most once an epoch.

    In every epoch a class's items are put into groups of `per_class` at random; those that fill no group are left out,
    other ones in each epoch. An epoch has as many batches as can be made of groups of different classes, and a class
    comes the more often, the more groups it has. Unlabelled items are never drawn.

    Args:
        labels: one an item, negative for unknown.
        classes_per_batch: different classes in a global batch, over all ranks.
        per_class: items of each of them.
        small: what becomes of a class with fewer items than `per_class`: it is left out (skip), its items come several
            times in its one group, so that an image meets itself (repeat), or the run is refused (error).

    Raises:
        RecipeError: where there are too few classes for a batch, and for a small class with `small = "error"`.
    """

    __repr__ = repr_settings

    def __init__(
        self,
        labels: Int64[np.ndarray, "n"],
        /,
        *,
        classes_per_batch: Annotated[int, Ge(1)],
        per_class: Annotated[int, Ge(1)],
        small: Literal["skip", "repeat", "error"] = "skip",
    ) -> None:
        keep_settings(self, locals())
        known = np.flatnonzero(labels >= 0)
        classes, of_known, self.sizes = np.unique(labels[known], return_inverse=True, return_counts=True)
        by_class = np.argsort(of_known, kind="stable")
        self.items, self.class_of_item = known[by_class], of_known[by_class]
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.groups = np.maximum(self.sizes // per_class, int(small == "repeat"))
        self.classes_per_batch, self.per_class = classes_per_batch, per_class
        self.batch_size = classes_per_batch * per_class
        if small == "error" and not self.groups.all():
            _refuse_small(classes[self.groups == 0], self.sizes[self.groups == 0], per_class)
        self._check_classes(len(classes))
        self.steps = _most_batches(self.groups, classes_per_batch)

    def epoch(self, seed: int, /) -> list[Int64[np.ndarray, "{self.batch_size}"]]:
        """The global batches of one epoch, a pure function of the seed; the items of a class are neighbours."""
        bits = _bits(seed)
        items = self.items[np.lexsort((bits.random_raw(len(self.items)), self.class_of_item))]
        left = self._groups_drawn(bits)
        # Drawing batch after batch looks at all classes each time. What it gives in small is what runs have recorded.
        table = _draw if len(left) * self.steps <= _FEW_CHOICES else _deal
        classes = table(left, self.steps, self.classes_per_batch, bits).reshape(-1)
        by_class = np.argsort(classes, kind="stable")
        ordered = classes[by_class]
        drawn = np.empty_like(classes)  # how many groups of the class came before in the epoch
        drawn[by_class] = np.arange(len(classes)) - np.searchsorted(ordered, ordered)
        places = drawn[:, None] * self.per_class + np.arange(self.per_class)
        # The remainder does something for small classes alone, whose items come again.
        epoch = items[self.starts[classes, None] + places % self.sizes[classes, None]]
        return list(epoch.reshape(self.steps, self.batch_size))

    def _groups_drawn(self, bits: np.random.Philox) -> Int64[np.ndarray, "c"]:
        """How many groups of each class the epoch draws: of all that can be drawn, a random choice that fills it."""
        groups = np.repeat(np.arange(len(self.groups)), np.minimum(self.groups, self.steps))
        chosen = groups[_shuffle(len(groups), bits)[: self.steps * self.classes_per_batch]]
        return np.bincount(chosen, minlength=len(self.groups)).astype(np.int64)

    def _check_classes(self, classes: int) -> None:
        enough = int((self.groups > 0).sum())
        if enough >= self.classes_per_batch:
            return
        message = f"sampler.classes_per_batch = {self.classes_per_batch} is more than the {enough} classes "
        message += f"that can be drawn from (sampler.per_class = {self.per_class})"
        if not classes:
            raise RecipeError(message, help="the training split has to have labels; sampler 'shuffled' needs none")
        fewer = f"set sampler.classes_per_batch to {enough} or less" if enough else "set a smaller sampler.per_class"
        raise RecipeError(message, help=f"{fewer}; the training split has {classes} classes")


def _refuse_small(labels: np.ndarray, sizes: np.ndarray, per_class: int) -> NoReturn:
    raise RecipeError(
        f"{len(labels)} classes have fewer items than sampler.per_class = {per_class}, "
        f"the first the one of label {labels[0]} with {sizes[0]}",
        help='set a smaller sampler.per_class, or sampler.small to "skip" or "repeat"',
    )


def _most_batches(groups: Int64[np.ndarray, "c"], classes_per_batch: int) -> int:
    """The most batches of different classes that can be made: the largest T with sum of min(groups, T) >= P T."""
    low, high = 0, int(groups.sum()) // classes_per_batch
    while low < high:  # the sum less P T is concave in T and 0 at 0, so it changes its sign once
        middle = (low + high + 1) // 2
        enough = int(np.minimum(groups, middle).sum()) >= middle * classes_per_batch
        low, high = (middle, high) if enough else (low, middle - 1)
    return low


def _draw(
    left: Int64[np.ndarray, "c"], batches: int, count: int, bits: np.random.Philox
) -> Int64[np.ndarray, "{batches} {count}"]:
    """The classes of so many batches, different ones in each, every class as often as `left` says.

    Batch after batch, each class has probability left / batches to come (systematic sampling). A class that must be in
    every batch to come has probability 1, so that the last batch can still be filled.
    """
    left, drawn = left.copy(), np.empty((batches, count), dtype=np.int64)
    for batch in range(batches):
        order = _shuffle(len(left), bits)
        points = int(bits.random_raw()) % (batches - batch) + (batches - batch) * np.arange(count)
        drawn[batch] = order[np.searchsorted(np.cumsum(left[order]), points, side="right")]
        left[drawn[batch]] -= 1
    return drawn


def _deal(
    left: Int64[np.ndarray, "c"], batches: int, count: int, bits: np.random.Philox
) -> Int64[np.ndarray, "{batches} {count}"]:
    """The same in the time of a few sorts, by other draws.

    Dealt in turn, a class that comes in at most all of them meets no batch twice. Then batches meet two by two, and
    deal again what only one of them has, which leads to all such tables alike.

    Paper: Strona et al., A fast and unbiased procedure to randomize ecological binary matrices with fixed row and
    column totals, Nature Communications 5, 2014.
    """
    order = _shuffle(len(left), bits)
    dealt: np.ndarray = np.repeat(order, left[order]).reshape(count, batches).T[_shuffle(batches, bits)]
    # Where no class comes twice, the first deal is as good as any. Else after about as many meetings as it takes any
    # two batches to have heard of each other, and as many again.
    for _ in range(2 * batches.bit_length() if left.max() > 1 else 0):
        dealt = dealt[_shuffle(batches, bits)]
        pairs = np.sort(dealt[: batches - batches % 2].reshape(batches // 2, 2 * count), axis=1)
        keys = (bits.random_raw(pairs.size) >> np.uint64(2)).astype(np.int64).reshape(pairs.shape)
        both = pairs[:, 1:] == pairs[:, :-1]  # a class of both batches stays in both: first here, last there
        keys[:, :-1][both] = -1
        keys[:, 1:][both] = np.iinfo(np.int64).max
        pairs = np.take_along_axis(pairs, np.argsort(keys, axis=1, kind="stable"), axis=1)
        dealt[: 2 * len(pairs)] = pairs.reshape(2 * len(pairs), count)
    return dealt


def _bits(seed: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence(seed % 2**64))


def _shuffle(count: int, bits: np.random.Philox) -> Int64[np.ndarray, "{count}"]:
    # Sorting raw bits: numpy keeps those of Philox for ever, but not what its generators make of them.
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)
