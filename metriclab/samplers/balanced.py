"""Batches of classes, so that every item meets others of its class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from jaxtyping import Int64

from metriclab.core.settings import keep_settings, repr_settings
from metriclab.registry import register
from metriclab.samplers.bits import bits_of
from metriclab.samplers.classes import ItemsByClass, Small, choose_groups, deal, most_batches


@register("sampler", "balanced")
class Balanced:
    """Batches of so many classes with so many items each; an item at most once an epoch.

    In every epoch a class's items are put into groups of `per_class` at random; those that fill no group are left out,
    other ones in each epoch. An epoch has as many batches as can be made of groups of different classes, and a class
    comes the more often, the more groups it has. Unlabelled items are never drawn. Batches are made as they are asked
    for: the first of a million classes takes about a second, and each further one no longer than its own items do.

    Args:
        labels: one an item, negative for unknown.
        classes_per_batch: different classes in a global batch, over all ranks.
        per_class: items of each of them.
        across: "groups" for items of a class that come together to be of different groups of the data (cameras,
            sequences), as far as the class has them; by default whatever comes. Which classes have fewer is said.
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
        small: Small = "skip",
        across: Literal["groups"] | None = None,
    ) -> None:
        keep_settings(self, locals())
        self.across = across
        self.note: str | None = None
        self.items = ItemsByClass(labels, per_class, small)
        self.items.require_classes(classes_per_batch)
        self.classes_per_batch = classes_per_batch
        self.batch_size = classes_per_batch * per_class
        self.steps = most_batches(self.items.groups, classes_per_batch)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the data must have besides labels; `use_groups` is given it."""
        return () if self.across is None else (self.across,)

    def use_groups(self, groups: Int64[np.ndarray, "n"]) -> None:
        """Takes the groups of the items, negative for unknown, which is nobody else's."""
        count = self.items.spread(groups)
        few = np.flatnonzero((count < self.items.per_class) & (self.items.groups > 0))
        if len(few):
            drawn = np.count_nonzero(self.items.groups)
            self.note = (
                f"{len(few):,} of {drawn:,} classes that are drawn have items of fewer than sampler.per_class = "
                f"{self.items.per_class} groups, so some that come together are of one (the first has label "
                f"{self.items.labels[few[0]]} and {count[few[0]]})"
            )

    def epoch(self, seed: int, /) -> Iterator[Int64[np.ndarray, "{self.batch_size}"]]:
        """The global batches of one epoch, a pure function of the seed; the items of a class are neighbours."""
        bits = bits_of(seed)
        yield from self.items.drawn(deal(self._groups(bits), self.steps, bits), bits)

    def coverage(self, seed: int, /) -> tuple[int, int]:
        """How many items, and of how many classes, the epoch draws."""
        groups = self._groups(bits_of(seed))
        items = np.minimum(groups * self.items.per_class, self.items.sizes)
        return int(items.sum()), int(np.count_nonzero(groups))

    def _groups(self, bits: np.random.Philox) -> Int64[np.ndarray, "c"]:
        """How many groups of each class the epoch draws."""
        return choose_groups(self.items.groups, self.steps, self.classes_per_batch, bits)
