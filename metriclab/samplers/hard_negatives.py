"""Batches of classes that are hard to tell apart, found over the whole data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from jaxtyping import Float, Int64
from torch import Tensor, nn

from metriclab.core.rows import Rows, rows
from metriclab.core.settings import show_settings
from metriclab.errors import RecipeError
from metriclab.ranking.neighbours import nearest_rows
from metriclab.registry import register
from metriclab.samplers.bits import bits_of
from metriclab.samplers.classes import ItemsByClass, Small, choose_groups, deal, most_batches

_PART = 2**16  # rows that are added to the centres at a time


@register("sampler", "hard-negatives")
class HardNegatives(nn.Module):
    """Batches of classes that lie near each other: each that is drawn with those nearest to it.

    Of the P classes of a batch, P / (near + 1) are drawn so that a class comes the more often, the more groups of
    `per_class` items it has. Each brings along the `near` classes nearest to it that the batch does not have yet. An
    epoch has as many batches as one of `balanced`, and of a class that comes more often than it has groups the items
    come again.

    Near is what has a high cosine between centres, the means of the unit embeddings of all training images of a class;
    the search is exact. The embeddings are the head's, of this run before its first step and whenever `every` epochs
    are over, or those of `source`. What was found is saved with checkpoints. The time of a search grows with the
    square of the number of classes.

    Paper: Smirnov et al., Doppelganger Mining for Face Representation Learning, ICCV Workshops 2017, where `near` is 1
    and the nearest class is that of the hardest examples.

    Args:
        labels: one an item, negative for unknown.
        classes_per_batch: different classes in a global batch, over all ranks; a multiple of near + 1.
        per_class: items of each of them.
        near: classes that each one drawn brings along.
        every: epochs after which this run's own embeddings say anew what is near; never if left out.
        source: says what is near at the start: the folder of an earlier run, whose encoder then embeds the training
            images, or a file of embeddings, a row for each training image in their order, or with the paths that
            `metriclab embed` writes.
        small: what becomes of a class with fewer items than `per_class`: it is left out (skip), its items come several
            times (repeat), or the run is refused (error).

    Raises:
        RecipeError: where there are too few classes for a batch, `near` does not fit it, or nothing says what is near.
    """

    extra_repr = show_settings
    neighbours: Tensor

    def __init__(
        self,
        labels: Int64[np.ndarray, "n"],
        /,
        *,
        classes_per_batch: Annotated[int, Ge(2)],
        per_class: Annotated[int, Ge(1)],
        near: Annotated[int, Ge(1)] = 1,
        every: Annotated[int, Ge(1)] | None = None,
        source: str | None = None,
        small: Small = "skip",
    ) -> None:
        super().__init__()
        _check(classes_per_batch, near, every, source)
        self.classes_per_batch, self.per_class, self.near = classes_per_batch, per_class, near
        self.every, self.source, self.small = every, source, small
        self.items = ItemsByClass(labels, per_class, small)
        self.items.require_classes(classes_per_batch)
        self.batch_size = classes_per_batch * per_class
        self.steps = most_batches(self.items.groups, classes_per_batch)
        self.drawn = np.flatnonzero(self.items.groups)
        # Until something says what is near: the next ones. So many that the last of a batch still finds another one.
        following = np.arange(len(self.drawn))[:, None] + np.arange(1, classes_per_batch)
        self.register_buffer("neighbours", torch.from_numpy((following % len(self.drawn)).astype(np.int32)))

    def epoch(self, seed: int, /) -> Iterator[Int64[np.ndarray, "{self.batch_size}"]]:
        """The global batches of one epoch, a pure function of the seed and of what is near."""
        bits = bits_of(seed)
        groups = choose_groups(
            self.items.groups[self.drawn], self.steps, self.classes_per_batch // (self.near + 1), bits
        )
        neighbours = self.neighbours.numpy()
        batches = (self.drawn[_with_near(some, neighbours, self.near)] for some in deal(groups, self.steps, bits))
        yield from self.items.drawn(batches, bits)

    def needs_embeddings(self, epoch: int) -> bool:
        """Whether what is near is to be found anew before this epoch, by the run's own embeddings."""
        return self.every is not None and epoch % self.every == 0 and (epoch > 0 or self.source is None)

    @torch.no_grad()
    def use_embeddings(self, z: Float[Tensor, "n d"]) -> None:
        """Finds which classes are near.

        Args:
            z: unit embeddings of all items in their order; the same ones give the same on every rank.

        Raises:
            DivergedError: where one is not finite.
        """
        centres = self._centres(z.cpu())
        count, k = len(centres), self.neighbours.shape[1]
        everything = torch.arange(count)
        found = self.neighbours.clone()
        for queries, columns, keys in nearest_rows(
            centres, centres, everything, k, torch.ones(count, dtype=torch.bool)
        ):
            # Equally near ones in their order.
            best = (keys.long() * 2**32 + columns).topk(k, dim=1, largest=False, sorted=True).values
            found[queries] = (best % 2**32).int()
        self.neighbours = found

    def _centres(self, z: Float[Tensor, "n d"]) -> Rows:
        """The mean row of each class that is drawn, normalised."""
        items, sizes = torch.from_numpy(self.items.items), torch.from_numpy(self.items.sizes)
        classes = torch.arange(len(sizes)).repeat_interleave(sizes)
        total = torch.zeros(len(sizes), z.shape[1], dtype=torch.float64)
        for place, of_class in zip(torch.split(items, _PART), torch.split(classes, _PART), strict=True):
            total.index_add_(0, of_class, z[place].double())
        drawn = torch.from_numpy(self.drawn)
        return rows(total[drawn] / sizes[drawn, None], torch.arange(len(drawn)))


def _check(classes_per_batch: int, near: int, every: int | None, source: str | None) -> None:
    if classes_per_batch % (near + 1):
        raise RecipeError(
            f"sampler.classes_per_batch = {classes_per_batch} is no multiple of sampler.near + 1 = {near + 1}",
            help=f"set it to {classes_per_batch + -classes_per_batch % (near + 1)}, or another sampler.near",
        )
    if every is None and source is None:
        raise RecipeError(
            "sampler 'hard-negatives' is not told by which embeddings classes are near each other",
            help="set sampler.every to a number of epochs, or sampler.source to an earlier run or a file of embeddings",
        )


def _with_near(classes: Int64[np.ndarray, "c"], neighbours: np.ndarray, near: int) -> Int64[np.ndarray, "_classes"]:
    """The classes, each with its nearest that none before it has."""
    taken = set(classes.tolist())
    chosen = list[int]()
    for one in classes.tolist():
        chosen.append(one)
        brought = list(islice((other for other in neighbours[one].tolist() if other not in taken), near))
        taken.update(brought)
        chosen += brought
    return np.array(chosen, dtype=np.int64)
