"""Samplers: the order in which a run sees its items."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Int64

from metriclab.core.errors import RecipeError
from metriclab.registry import register


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

    def __init__(
        self,
        labels: Int64[np.ndarray, "n"],
        /,
        *,
        batch_size: Annotated[int, Ge(1)] = 256,
        drop_last: bool = True,
    ) -> None:
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
        # Sorting raw bits: numpy keeps those of Philox for ever, but not what its generators make of them.
        bits = np.random.Philox(np.random.SeedSequence(seed % 2**64)).random_raw(self.items)
        order = np.argsort(bits, kind="stable").astype(np.int64)
        return [order[step * self.batch_size : (step + 1) * self.batch_size] for step in range(self.steps)]


def rank_slice(rows: int, rank: int, world: int) -> slice:
    """The part of a global batch that one rank takes: neighbouring rows, equal numbers to within one, never none.

    Args:
        rows: of the global batch.
        rank: index of the process.
        world: number of processes.

    Raises:
        RecipeError: where there are fewer rows than ranks.
    """
    assert 0 <= rank < world
    if rows < world:
        raise RecipeError(
            f"a batch of {rows} rows cannot be divided among {world} processes",
            help="set a larger sampler.batch_size (and sampler.drop_last = true), or start fewer processes",
        )
    return slice(rows * rank // world, rows * (rank + 1) // world)
