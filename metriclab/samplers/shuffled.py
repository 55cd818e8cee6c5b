"""Every item in turn, whatever its class."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Int64

from metriclab.core.settings import keep_settings, repr_settings
from metriclab.errors import RecipeError
from metriclab.registry import register
from metriclab.samplers.bits import bits_of, shuffle


@register("sampler", "shuffled")
class Shuffled:
    """Every item once an epoch, in random order.

    Args:
        labels: one an item; only their number matters here.
        batch_size: rows of a global batch, over all ranks.
        window: items that are drawn before any other, neighbours in the data set; the windows come in random order. So
            data on a slow disk or in `shards` are read in long stretches, and a batch is of one window or two. By
            default all items are one window.
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
        window: Annotated[int, Ge(1)] | None = None,
        drop_last: bool = True,
    ) -> None:
        keep_settings(self, locals())
        items = len(labels)
        if batch_size > items:
            raise RecipeError(
                f"sampler.batch_size = {batch_size} is larger than the data set of {items} items",
                help=f"set sampler.batch_size to {items} or less" if items else "the training split has to have items",
            )
        self.items, self.window = items, window or items
        self.batch_size = batch_size
        full, rest = divmod(items, batch_size)
        self.steps = full if drop_last or rest < 2 else full + 1

    def epoch(self, seed: int, /) -> list[Int64[np.ndarray, "_rows"]]:
        """The global batches of one epoch, a pure function of the seed."""
        bits = bits_of(seed)
        windows = -(-self.items // self.window)
        starts = (shuffle(windows, bits) * self.window).tolist() if windows > 1 else [0]
        order = np.concatenate([start + shuffle(min(self.window, self.items - start), bits) for start in starts])
        return [order[step * self.batch_size : (step + 1) * self.batch_size] for step in range(self.steps)]
