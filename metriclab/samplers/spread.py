"""Items of a class dealt out to its batches, so that those of one source meet as rarely as they can."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64


def spread_order(
    of_class: Int64[np.ndarray, "n"],
    source: Int64[np.ndarray, "n"],
    parts: Int64[np.ndarray, "c"],
    size: int,
    bits: np.random.Philox,
) -> Int64[np.ndarray, "n"]:
    """An order of items, class by class, in which the parts of a class have as many sources as they can.

    Items are dealt out to the parts of their class source by source, as cards are: a source with no more items than
    there are parts gives none of them two. What no part has room for stands behind them, and is of sources with more
    items than that first. All else is left to chance.

    Args:
        of_class: of each item, in their order: from 0 on, without a gap.
        source: of each item; each has items of one class.
        parts: of each class, one or more.
        size: of a part.
        bits: random ones.
    """
    count, place = len(of_class), np.arange(len(of_class))
    sources, source = np.unique(source, return_inverse=True)
    order = np.lexsort((bits.random_raw(count), source, bits.random_raw(len(sources))[source], of_class))
    source, sizes = source[order], np.bincount(of_class)
    starts, begins = np.cumsum(sizes) - sizes, np.flatnonzero(np.diff(source, prepend=-1))
    fits = place - np.repeat(begins, np.diff(begins, append=count)) < parts[of_class]
    left_out = np.lexsort((bits.random_raw(count), fits, of_class))
    dealt = np.empty(count, dtype=np.bool_)
    dealt[left_out] = place - starts[of_class] >= (sizes - parts * size)[of_class]
    # The first goes to any part, so that each item is as likely as another to come into the first one.
    first = (bits.random_raw(len(parts)) % parts.astype(np.uint64)).astype(np.int64)[of_class]
    turn, part = np.divmod(_numbers(dealt, starts, of_class) + first, parts[of_class])
    target = np.where(dealt, part * size + turn - (part < first), parts[of_class] * size)
    target += np.where(dealt, 0, _numbers(~dealt, starts, of_class))
    made = np.empty(count, dtype=np.int64)
    made[starts[of_class] + target] = order
    return made


def _numbers(
    chosen: Bool[np.ndarray, "n"], starts: Int64[np.ndarray, "c"], of_class: Int64[np.ndarray, "n"]
) -> Int64[np.ndarray, "n"]:
    """Of each chosen item how many of its class are chosen before it."""
    before = np.cumsum(chosen) - chosen
    numbers: Int64[np.ndarray, "n"] = before - before[starts][of_class]
    return numbers
